"""Every objective with every scope that it does not refuse: two steps, and what they left is what was trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.training.scopes import Scope
from tests import objective_jobs as jobs
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow

OBJECTIVES = plugins.names("training.objectives")
SCOPES = plugins.names("training.scopes")
ROWS: dict[str, Any] = {
    "sft": "completion", "kto": "labelled", "classify": "class", "grpo": "prompt", "rloo": "prompt"
}  # fmt: skip
# With a reward that is hardly ever the same twice, so that there is something to learn in every step.
ONLINE: dict[str, Any] = {
    "rewards": [{"metric": "chrf"}], "generations": 4, "max_new_tokens": 8, "max_failures": 0.5
}  # fmt: skip
PANGRAM = "the quick brown fox jumps over the lazy dog, 0123456789"
OPTIONS: dict[str, dict[str, Any]] = {"grpo": {**ONLINE, "beta": 0.1}, "rloo": ONLINE}

LANGUAGE = {"sft", "dpo", "ipo", "kto", "orpo", "cpo", "simpo", "grpo", "rloo"}
VIRTUAL = {"prefix", "prompt", "ptuning"}
REFUSED = (
    {(o, s) for o in ("reward", "classify") for s in VIRTUAL}
    | {(o, s) for o in ("orpo", "cpo", "simpo") for s in ("prompt", "ptuning")}
    | {(o, s) for o in LANGUAGE for s in ("head", "features")}
    | {("reward", "features")}
)
"""Pairs that cannot be, and no others: a pair that is neither here nor trained below fails."""


def pairs() -> Iterator[Any]:
    for kind in OBJECTIVES:
        for name in SCOPES:
            if (kind, name) not in REFUSED and name != "features":  # which has no steps: see test_objectives_heads
                yield pytest.param(kind, name, id=f"{kind}-{name}")


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_pair_that_cannot_be_is_refused_with_the_way_out_and_no_other_is(kind: str) -> None:
    objective = jobs.objective(kind, **OPTIONS.get(kind, {}))
    for name in SCOPES:
        refusal = objective.refusal(jobs.scope(name))
        assert (refusal is not None) == ((kind, name) in REFUSED), (kind, name, refusal)
        assert refusal is None or "; use " in refusal


@pytest.mark.parametrize(("kind", "name"), pairs())
def test_two_steps_train_the_scope_and_nothing_else(tiny: TinyModels, tmp_path: Path, kind: str, name: str) -> None:
    import torch

    objective, scope = jobs.objective(kind, **OPTIONS.get(kind, {})), jobs.scope(name)
    base = tiny.model("qwen2" if name == "bitfit" else "llama")
    model = scope.apply(_base(base, objective.head, scope), objective.head)
    rows: Any = ROWS.get(kind, "preference")
    given = [{**row, **({"target": PANGRAM} if rows == "prompt" else {})} for row in jobs.rows(rows)]
    job = jobs.job(
        base, tmp_path, objective, rows, by=scope, model=model, train=given, validation=given[:2], learning_rate=1e-2,
        eval_every=2,
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    moving = {n for n, p in model.named_parameters() if p.requires_grad}
    trainer = objective.trainer(job)
    trainer.train()

    assert all(math.isfinite(loss) for loss in jobs.losses(trainer))
    assert len(jobs.losses(trainer)) == 2
    assert any("eval_loss" in log for log in trainer.state.log_history)
    after = dict(model.named_parameters())
    changed = {n for n, p in before.items() if not torch.equal(p, after[n])}
    assert changed, "nothing was trained"
    assert changed <= moving, "what was to stay has moved"

    scope.save(model, tmp_path / "saved")
    again = scope.resume(_saved(base, objective.head, scope, tmp_path / "saved"), tmp_path / "saved", objective.head)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        assert torch.allclose(model.eval()(ids).logits, again.eval()(ids).logits, atol=1e-5)


def _base(folder: Path, head: Any, scope: Scope) -> Any:
    if scope.quantization == "none":
        return jobs.load(folder, head)
    import transformers

    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    kind = transformers.AutoModelForCausalLM if head == "language" else transformers.AutoModelForSequenceClassification
    labels = {} if head == "language" else {"num_labels": 1 if head == "reward" else 3}
    if head == "classes":
        labels = {"id2label": dict(enumerate(("maybe", "no", "yes")))}  # type: ignore[dict-item]
    transformers.set_seed(0)
    return kind.from_pretrained(folder, quantization_config=config, device_map={"": "cpu"}, dtype="float32", **labels)


def _saved(folder: Path, head: Any, scope: Scope, saved: Path) -> Any:
    return jobs.load(saved, head) if scope.traits.saves == "checkpoint" else _base(folder, head, scope)
