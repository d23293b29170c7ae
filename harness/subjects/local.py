"""A model on this machine: a base, a base with a PEFT adapter, a merged or a full checkpoint.

Two subjects built with the same context share one set of weights where that is exact (see `_weights`). A merged or
fully fine-tuned checkpoint is simply another `model`.

`dtype: auto` is bfloat16 on CUDA where the GPU has it and float16 where not, float16 on Apple's MPS, float32 on the
CPU. In float32 an answer does not depend on the batch it was computed in; in 16 bits a log-likelihood moves by some
1e-2 with the shape of the batch and a greedy answer can change at a near-tie, which is what a noise probe measures.

The fingerprint covers the hashes of weights, configs, tokenizer and adapter files, the chat template, dtype, device
type, quantisation, merging, context length, truncation, engine and its revision, and the versions of torch,
transformers and tokenizers (of peft and bitsandbytes where used), because any of them can change an output. Names,
paths and the batch size are left out.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from harness import adapters, plugins
from harness.engine import REVISION, CausalModel, Engine
from harness.engine._encoding import Encoder
from harness.engine._rope import steady_length
from harness.errors import AdapterError, PluginError, SubjectError, UsageError, nearest
from harness.records import Check, Draft, Message, Request, content_hash
from harness.subjects import Answers, Subject, SubjectContext, _checks, _files
from harness.subjects._loading import WeightsSpec
from harness.subjects._weights import AdapterSpec, Weights, acquire, release

Dtype = Literal["auto", "float32", "float16", "bfloat16"]

_SIZES = ("batch_size", "batch_tokens", "memory")  # options of an engine that say how much at a time

_DEFAULT_CONTEXT = 2048  # tokens; what lm-eval assumes where neither config nor tokenizer says


class Options(BaseModel):
    """What gate.yaml may say of a local subject."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="folder of the model, relative to gate.yaml, or the name of a hub repository")
    revision: str | None = Field(None, description="branch, tag or commit of a hub repository")
    adapter: str | None = Field(None, description="folder of a PEFT adapter, or a hub repository")
    merge: bool = Field(False, description="fold the adapter into a copy of the weights, as it would be deployed")
    tokenizer: str | None = Field(None, description="folder or hub repository of the tokenizer (default: the model's)")
    chat_template: str | None = Field(None, description="file with a Jinja chat template (default: the tokenizer's)")
    dtype: Dtype = Field("auto", description="see the documentation for what auto chooses")
    device: str = Field("auto", description="auto is cuda, then mps, then cpu")
    quantization: Literal["none", "4bit", "8bit"] = Field("none", description="bitsandbytes NF4 or LLM.int8")
    max_length: int | None = Field(None, ge=2, description="context in tokens (default: the model's own)")
    batch_size: int | None = Field(None, ge=1, description="most rows of a batch (default: the engine's own choice)")
    truncate: Literal["refuse", "left"] = Field("refuse", description="what becomes of a prompt that is too long")
    engine: str = Field("radix", description="how requests are batched; every engine gives the same answers")
    engine_options: dict[str, Any] = Field(default_factory=dict, description="the engine's own options")
    trust_remote_code: tuple[str, ...] = Field((), description="models, by exact name, whose own code may run")

    @model_validator(mode="after")
    def _merge_what(self) -> Options:
        if self.merge and self.adapter is None:
            raise ValueError("merge needs an adapter")
        return self

    @model_validator(mode="after")
    def _engine_takes_its_options(self) -> Options:
        known = plugins.names("engine")
        if self.engine not in known:
            raise ValueError(f"engine: there is no engine {self.engine!r}: {nearest(self.engine, known)}")
        try:
            self.for_engine()
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _paths_lead_somewhere(self, info: ValidationInfo) -> Options:
        folder: Path | None = (info.context or {}).get("folder")
        if folder is None:
            return self
        for key in ("model", "adapter", "tokenizer"):
            name = getattr(self, key)
            problem = None if name is None else _files.why_nowhere(name, folder, owned=key == "adapter")
            if problem is not None:
                raise ValueError(f"{key}: {problem}")
        if self.chat_template is not None and not _files.place(self.chat_template, folder).is_file():
            raise ValueError(f"chat_template: {_files.place(self.chat_template, folder)}: no such file")
        return self

    def for_engine(self) -> BaseModel:
        """The engine's own options.

        Raises:
            UsageError: it has no such option.
        """
        values = {"truncate": self.truncate, **self.engine_options}
        if self.batch_size is not None:
            values["batch_size"] = self.batch_size
        return plugins.options("engine", self.engine, values, where="engine_options")


