"""Every scope trains exactly what it claims, and a fresh process answers as the trained model did."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness import plugins
from harness.errors import AdapterError, ConfigError
from harness.records import Generate, LogLikelihood, RollingLogLikelihood
from harness.subjects._weights import WeightsSpec, load_base
from harness.training.scopes import Fitted, Scope

NAMES = plugins.names("training.scopes")


@dataclass(frozen=True)
class Case:
    """A scope with options on a family, and what the names of its trainable parameters must match."""

    family: str
    scope: str
    trained: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return "-".join([self.family, self.scope, *(f"{k}={v}" for k, v in self.options)])


LAYERS = r"(self_attn|mlp)\.[a-z]+_proj"
CASES = [
    Case("llama", "full", r".*"),
    Case("gpt2", "full", r".*"),
    Case("llama", "lora", rf".*{LAYERS}\.lora_[AB]\..*"),
    Case("gpt2", "lora", r".*\.c_(attn|proj|fc)\.lora_[AB]\..*"),
    Case("llama", "lora", r".*[qv]_proj\.lora_[AB]\..*", (("targets", ("q_proj", "v_proj")), ("rank", 3))),
    Case("llama", "lora", rf".*{LAYERS}\.lora_(A|B|magnitude_vector)\..*", (("dora", True),)),
    Case("gpt2", "lora", r".*\.c_.*\.lora_[AB]\..*", (("rslora", True), ("init", "gaussian"))),
    Case("llama", "lora", rf".*{LAYERS}\.lora_[AB]\..*", (("init", "orthogonal"),)),
    Case("llama", "qlora", rf".*{LAYERS}\.lora_[AB]\..*", (("rank", 4),)),
    Case("llama", "ia3", r".*(k_proj|v_proj|down_proj)\.ia3_l\..*"),
    Case("qwen2", "ia3", r".*(k_proj|v_proj|down_proj)\.ia3_l\..*"),
    Case("gpt2", "ia3", r".*(c_attn|mlp\.c_proj)\.ia3_l\..*"),
    Case("gpt2", "bitfit", r".*\.(c_attn|c_proj|c_fc|ln_1|ln_2|ln_f)\.bitfit_change\..*"),
    Case("qwen2", "bitfit", r".*[qkv]_proj\.bitfit_change\..*"),
    Case("gpt_neox", "bitfit", r".*\.bitfit_change\..*"),
    Case("gpt2", "bitfit", r".*(c_fc|ln_1)\.bitfit_change\..*", (("only", ("c_fc", "ln_1")),)),
    Case("llama", "additive_bias", rf".*{LAYERS}\.beft_bias\..*"),
    Case("llama", "bottleneck", r".*(o_proj|down_proj)\.bottleneck_(down|up)\..*", (("size", 8),)),
    Case("gpt2", "bottleneck", r".*(attn|mlp)\.c_proj\.bottleneck_(down|up)\..*", (("size", 8),)),
    Case("gpt_neox", "bottleneck", r".*(dense|dense_4h_to_h)\.bottleneck_(down|up)\..*", (("activation", "relu"),)),
    Case("llama", "prefix", r"prompt_encoder\.default\.embedding\.weight", (("tokens", 4),)),
    Case("gpt2", "prefix", r"prompt_encoder\.default\..*", (("tokens", 4), ("projection", 16))),
    Case("llama", "prompt", r"prompt_encoder\.default\.embedding\.weight", (("tokens", 4),)),
    Case("gpt2", "prompt", r"prompt_encoder\.default\.embedding\.weight", (("tokens", 4), ("init", "random"))),
    Case("llama", "ptuning", r"prompt_encoder\.default\..*", (("tokens", 4), ("width", 16))),
    Case("gpt2", "ptuning", r"prompt_encoder\.default\..*", (("tokens", 4), ("width", 8))),
]
ADAPTERS = [case for case in CASES if case.scope != "full"]
PROMPTS = ("prefix", "prompt", "ptuning")
OURS = [c for c in CASES if c.scope in ("bitfit", "bottleneck", "additive_bias")]


def by_id(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=lambda c: c.id)


def build(name: str, **options: Any) -> Scope:
    chosen = plugins.options("training.scopes", name, options, where="recipe.yaml: scope")
    scope: Scope = plugins.load("training.scopes", name).build(chosen)
    return scope


# ---------------------------------------------------------------- fast: what a recipe may say


@pytest.mark.parametrize("name", NAMES)
def test_every_scope_keeps_the_contract(name: str) -> None:
    scope = build(name)
    assert scope.name == name
    assert scope.traits.heads <= {"language", "reward", "classes"}
    assert scope.traits.heads
    assert scope.traits.saves in ("adapter", "checkpoint", "classifier")
    assert scope.quantization in ("none", "4bit")
    assert scope.quantization == "none" or scope.traits.quantised
    assert not set(scope.arguments) & set(scope.defaults)
    with pytest.raises(ConfigError, match="no_such_option"):
        build(name, no_such_option=1)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga"])
@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_initialisations_that_move_the_base_are_refused(name: str, init: str) -> None:
    with pytest.raises(ConfigError, match=r"changes the base's weights.*no longer the baseline"):
        build(name, init=init)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_training_the_bases_biases_in_place_is_refused(bias: str) -> None:
    with pytest.raises(ConfigError, match=r"stay when the adapter is switched off.*scope bitfit"):
        build("lora", bias=bias)


def test_ia3_scales_the_input_of_targets_only() -> None:
    with pytest.raises(ConfigError, match="among the targets"):
        build("ia3", targets=["k_proj"], feedforward=["down_proj"])


def test_only_plain_lora_may_share_a_batch_with_the_base() -> None:
    assert [name for name in NAMES if build(name).traits.mixes] == ["lora", "qlora"]
    assert not build("lora", dora=True).traits.mixes
    assert build("lora", rslora=True).traits.mixes


def test_options_are_frozen() -> None:
    with pytest.raises(ValidationError):
        plugins.load("training.scopes", "lora").Options().rank = 3


# ---------------------------------------------------------------- slow: with tiny models


@dataclass(frozen=True)
class Trained:
    """A case after two optimiser steps: the folder it left, and the logits of the model in memory, [1, 16, vocab]."""

    case: Case
    base: Path
    folder: Path
    logits: Any
    before: Any
    names: frozenset[str]

    @property
    def subject(self) -> dict[str, str]:
        """Options of the local subject that reads it."""
        if self.case.scope == "full":
            return {"model": str(self.folder)}
        four_bits = {"quantization": "4bit"} if self.case.scope == "qlora" else {}
        return {"model": str(self.base), "adapter": str(self.folder), **four_bits}


def ids() -> Any:
    import torch

    return (torch.arange(1, 17) * 7 % 320)[None]


def load(folder: Path, scope: str = "") -> Any:
    """A base as a training of a scope loads it."""
    from transformers import AutoModelForCausalLM

    if scope != "qlora":
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    return load_base(WeightsSpec(folder, "float32", "cpu", "4bit", remote_code=False))


def logits(model: Any) -> Any:
    """Behind virtual tokens, where a model has some."""
    import torch

    model.eval()
    with torch.no_grad():
        return model(input_ids=ids(), use_cache=False).logits[:, -16:].clone()


def names(model: Any) -> frozenset[str]:
    return frozenset(n for n, p in model.named_parameters() if p.requires_grad)


def steps(model: Any, count: int = 2, rate: float = 1e-2, **inputs: Any) -> None:
    """Plain torch, as any trainer does."""
    import torch

    torch.manual_seed(0)
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(count):
        optimizer.zero_grad()
        model(**(inputs or {"input_ids": ids(), "labels": ids()})).loss.backward()
        optimizer.step()
    model.eval()


class Trainings:
    """Each case trained once in a session."""

    def __init__(self, tiny: Any, folder: Path) -> None:
        self.tiny, self.folder = tiny, folder
        self.done: dict[str, Trained] = {}

    def __call__(self, case: Case) -> Trained:
        if case.id not in self.done:
            self.done[case.id] = self.train(case)
        return self.done[case.id]

    def train(self, case: Case) -> Trained:
        import torch

        torch.manual_seed(0)
        base, folder = self.tiny.model(case.family), self.folder / str(len(self.done))
        scope = build(case.scope, **dict(case.options))
        model = scope.apply(load(base, case.scope), "language")
        before = logits(model)
        steps(model)
        if case.scope == "full":
            shutil.copytree(base, folder)  # the tokenizer is the caller's to save
        scope.save(model, folder)
        return Trained(case, base, folder, logits(model), before, names(model))


@pytest.fixture(scope="module")
def trained(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tiny, tmp_path_factory.mktemp("scopes"))


@pytest.mark.slow
@by_id(CASES)
def test_only_what_is_claimed_is_trained_and_it_moves_the_answers(case: Case, trained: Trainings) -> None:
    import torch

    done, base = trained(case), logits(load(trained.tiny.model(case.family), case.scope))
    wrong = [n for n in done.names if not re.fullmatch(case.trained, n)]
    assert done.names
    assert not wrong
    assert not torch.allclose(done.logits, done.before, atol=1e-3)
    if case.scope not in PROMPTS:  # virtual tokens change the answers from the start
        # Orthogonal A and B have a product of zero up to rounding.
        exact = ("init", "orthogonal") not in case.options and ("dora", True) not in case.options
        assert torch.equal(done.before, base) if exact else torch.allclose(done.before, base, atol=1e-3)


@pytest.mark.slow
def test_every_parameter_of_a_full_model_and_every_bias_of_bitfit_is_trained(trained: Trainings) -> None:
    model = load(trained.tiny.model("gpt2"))
    everything = {n for n, _ in model.named_parameters()}
    assert trained(Case("gpt2", "full", r".*")).names == everything
    biases = {n for n in everything if n.endswith("bias")}
    changes = trained(next(c for c in CASES if (c.family, c.scope, c.options) == ("gpt2", "bitfit", ()))).names
    assert {
        n.removeprefix("base_model.model.").replace("bitfit_change.default.weight", "bias") for n in changes
    } == biases


@pytest.mark.slow
@by_id(CASES)
def test_the_local_subject_answers_as_the_trained_model_did(case: Case, trained: Trainings, subjects: Any) -> None:
    import torch

    done = trained(case)
    subject = subjects(**done.subject)
    with subject._weights.using(subject._switched) as model:
        assert torch.equal(logits(model), done.logits)
    files = {p.suffix for p in done.folder.iterdir()}
    assert ".safetensors" in files
    assert not files & {".bin", ".pt", ".pth", ".pkl"}


@pytest.mark.slow
@by_id(ADAPTERS)
def test_switching_it_off_gives_the_base_bit_for_bit(case: Case, trained: Trainings, subjects: Any) -> None:
    import torch

    done, pool = trained(case), {}
    baseline = subjects(pool, **{k: v for k, v in done.subject.items() if k != "adapter"})
    candidate = subjects(pool, **done.subject)
    assert baseline._weights is candidate._weights, "one set of weights: the base was the same with the adapter off"
    with candidate._weights.using(candidate._switched) as model:
        assert torch.equal(logits(model), done.logits)
    with baseline._weights.using(None) as model:
        assert torch.equal(logits(model), logits(load(done.base, case.scope)))


@pytest.mark.slow
def test_a_fresh_process_answers_as_the_trained_models_did(trained: Trainings, tmp_path: Path) -> None:
    """All in one process, with the local subject, as the gate would."""
    import torch
    from safetensors.torch import load_file

    wanted = {case.id: trained(case) for case in CASES}
    (tmp_path / "wanted.json").write_text(json.dumps({name: done.subject for name, done in wanted.items()}))
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True, capture_output=True)
    found = load_file(tmp_path / "found.safetensors")
    assert [name for name, done in wanted.items() if not torch.equal(found[name], done.logits)] == []


FRESH = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from harness.subjects import SubjectContext, local
folder, found = Path(sys.argv[1]), {}
for name, options in json.loads((folder / "wanted.json").read_text()).items():
    subject = local.build(local.Options(device="cpu", **options), SubjectContext(folder))
    with subject._weights.using(subject._switched) as model:
        rows = (torch.arange(1, 17) * 7 % 320)[None]
        found[name] = model(input_ids=rows, use_cache=False).logits[:, -16:].clone()
save_file(found, folder / "found.safetensors")
"""


