"""Shared weights: nothing that one adapter does to the base, or fails to do, may reach another subject."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.errors import AdapterError, InfrastructureError, SubjectError
from harness.records import Generate, LogLikelihood, Output, Request
from harness.subjects import SubjectContext, _weights, local
from harness.subjects._weights import AdapterSpec, Weights

pytestmark = pytest.mark.slow

ASKED: list[Request] = [
    LogLikelihood("The quick brown", " fox"),
    LogLikelihood("Question: What is 2 + 3?\nAnswer:", " 5"),
    LogLikelihood("Question: What is 2 + 3?\nAnswer:", " seven"),
    Generate("Once upon a time", max_tokens=12),
]


class Bench:
    """Subjects on one base and in one pool; what each would say on weights of its own."""

    def __init__(self, tiny: Any) -> None:
        self.tiny = tiny
        self.pool: dict[Any, Any] = {}
        self.model = str(tiny.model())
        self.loads = 0
        self.options: dict[str, str] = {}

    def subject(self, adapter: Path | None = None, pool: dict[Any, Any] | None = None) -> Any:
        chosen = {} if adapter is None else {"adapter": str(adapter)}
        options = local.Options.model_validate({"device": "cpu", "model": self.model, **chosen, **self.options})
        return local.build(options, SubjectContext(self.tiny.folder, self.pool if pool is None else pool))

    def alone(self, adapter: Path | None = None) -> list[Output]:
        before = self.loads
        found = answers(self.subject(adapter, {}))
        self.loads = before
        return found

    @property
    def copies(self) -> int:
        """How many sets of weights the pool holds."""
        return sum(isinstance(held, Weights) for held in self.pool.values())


@pytest.fixture
def bench(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tiny)
    honest = _weights.load_base

    def noted(spec: Any) -> Any:
        made.loads += 1
        return honest(spec)

    monkeypatch.setattr(_weights, "load_base", noted)
    return made


@pytest.fixture
def nothing_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a method that nobody has listed: sharing is tried with every adapter."""
    monkeypatch.setattr(AdapterSpec, "alone", property(lambda self: self.merge))
    monkeypatch.setattr(AdapterSpec, "plain", property(lambda self: True), raising=False)


def answers(subject: Any) -> list[Output]:
    pairs = [pair for batch in subject.answer(ASKED) for pair in batch]
    return [output for _, output in sorted(pairs, key=lambda p: p[0])]


def parameters(subject: Any) -> dict[str, int]:
    return {name: id(parameter) for name, parameter in subject._weights.base.named_parameters()}


def layers(subject: Any) -> set[str]:
    return {re.sub(r"adapter\d+", "adapter", name) for name in parameters(subject)}