def build(options: Options, context: SubjectContext) -> LocalSubject:
    """The subject plugin contract: load what is not in the pool and return the subject.

    Raises:
        SubjectError: the model cannot be found or loaded, or is unsafe to load.
        AdapterError: the same for the adapter.
    """
    _need_libraries(options)
    files = _files.find_model(options.model, options.revision, context.folder, options.trust_remote_code)
    adapter = _adapter(options, context.folder)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    spec = WeightsSpec(files.folder, dtype, device, options.quantization, files.remote_code)
    tokenizer, tokenizer_folder = _tokenizer(options, files, context.folder)
    if adapter is not None:
        _refuse_foreign(adapter, files, options.model)
    weights = acquire(context.pool, spec, adapter)
    try:
        return LocalSubject(options, context.pool, files, adapter, weights, tokenizer, tokenizer_folder)
    except BaseException:
        release(context.pool, weights, adapter)
        raise


class LocalSubject:
    """See `harness.subjects.Subject`. Use `build`."""

    def __init__(
        self,
        options: Options,
        pool: MutableMapping[Any, Any],
        files: _files.ModelFiles,
        adapter: AdapterSpec | None,
        weights: Weights,
        tokenizer: Any,
        tokenizer_folder: Path,
    ) -> None:
        """Tie the loaded parts together; nothing is computed."""
        self.name = Path(options.model).name + (f"+{Path(options.adapter).name}" if options.adapter else "")
        self.tokenizer = tokenizer
        self._options = options
        self._pool = pool
        self._files = files
        self._adapter = adapter
        # A merged adapter has become the weights, so nothing is left to switch on.
        self._switched = None if adapter is None or adapter.merge else adapter
        self._weights = weights
        self._tokenizer_folder = tokenizer_folder
        self._tokenizer_digest = _files.digest(_files.tokenizer_hashes(tokenizer_folder))
        self._foreign_drafts = 0
        self._closed = False
        self.causal = self._causal()
        self.chat_fingerprint = chat_fingerprint(tokenizer)
        self.fingerprint = content_hash(self._identity())

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """See `Subject.render_chat`; without a generation prompt the last message is left open to be continued."""
        return render_chat(self.tokenizer, self.name, messages, add_generation_prompt=add_generation_prompt)

    def answer(self, requests: Sequence[Request], drafts: Sequence[Draft | None] = ()) -> Iterator[Answers]:
        """See `Subject.answer`; a draft of another tokenizer is encoded anew from its text."""
        if self._closed:
            raise SubjectError(f"{self.name} has been closed")
        return self._engine.answer(requests, {i: self._ids(d) for i, d in enumerate(drafts) if d is not None})

    @property
    def usage(self) -> Counter[str]:
        """The engine's counters, for benchmarks."""
        return self._engine.usage

    def remarks(self) -> Sequence[str]:
        """See `Subject.remarks`."""
        if self._closed:
            return []
        foreign = self._foreign_drafts
        told = [f"{foreign} drafts came from another tokenizer and were encoded anew"] if foreign else []
        if self._switched is not None and self._weights.spec.private_to:
            told.insert(0, "its adapter cannot be put on the shared base exactly, so it has weights of its own")
        return [*told, *self._engine.remarks()]

    def checks(self, baseline: Subject) -> Sequence[Check]:
        """See `Subject.checks`: it is not the baseline; the adapter is safe, made for this base and at work; both are
        asked the same thing.
        """
        found = [_checks.not_the_baseline(baseline, self)]
        if self._adapter is not None:
            found += adapters.preflight(self._adapter.folder, self._files.folder, base_name=self._options.model)
            found.append(_checks.adapter_active(baseline, self))
        trained = adapters.as_recorded(self._files.folder if self._adapter is None else self._adapter.folder)
        found += [] if trained is None else [trained]
        said_tokenizer = self._options.tokenizer is not None
        said_template = self._options.chat_template is not None
        return [
            *found,
            _checks.same_tokenizer(baseline, self, said_otherwise=said_tokenizer),
            _checks.same_chat_template(baseline, self, said_otherwise=said_tokenizer or said_template),
        ]

    def describe(self) -> dict[str, Any]:
        """See `Subject.describe`."""
        return {
            "kind": "local",
            "name": self.name,
            "fingerprint": self.fingerprint,
            "chat_fingerprint": self.chat_fingerprint,
            "model": self._options.model,
            "revision": self._options.revision,
            "folder": str(self._files.folder),
            "adapter_folder": None if self._adapter is None else str(self._adapter.folder),
            "artifact": self._artifact(),
            **self._identity(),
        }

    def _artifact(self) -> dict[str, Any]:
        """What would be promoted: the adapter, or the whole model where there is none."""
        if self._adapter is None:
            return adapters.promotable(self._files.folder, "model")
        return adapters.promotable(self._adapter.folder, "adapter")

    def close(self) -> None:
        """Give the weights back; the last subject on them frees the memory."""
        if not self._closed:
            self._closed = True
            self.__dict__.pop("_engine", None)  # with the keys and values that it keeps
            release(self._pool, self._weights, self._adapter)

    def _ids(self, draft: Draft) -> Sequence[int]:
        if draft.ids and draft.tokenizer == self._tokenizer_digest:
            return draft.ids
        self._foreign_drafts += 1
        ids: list[int] = self.tokenizer.encode(draft.text, add_special_tokens=False, verbose=False)
        return ids

    @functools.cached_property
    def _engine(self) -> Engine:
        return build_engine(self._options, self.causal)

    def _causal(self) -> CausalModel:
        config = self._weights.base.config
        _refuse_unlearned(config, self._options.max_length)
        return CausalModel(
            tokenizer=self.tokenizer,
            encoder=self._encoder(),
            max_length=self._options.max_length or context_length(config, self.tokenizer),
            virtual_tokens=self._weights.virtual_tokens(self._switched),
            vocabulary=int(self._weights.base.get_input_embeddings().weight.shape[0]),
            device=self._weights.spec.device,
            dtype=self._weights.spec.dtype,
            activate=lambda: self._weights.using(self._switched),
            render=renderer(self.tokenizer, self.name),
            steady=steady_length(config),
        )

    def _encoder(self) -> Encoder:
        """Shared by folder, not by hash: transformers chooses a tokenizer's class by the model config beside it."""
        # What an encoder remembers goes with the last subject that uses it.
        encoders: WeakValueDictionary[Path, Encoder] = self._pool.setdefault("encoders", WeakValueDictionary())
        return encoders.setdefault(self._tokenizer_folder, Encoder(self.tokenizer))

    def _identity(self) -> dict[str, Any]:
        """What can change an output, and nothing else: hashed for the fingerprint, listed in the manifest."""
        spec = self._weights.spec
        return {
            "weights": self._files.hashes(),
            "adapter": None if self._adapter is None else self._adapter.digest,
            "peft_type": None if self._adapter is None else self._adapter.peft_type,
            "merged": self._options.merge,
            "tokenizer_sha256": self._tokenizer_digest,
            "chat_template_sha256": content_hash(_template(self.tokenizer)),
            "dtype": spec.dtype,
            "device_type": spec.device.partition(":")[0],
            "quantization": spec.quantization,
            "max_length": self.causal.max_length,
            "truncate": self._options.truncate,
            "engine": self._options.engine,
            "engine_revision": REVISION,
            "engine_options": {k: v for k, v in self._options.engine_options.items() if k not in _SIZES},
            "versions": _versions(self._adapter is not None, spec.quantization != "none"),
        }