@pytest.mark.slow
@by_id(CASES)
def test_a_later_stage_goes_on_from_what_was_saved(case: Case, trained: Trainings, tmp_path: Path) -> None:
    import torch

    done = trained(case)
    scope = build(case.scope, **dict(case.options))
    base = load(done.folder if case.scope == "full" else done.base, case.scope)
    model = scope.resume(base, done.folder, "language")
    assert names(model) == done.names
    assert torch.equal(logits(model), done.logits)
    steps(model, 1)
    after = logits(model)
    assert not torch.allclose(after, done.logits, atol=1e-3)
    scope.save(model, tmp_path)
    base = load(tmp_path if case.scope == "full" else done.base, case.scope)
    assert torch.equal(logits(scope.resume(base, tmp_path, "language")), after)


@pytest.mark.slow
@by_id([case for case in ADAPTERS if case.scope != "qlora"])  # PEFT merges into 4 bits, and rounds
def test_it_merges_to_the_same_answers_or_says_that_it_does_not_merge(
    case: Case, trained: Trainings, subjects: Any
) -> None:
    import torch

    done = trained(case)
    if not build(case.scope).traits.merges:
        with pytest.raises(AdapterError, match="cannot be merged"):
            subjects(**done.subject, merge=True)
        return
    merged = subjects(**done.subject, merge=True)
    with merged._weights.using(None) as model:
        assert "Peft" not in type(model).__name__
        torch.testing.assert_close(logits(model), done.logits, atol=2e-4, rtol=1e-4)


