"""lm-eval with our engine: a model named `harness` for lm-eval's command line and for `simple_evaluate`.

    lm_eval --model harness --model_args pretrained=DIR,peft=DIR,dtype=float32 --tasks mmlu

Arguments have the names and meanings that they have for `--model hf`, and in float32 so have the results, sample by
sample: log-likelihoods within 1e-4, the same greedy text. What would silently be different is refused. Four things
differ and are said here: log-softmax is always taken in float32; a batch size of 1, which is lm-eval's own default,
leaves the batch to the engine, because no answer depends on it; sampling draws from the whole distribution, where
transformers cuts it to 50 tokens; and an answer that cannot be had stops the run with the sample's name, since lm-eval
has no state for a failure.

lm-eval finds the name by the entry point of group `lm_eval.models` from its first version with plugins on, and in
0.4.13 by `promotion_harness_lmeval.py`. Importing this module registers it too, and `python -m harness.lmeval …` is
`lm_eval …` with the name known in any case.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lm_eval.models  # noqa: F401  # fills the registry, which lm-eval itself does only as long as it is empty
from lm_eval.api.model import LM, TemplateLM
from lm_eval.api.registry import model_registry
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import plugins
from harness.errors import ConfigError, SubjectError
from harness.records import Output
from harness.subjects import SubjectContext, _files, local
from harness.suites._capability.asking import request_of

_TARGET = "harness.lmeval:HarnessLM"
_logger = logging.getLogger("lm_eval.harness")

# Arguments of lm-eval's `hf` model that we do not have, with the values that ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "backend": ("default", "causal"), "subfolder": ("", None), "truncation": (False, None),
    "logits_cache": (True, False), "softmax_dtype": (None, "float32"), "mixed_precision_dtype": (None,),
    "use_fast_tokenizer": (True, None), "add_bos_token": (None,), "prefix_token_id": (None,),
    "parallelize": (False, None), "max_memory_per_gpu": (None,), "max_cpu_memory": (None,),
    "offload_folder": (None, "./offload"), "tp_plan": (None,), "delta": (None,), "autogptq": (False, None),
    "gptqmodel": (False, None), "gguf_file": (None,), "think_end_token": (None,),
}  # fmt: skip


class Arguments(BaseModel):
    """What `--model_args` may say."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    pretrained: str = Field(description="folder of the model, or a hub repository")
    peft: str | None = Field(None, description="folder of a PEFT adapter, or a hub repository")
    merge: bool = Field(False, description="fold the adapter into the weights")
    revision: str | None = Field(None, description="branch, tag or commit of a hub repository")
    tokenizer: str | None = Field(None, description="folder or hub repository of the tokenizer")
    chat_template: str | None = Field(None, description="file with a Jinja chat template")
    chat_template_args: dict[str, Any] = Field({}, description="given to the chat template")
    enable_thinking: Literal[False] | None = Field(None, description="given to the chat template")
    dtype: str = Field("auto", description="auto is what the checkpoint is stored in, as for lm-eval")
    device: str | None = Field(None, description="one that is not there becomes cuda or cpu, as for lm-eval")
    batch_size: int | str = Field(1, description="most rows of a batch; 1 and auto leave it to the engine")
    max_batch_size: int | None = Field(None, ge=1, description="most rows of a batch that the engine sizes")
    max_length: int | None = Field(None, ge=2, description="context in tokens")
    truncate: Literal["left", "refuse"] = Field("left", description="what becomes of a prompt that is too long")
    engine: str | None = Field(None, description="how requests are batched")
    engine_options: dict[str, Any] = Field({}, description="the engine's own options")
    trust_remote_code: bool | str = Field(False, description="the exact name of the model whose own code may run")
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: str = "fp4"
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_compute_dtype: str = "float32"