def copied(adapter: Path, folder: Path, **config: Any) -> Path:
    """A copy of an adapter that says something else of itself."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **config}), "utf-8")
    return folder


def broken(adapter: Path, folder: Path, **config: Any) -> Path:
    """An adapter that PEFT refuses when its layers are already made: one tensor has another rank than the config."""
    import torch
    from safetensors.torch import load_file, save_file

    file = copied(adapter, folder, **config) / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(n for n in tensors if "lora_B" in n)[-1]
    save_file({**tensors, name: torch.zeros(tensors[name].shape[0], 9)}, file)
    return folder


# ---------------------------------------------------------------- adapters that change the base


@pytest.mark.parametrize("method", ["pissa", "olora"])
@pytest.mark.parametrize("others", [0, 1])
def test_an_adapter_whose_start_changes_the_base_spoils_nobody(
    bench: Bench, nothing_is_foreseen: None, method: str, others: int
) -> None:
    live = [bench.tiny.adapter(seed=seed) for seed in (1, 2)][:others]
    changing = bench.tiny.adapter(method=method)
    subjects = [bench.subject(), *map(bench.subject, live)]
    before = [answers(subject) for subject in subjects]  # the engine keeps keys and values of these
    candidate = bench.subject(changing)
    assert answers(candidate) == bench.alone(changing)
    assert [answers(subject) for subject in subjects] == before == [bench.alone(), *map(bench.alone, live)]
    assert bench.copies == 2
    assert "weights of its own" in candidate.remarks()[0]
    assert [list(subject.remarks()) for subject in subjects if "of its own" in str(subject.remarks())] == []
    candidate.close()
    assert bench.copies == 1
    assert answers(subjects[0]) == before[0]


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_a_start_that_is_known_to_change_the_base_is_not_tried_on_it(bench: Bench, method: str) -> None:
    bench.subject()
    bench.subject(bench.tiny.adapter(method=method))
    assert (bench.copies, bench.loads) == (2, 2)


def test_an_adapter_that_carries_embeddings_leaves_those_of_the_base_alone(bench: Bench, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    token = AutoTokenizer.from_pretrained(bench.model).encode("The quick brown")[-1]
    assert token not in (torch.arange(1, 17) * 7919 % 320).tolist(), "a probe of few tokens must not see it"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bench.model), str(bench.tiny.adapter()))
    with torch.no_grad():
        model.get_input_embeddings().weight[token] += 1
    model.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    baseline = bench.subject()
    candidate = bench.subject(tmp_path / "a")
    assert answers(baseline) == bench.alone()
    assert answers(candidate) == bench.alone(tmp_path / "a") != bench.alone(bench.tiny.adapter())
    assert bench.copies == 2


# ---------------------------------------------------------------- adapters that cannot be put on


@pytest.mark.parametrize("others", [0, 1])
def test_an_adapter_that_fails_to_load_leaves_nothing_behind(bench: Bench, tmp_path: Path, others: int) -> None:
    good, last = bench.tiny.adapter(seed=2), bench.tiny.adapter(seed=3)
    bad = broken(bench.tiny.adapter(), tmp_path / "bad", lora_alpha=64)
    subjects = [bench.subject(), *[bench.subject(good) for _ in range(others)]]
    before = [answers(subject) for subject in subjects]
    names = layers(subjects[0])
    for _ in range(2):
        with pytest.raises(AdapterError, match="cannot be put on"):
            bench.subject(bad)
        candidate = bench.subject(last)
        assert answers(candidate) == bench.alone(last)
        assert [answers(subject) for subject in subjects] == before
        candidate.close()
    assert bench.copies == 1
    assert layers(subjects[0]) == names


@pytest.mark.parametrize("others", [0, 1])
def test_an_adapter_whose_file_lacks_a_tensor_is_refused(bench: Bench, tmp_path: Path, others: int) -> None:
    from safetensors.torch import load_file, save_file

    partial = tmp_path / "partial"
    shutil.copytree(bench.tiny.adapter(), partial)
    tensors = load_file(partial / "adapter_model.safetensors")
    del tensors[next(name for name in tensors if "lora_A" in name)]  # PEFT keeps its own random start instead
    save_file(tensors, partial / "adapter_model.safetensors", metadata={"format": "pt"})
    expected = bench.alone()
    base = bench.subject()
    held = [bench.subject(bench.tiny.adapter(seed=5)) for _ in range(others)]
    with pytest.raises(AdapterError, match=r"1 tensors are missing .*lora_A"):
        bench.subject(partial)
    assert answers(base) == expected
    assert [answers(subject) for subject in held] == [bench.alone(bench.tiny.adapter(seed=5))] * others


@pytest.mark.parametrize("method", ["tokens", "head"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("foreseen", [True, False])
def test_an_adapter_that_peft_does_not_mix_gets_weights_of_its_own(
    bench: Bench, request: pytest.FixtureRequest, method: str, first: bool, foreseen: bool
) -> None:
    if not foreseen:
        request.getfixturevalue("nothing_is_foreseen")
    adapters = [bench.tiny.adapter(method=method), bench.tiny.adapter(seed=2)][:: 1 if first else -1]
    baseline = bench.subject()
    subjects = [bench.subject(adapter) for adapter in adapters]
    assert [answers(subject) for subject in subjects] == [bench.alone(adapter) for adapter in adapters]
    assert answers(baseline) == bench.alone()
    if foreseen:
        assert (bench.copies, bench.loads) == (2, 2)
    subjects[0].close()
    assert answers(subjects[1]) == bench.alone(adapters[1])
    assert answers(baseline) == bench.alone()


# ---------------------------------------------------------------- closing


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "prefix", "prompt", "tokens", "head"])
def test_a_closed_candidate_leaves_no_adapter_behind_and_nothing_is_loaded_again(bench: Bench, method: str) -> None:
    baseline = bench.subject()
    before, bare = answers(baseline), parameters(baseline)
    for seed in (1, 2):
        candidate = bench.subject(bench.tiny.adapter(method=method, seed=seed))
        answers(candidate)
        candidate.close()
        assert parameters(baseline) == bare
    assert answers(baseline) == before
    assert (bench.copies, bench.loads) == (1, 1)


def test_closing_one_candidate_does_not_disturb_the_others(bench: Bench) -> None:
    adapters = [bench.tiny.adapter(seed=seed) for seed in (1, 2, 3)]
    baseline, one, two, three = bench.subject(), *map(bench.subject, adapters)
    twin = bench.subject(adapters[1])
    before = [answers(subject) for subject in (baseline, two, three)]
    assert answers(one) == bench.alone(adapters[0])
    one.close()
    two.close()  # its twin still uses the same adapter
    assert [answers(subject) for subject in (baseline, twin, three)] == before
    twin.close()
    again = bench.subject(adapters[0])
    assert [answers(subject) for subject in (baseline, again, three)] == [
        before[0],
        bench.alone(adapters[0]),
        before[2],
    ]
    assert (bench.copies, bench.loads) == (1, 1)


def test_an_adapter_that_does_not_come_off_cleanly_costs_a_reload_and_no_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft.tuners.tuners_utils import BaseTuner

    honest = BaseTuner.unload

    def careless(self: Any) -> Any:
        base = honest(self)
        with torch.no_grad():
            base.get_input_embeddings().weight[5] += 1  # no token of the probe
        return base

    monkeypatch.setattr(BaseTuner, "unload", careless)
    baseline = bench.subject()
    before = answers(baseline)
    bench.subject(bench.tiny.adapter()).close()
    assert answers(baseline) == before
    assert torch.equal(baseline._weights.base.get_input_embeddings().weight, _embeddings(bench.model))
    assert bench.loads == 2


def _embeddings(model: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model).get_input_embeddings().weight


def test_a_base_whose_files_changed_is_not_taken_for_the_one_that_was_asked(
    bench: Bench, tmp_path: Path, nothing_is_foreseen: None
) -> None:
    bench.model = str(shutil.copytree(bench.model, tmp_path / "base"))
    baseline = bench.subject()
    answers(baseline)
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "rope_theta": 1.0}), "utf-8")
    bench.subject(bench.tiny.adapter(method="pissa"))
    with pytest.raises(InfrastructureError, match=r"config\.json.*changed"):
        answers(baseline)


@pytest.mark.parametrize("kind", ["4bit", "8bit", "bfloat16"])
def test_weights_of_other_types_are_shared_too(bench: Bench, kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    bench.options = {"dtype": kind} if kind == "bfloat16" else {"quantization": kind}
    baseline = bench.subject()
    before = answers(baseline)
    for seed in (1, 2):
        candidate = bench.subject(bench.tiny.adapter(seed=seed))
        assert answers(candidate) == bench.alone(bench.tiny.adapter(seed=seed)) != before
        candidate.close()
    assert answers(baseline) == before
    assert (bench.copies, bench.loads) == (1, 1)


def test_weights_with_nan_are_still_shared(bench: Bench) -> None:
    import torch

    baseline = bench.subject()
    with torch.no_grad():
        baseline._weights.base.lm_head.weight[5] = float("nan")
    bench.subject(bench.tiny.adapter()).close()
    assert (bench.copies, bench.loads) == (1, 1)
    assert torch.isnan(baseline._weights.base.lm_head.weight).any()


def test_a_subject_that_could_not_be_tied_together_holds_no_weights(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> int:
        raise SubjectError("no context")

    monkeypatch.setattr(local, "context_length", failing)
    with pytest.raises(SubjectError, match="no context"):
        bench.subject()
    assert bench.copies == 0