@pytest.mark.slow
@by_id(OURS)
def test_the_fast_engine_answers_as_the_plain_one(case: Case, trained: Trainings, subjects: Any) -> None:
    asked = [
        *(LogLikelihood("Question: What is 2 + 3?\nAnswer:", choice) for choice in (" 5", " 12", " a lazy dog")),
        *(Generate(text, max_tokens=8) for text in ("Once upon a time", "Once upon a model", "def add(a, b):")),
        RollingLogLikelihood("A. red B. green C. blue"),
    ]
    done = trained(case)
    plain, fast = (subjects(**done.subject, engine=engine) for engine in ("plain", "radix"))
    for theirs, ours in zip(answers(plain, asked), answers(fast, asked), strict=True):
        assert theirs.failure is None
        assert ours.text == theirs.text
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
    assert not any("plain engine" in remark for remark in fast.remarks())


@pytest.fixture
def subjects(tmp_path: Path) -> Iterator[Any]:
    """Builds local subjects; without a pool each has weights of its own."""
    from harness.subjects import SubjectContext, local

    built: list[Any] = []

    def make(pool: dict[Any, Any] | None = None, **options: Any) -> Any:
        chosen = local.Options.model_validate({"device": "cpu", **options})
        built.append(local.build(chosen, SubjectContext(tmp_path, {} if pool is None else pool)))
        return built[-1]

    yield make
    for subject in built:
        subject.close()