def render_chat(
    tokenizer: Any, name: str, messages: Sequence[Message], *, add_generation_prompt: bool, tools: str = ""
) -> str:
    """What the tokenizer's chat template makes of `messages` and the JSON of `tools`; `name` is for an error.

    Raises:
        SubjectError: there is no template, or it refuses these messages.
    """
    if not _template(tokenizer):
        raise SubjectError(f"{name} has no chat template; give one with chat_template: FILE")
    turns = [_turn(message) for message in messages]
    apply = functools.partial(
        tokenizer.apply_chat_template,
        turns,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
    )
    try:
        text = apply(tools=json.loads(tools)) if tools else apply()
        if tools and text == apply():
            raise ValueError("it has no place for tools, which the request offers")
    except Exception as error:  # a template is code of its author; jinja2 lets its exceptions through
        raise SubjectError(f"the chat template of {name} refuses these messages: {error}") from error
    return str(text)


def renderer(tokenizer: Any, name: str) -> Callable[[Sequence[Message], str], str]:
    """How an engine turns messages, and the JSON of tools, into the text of a prompt."""
    return lambda messages, tools: render_chat(tokenizer, name, messages, add_generation_prompt=True, tools=tools)


def build_engine(options: Options, causal: CausalModel) -> Engine:
    """The engine that the options of a local subject ask for, over a model in memory."""
    engine: Engine = plugins.load("engine", options.engine).build(options.for_engine(), causal)
    return engine


def chat_fingerprint(tokenizer: Any) -> str:
    """Hash of all that decides which text a conversation becomes."""
    return content_hash({"template": _template(tokenizer), "special": _special_tokens(tokenizer)})