class HarnessLM(LM):  # type: ignore[misc]
    """lm-eval's model interface over a local subject."""

    def __init__(self, pretrained: Any, **arguments: Any) -> None:
        """Load the model as `--model_args` says.

        Raises:
            ConfigError: an argument is unknown, or asks for what we cannot do as lm-eval does it.
            SubjectError: the model cannot be loaded.
        """
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("--model harness runs in one process; start it without accelerate or torchrun")
        given = read_arguments({"pretrained": pretrained, **arguments})
        options = plugins.options("subjects", "local", subject_options(given), where="--model_args")
        assert isinstance(options, local.Options)  # noqa: S101
        self.subject = local.build(options, SubjectContext(Path.cwd()))
        self.tokenizer = self.subject.tokenizer
        thinking = {} if given.enable_thinking is None else {"enable_thinking": given.enable_thinking}
        self._template_arguments = {**given.chat_template_args, **thinking}
        self._told: set[str] = set()
        self.subject.remarks()  # builds the engine, so that a wrong option is an error before any task is read
        self._say_resized()

    chat_template = TemplateLM.chat_template

    @property
    def tokenizer_name(self) -> str:
        """The name under which lm-eval caches the requests that it builds with a chat template."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def eot_token_id(self) -> int | None:
        """The id of the end token, which lm-eval records."""
        found: int | None = self.tokenizer.eos_token_id
        return found

    @property
    def max_length(self) -> int:
        """The context in tokens."""
        return self.subject.causal.max_length

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """`chat_history` as text; without its system turns where the template refuses them, as lm-eval does."""
        from jinja2.exceptions import TemplateError

        try:
            return self._render(chat_history, add_generation_prompt)
        except TemplateError:
            self._say_once("the chat template refuses these turns; it is asked again without the system turns")
            return self._render([turn for turn in chat_history if turn["role"] != "system"], add_generation_prompt)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, is greedy) of each (context, continuation)."""
        return self._ask(requests, lambda o: (o.logprob, bool(o.is_greedy)), disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of each whole text."""
        return self._ask(requests, lambda o: o.logprob, disable_tqdm)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that continues each (context, gen_kwargs), up to the first stop string."""
        return self._ask(requests, lambda o: o.text, disable_tqdm)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results about the model, with what the engine has to tell."""
        described = self.subject.describe()
        return {
            "model_dtype": described["dtype"],
            "model_revision": described["revision"] or "main",
            "harness": {key: described[key] for key in ("fingerprint", "weights", "adapter", "engine", "versions")},
            "harness_usage": dict(getattr(self.subject, "usage", {})),
            "harness_remarks": list(self.subject.remarks()),
        }

    def _ask(self, instances: Sequence[Any], read: Callable[[Output], Any], disable_tqdm: bool) -> list[Any]:
        """The answers in the order of `instances`; each is put into lm-eval's cache as soon as it is there."""
        from tqdm import tqdm

        requests = self._requests(instances)
        answers: dict[int, Any] = {}
        cut = 0
        kind = instances[0].request_type if instances else ""
        with tqdm(total=len(requests), desc=f"Running {kind} requests", disable=disable_tqdm) as bar:
            for batch in self.subject.answer(requests) if requests else ():
                _refuse_failures([(instances[i], output) for i, output in batch if output.failure is not None])
                for index, output in batch:
                    answers[index] = read(output)
                    cut += output.truncated
                    self.cache_hook.add_partial(kind, instances[index].args, answers[index])
                bar.update(len(batch))
        unanswered = [_name(instance) for index, instance in enumerate(instances) if index not in answers]
        if unanswered:
            raise SubjectError(f"{unanswered[0]} and {len(unanswered) - 1} more requests got no answer")
        if cut and kind != "generate_until":  # a text is also marked where it was ended by its limit of tokens
            _logger.warning("%d requests were too long and lost their oldest tokens, as in lm-eval's own models", cut)
        return [answers[index] for index in range(len(instances))]

    def _requests(self, instances: Sequence[Any]) -> list[Any]:
        """lm-eval repeats an instance to ask it again; each repeat is sampled with a seed of its own."""
        import torch

        seen: Counter[int] = Counter()
        asked = []
        for instance in instances:
            asked.append(request_of(instance, torch.initial_seed(), seen[id(instance)]))
            seen[id(instance)] += 1
            if getattr(asked[-1], "temperature", 0) and "top_k" not in instance.args[1]:
                self._say_once(
                    "sampling draws from all tokens, not from the 50 likeliest as in transformers; top_k=0 says so"
                )
        return asked

    def _render(self, turns: Sequence[dict[str, str]], add_generation_prompt: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self._template_arguments,
            )
        )

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            _logger.warning(text)

    def _say_resized(self) -> None:
        """lm-eval shrinks the output layer below an adapter to the tokenizer's size, so its softmax has fewer terms."""
        rows, tokens = self.subject.causal.vocabulary, len(self.tokenizer)
        if self.subject.describe()["adapter"] is not None and rows > tokens:
            self._say_once(
                f"the model has {rows} tokens and the tokenizer {tokens}: with an adapter, lm-eval's `hf` model would "
                f"drop the {rows - tokens} unused ones, and its log-likelihoods differ by what these are given"
            )


def read_arguments(given: dict[str, Any]) -> Arguments:
    """`--model_args`, checked.

    Raises:
        ConfigError: one is unknown (the nearest is named), has a value it cannot have, or is lm-eval's but not ours.
    """
    if not isinstance(given.get("pretrained"), str | int):
        raise ConfigError("--model harness needs pretrained=FOLDER or a hub name, not a model that is loaded already")
    for name in [name for name in given if name in _NEUTRAL]:
        if given[name] not in _NEUTRAL[name]:
            raise ConfigError(f"--model_args: {name}={given[name]} is not supported by --model harness; use --model hf")
    ours = {name: value for name, value in given.items() if name not in _NEUTRAL and value is not None}
    try:
        return Arguments.model_validate(ours)
    except ValidationError as error:
        raise ConfigError(f"--model_args: {plugins.explain(error, Arguments)}") from error