def answers(subject: Any, requests: Any) -> list[Any]:
    pairs = [pair for batch in subject.answer(requests) for pair in batch]
    return [output for _, output in sorted(pairs, key=lambda p: p[0])]


# ---------------------------------------------------------------- slow: refusals


@pytest.mark.slow
def test_bitfit_without_biases_names_the_way_out(tiny: Any) -> None:
    model = load(tiny.model("llama"))
    scope = build("bitfit")
    assert "scope additive_bias adds biases" in (scope.refusal(model.config) or "")
    assert scope.refusal(load(tiny.model("qwen2")).config) is None
    with pytest.raises(ConfigError, match=r"has no biases.*additive_bias"):
        scope.apply(model, "language")
    with pytest.raises(ConfigError, match="no module with a bias is named gate_proj"):
        build("bitfit", only=["gate_proj"]).apply(load(tiny.model("qwen2")), "language")


@pytest.mark.slow
def test_biases_that_a_change_cannot_be_added_to_are_named() -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=11, n_positions=8))
    model.transformer.ln_f = torch.nn.GroupNorm(1, 8)
    with pytest.raises(ConfigError, match=r"cannot train transformer\.ln_f\.bias: a GroupNorm does not add it last"):
        build("bitfit").apply(model, "language")


@pytest.mark.slow
def test_layers_of_unknown_names_have_to_be_named(tiny: Any) -> None:
    from transformers import GPT2Config, MambaConfig, MixtralConfig, PreTrainedConfig, T5Config

    assert "scope bitfit" in (build("additive_bias").refusal(GPT2Config()) or "")
    experts = MixtralConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    assert "0 MLPs in the 1 layers" in (build("bottleneck").refusal(experts) or "")
    assert build("bottleneck", targets=["o_proj"]).refusal(experts) is None
    assert "name them with targets" in (build("ia3").refusal(MambaConfig(num_hidden_layers=1)) or "")
    for name in set(NAMES) - set(PROMPTS):  # a model with code of its own shows when it is loaded
        assert build(name).refusal(PreTrainedConfig()) is None, name
    for name in NAMES:
        assert "encoder-decoder" in (build(name).refusal(T5Config(num_layers=1)) or ""), name


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if "classes" not in build(n).traits.heads])
def test_virtual_tokens_are_for_models_that_generate(name: str, tiny: Any) -> None:
    from transformers import DistilBertConfig

    assert "needs a causal language model" in (build(name).refusal(DistilBertConfig()) or "")
    with pytest.raises(ConfigError, match="no head for classes"):
        build(name).apply(load(tiny.model()), "classes")