def choose_device(wanted: str) -> str:
    """`auto` resolved to cuda, mps or cpu; anything else as it is.

    Raises:
        SubjectError: the device is not there.
    """
    import torch

    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, there in has.items() if there)
    if not has.get(wanted.partition(":")[0], True):
        raise SubjectError(f"device {wanted!r} is not available here; there is {[d for d in has if has[d]]}")
    return wanted


def choose_dtype(wanted: str, device: str) -> str:
    """`auto` resolved for a device; see the module."""
    if wanted != "auto":
        return wanted
    if device.startswith("cuda"):
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "float16" if device.startswith("mps") else "float32"


def context_length(config: Any, tokenizer: Any) -> int:
    """The model's context in tokens: its text config's, else the tokenizer's, else 2048."""
    text = getattr(config, "text_config", None) or config
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(text, name, None) is not None:
            return int(getattr(text, name))
    declared = getattr(tokenizer, "model_max_length", None)
    # transformers writes an absurdly large number where a tokenizer declares no length.
    return int(declared) if declared is not None and declared < 1e9 else _DEFAULT_CONTEXT


def _refuse_unlearned(config: Any, wanted: int | None) -> None:
    """Refuse a `max_length` beyond positions that were learned one by one, of which the model has no more.

    Raises:
        SubjectError: it is.
    """
    text = getattr(config, "text_config", None) or config
    rotary = getattr(text, "rope_parameters", None) and "rotary_dim" not in text.to_dict()
    learned = [getattr(text, name, None) for name in ("n_positions", "max_position_embeddings")]
    most = next((int(count) for count in learned if count is not None), None)
    if wanted is not None and most is not None and wanted > most and not rotary:
        raise SubjectError(f"max_length {wanted} is beyond the {most} positions that the model has learned")


def _refuse_foreign(adapter: AdapterSpec, files: _files.ModelFiles, base_name: str) -> None:
    """Say that an adapter is another base's before its loader does, at length and tensor by tensor."""
    for check in adapters.preflight(adapter.folder, files.folder, base_name=base_name):
        if check.name == "adapter-for-base" and not check.passed:
            raise AdapterError(check.detail)


def _adapter(options: Options, folder: Path) -> AdapterSpec | None:
    if options.adapter is None:
        return None
    found = _files.find_adapter(options.adapter, folder)
    return AdapterSpec(found, _files.digest(_files.adapter_hashes(found)), options.merge)


def _tokenizer(options: Options, files: _files.ModelFiles, folder: Path) -> tuple[Any, Path]:
    from transformers import AutoTokenizer

    source = files.folder
    if options.tokenizer is not None:
        source = _files.locate(options.tokenizer, None, folder, list(_files._TOKENIZER_FILES))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=files.remote_code)
    except Exception as error:
        raise SubjectError(f"the tokenizer in {source} cannot be loaded: {error}") from error
    if options.chat_template is not None:
        path = _files.place(options.chat_template, folder)
        try:
            tokenizer.chat_template = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SubjectError(f"chat template {path} cannot be read: {error}") from error
    return tokenizer, source


def _template(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # several named templates: the unnamed use takes "default"
        template = template.get("default")
    return template or ""


def _special_tokens(tokenizer: Any) -> dict[str, str]:
    """A template may print the special tokens, so they belong to what it makes of a conversation."""
    return {key: str(value) for key, value in sorted(tokenizer.special_tokens_map.items())}


def _versions(peft: bool, bitsandbytes: bool) -> dict[str, str]:
    """Library versions without local labels: torch's "+cpu" says what the device type says."""
    used = ["torch", "transformers", "tokenizers", *["peft"] * peft, *["bitsandbytes"] * bitsandbytes]
    return {name: version(name).partition("+")[0] for name in used}


def _need_libraries(options: Options) -> None:
    needed = ["torch", "transformers", *["peft"] * bool(options.adapter)]
    needed += ["bitsandbytes"] * (options.quantization != "none")
    try:
        for name in needed:
            importlib.import_module(name)
    except ImportError as error:
        raise PluginError(plugins.missing_extra("the local subject", error)) from error


def _turn(message: Message) -> dict[str, Any]:
    """A message as chat templates read it: the calls of a turn as functions, with arguments that are no longer JSON."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        calls = json.loads(message.tool_calls)
        turn["tool_calls"] = [
            {"id": c.get("id", ""), "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in calls
        ]
    return turn | ({"tool_call_id": message.tool_call_id} if message.tool_call_id else {})