def subject_options(given: Arguments) -> dict[str, Any]:
    """The same as options of the local subject, with lm-eval's meaning of every default."""
    folder = Path.cwd()
    if given.peft and given.revision not in (None, "main") and not (folder / given.peft).expanduser().is_dir():
        raise ConfigError("--model_args: revision is the model's; download the adapter's revision and give its folder")
    trusted = (given.trust_remote_code,) if isinstance(given.trust_remote_code, str) else ()
    files = _files.find_model(given.pretrained, given.revision, folder, trusted)
    dtype = _dtype(given.dtype, files)
    chosen = {
        "model": given.pretrained,
        "revision": given.revision,
        "adapter": given.peft,
        "merge": given.merge,
        "tokenizer": given.tokenizer,
        "chat_template": given.chat_template,
        "dtype": dtype,
        "device": _device(given.device),
        "quantization": _quantization(given, dtype),
        "max_length": given.max_length,
        "batch_size": _rows(given),
        "truncate": given.truncate,
        "engine": given.engine,
        "engine_options": given.engine_options,
        "trust_remote_code": trusted,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def register() -> None:
    """Make the name known to lm-eval; doing it twice does no harm."""
    if "harness" not in model_registry:
        model_registry.register("harness", target=_TARGET)


def _refuse_failures(failed: Sequence[tuple[Any, Output]]) -> None:
    if not failed:
        return
    (instance, output), others = failed[0], len(failed) - 1
    more = f"; {others} more requests of the same batch failed too" if others else ""
    raise SubjectError(f"{_name(instance)}: {output.failure}{more}")


def _name(instance: Any) -> str:
    return f"sample {instance.doc_id} of task {instance.task_name!r}"


def _dtype(wanted: str, files: _files.ModelFiles) -> str:
    """A dtype's name as the local subject knows it; `auto` is the config's dtype, else that of the first weights."""
    import torch

    found: Any = getattr(torch, wanted.removeprefix("torch."), None) if wanted != "auto" else _stored_dtype(files)
    name = str(found).removeprefix("torch.")
    if name not in ("float32", "float16", "bfloat16"):
        raise ConfigError(f"--model_args: dtype={wanted} is {name}; known: float32, float16, bfloat16")
    return name


def _stored_dtype(files: _files.ModelFiles) -> Any:
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig

    declared = AutoConfig.from_pretrained(files.folder, trust_remote_code=files.remote_code).dtype
    if declared is not None:
        return declared
    with safe_open(files.weights[0], framework="pt") as stored:
        dtypes = [stored.get_slice(name).get_dtype() for name in stored.keys()]  # noqa: SIM118  # no dict
    known = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return next((known[name] for name in dtypes if name in known), None)


def _device(wanted: str | None) -> str:
    """As lm-eval chooses: what is there, else a CUDA device, else the CPU."""
    import torch

    there = torch.cuda.is_available()
    missing = wanted is None or (wanted.startswith("cuda") and not there)
    return ("cuda" if there else "cpu") if missing else str(wanted)


def _quantization(given: Arguments, dtype: str) -> str:
    """What bitsandbytes makes of the weights; its 4-bit defaults are not ours, so ours have to be said.

    Raises:
        ConfigError: a kind of quantisation that the local subject does not have.
    """
    if given.load_in_8bit and given.load_in_4bit:
        raise ConfigError("--model_args: load_in_4bit and load_in_8bit exclude each other")
    if not given.load_in_4bit:
        return "8bit" if given.load_in_8bit else "none"
    computed = given.bnb_4bit_compute_dtype.removeprefix("torch.")
    if (given.bnb_4bit_quant_type, given.bnb_4bit_use_double_quant, computed) != ("nf4", True, dtype):
        raise ConfigError(
            "--model_args: load_in_4bit alone is FP4 in lm-eval, and --model harness has NF4 with double quantisation "
            "only, computed in the model's dtype; say so with bnb_4bit_quant_type=nf4,bnb_4bit_use_double_quant=True,"
            f"bnb_4bit_compute_dtype={dtype}"
        )
    return "4bit"


def _rows(given: Arguments) -> int | None:
    text = str(given.batch_size)
    if text.partition(":")[0] == "auto" or text == "1":
        return given.max_batch_size
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--batch_size {text}: expected a number of at least 1, or auto")
    return int(text)


register()

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