@pytest.mark.slow
def test_an_unfinished_or_foreign_adapter_is_no_start(trained: Trainings, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    done = trained(next(c for c in CASES if (c.family, c.scope) == ("llama", "bottleneck")))
    scope = build("bottleneck", size=8)
    with pytest.raises(AdapterError, match="holds no adapter_model"):
        scope.resume(load(done.base), tmp_path, "language")
    folder = shutil.copytree(done.folder, tmp_path / "part")
    state = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(state.items())[:-1]), folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="1 tensors are missing"):
        scope.resume(load(done.base), folder, "language")
    with pytest.raises(AdapterError, match="cannot be put on"):
        scope.resume(load(trained.tiny.model("gpt2")), done.folder, "language")
    with pytest.raises(AdapterError, match="no prompt that a training could go on from"):
        build("prompt").resume(load(done.base), done.folder, "language")


@pytest.mark.slow
def test_the_share_is_counted(tiny: Any) -> None:
    from harness.training.scopes import share_of

    model = build("full").apply(load(tiny.model()), "language")
    share = share_of(model)
    assert share.trainable == share.total == sum(p.numel() for p in model.parameters())
    assert share.bytes == 4 * share.total
    share = share_of(build("ia3").apply(load(tiny.model()), "language"))
    assert (share.trainable, share.bytes) == (2 * (32 + 32 + 128), 2 * (32 + 32 + 128) * 4)
    assert not isinstance(model, Fitted)


@pytest.mark.slow
def test_an_adapter_that_a_trainer_put_beside_ours_is_not_saved(trained: Trainings, tmp_path: Path) -> None:
    done = trained(Case("llama", "lora", CASES[2].trained))
    scope = build("lora")
    model = scope.resume(load(done.base), done.folder, "language")
    model.add_adapter("ref", replace(model.peft_config["default"]))  # as DPO's trainer does
    scope.save(model, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.slow
@by_id(ADAPTERS)
def test_a_trainers_checkpoint_loads_back_into_the_model(case: Case, trained: Trainings, tmp_path: Path) -> None:
    """As for resuming, and for the best model at the end: by peft's own save_pretrained and load_adapter."""
    import torch

    done = trained(case)
    model = build(case.scope, **dict(case.options)).resume(load(done.base, case.scope), done.folder, "language")
    model.save_pretrained(tmp_path)
    steps(model)
    assert not torch.equal(logits(model), done.logits)
    model.load_adapter(tmp_path, "default", is_trainable=True)
    assert torch.equal(logits(model), done.logits)
    assert names(model) == done.names
