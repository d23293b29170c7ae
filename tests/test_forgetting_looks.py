"""What a look asks, what it tests, and what looks may cost; with recorded answers in place of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cache import OutputCache
from harness.config import load_gate
from harness.errors import ConfigError
from harness.gate import build_subject, make_plan
from harness.subjects import Subject, SubjectContext
from harness.training.forgetting._cost import LookPlan, plan_looks
from harness.training.forgetting._looks import CHUNK, Watch, _distinct_tokens
from harness.training.forgetting.axolotl import ForgettingGuardArgs
from tests.scripted_project import add_suite, project


def always(part: float) -> bool:
    return True


def opened(path: Path, samples: int = 64) -> tuple[Watch, Subject]:
    """A watch whose baseline has answered, and the candidate."""
    loaded = load_gate(path)
    watch = Watch.of(loaded, samples)
    baseline, candidate = (build_subject(loaded, arm, SubjectContext(path.parent)) for arm in ("baseline", "candidate"))
    with OutputCache(path.parent / "cache.sqlite") as cache:
        watch.ask_baseline(baseline, cache, baseline.fingerprint)
    return watch, candidate


def edit(path: Path, change: Any) -> Path:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_a_lost_skill_is_shown_after_one_chunk(tmp_path: Path) -> None:
    watch, candidate = opened(project(tmp_path, lost=range(120)))
    look = watch.look(candidate, 5, looks=10, samples=64, affords=always)
    assert look is not None
    assert [c.outcome for c in look.regressed] == ["regressed"]
    assert look.samples == CHUNK
    assert not look.clear


def test_an_equal_model_is_clear_and_asked_no_more_than_the_look_allows(tmp_path: Path) -> None:
    watch, candidate = opened(project(tmp_path))
    look = watch.look(candidate, 5, looks=10, samples=32, affords=always)
    assert look is not None
    assert look.clear
    assert look.samples == 32
    assert look.comparisons[0].difference == 0.0


def test_more_looks_ask_for_more_evidence(tmp_path: Path) -> None:
    """The level of a look is α/(k·L): what one look would show, one of very many may not."""
    watch, candidate = opened(project(tmp_path, lost=range(0, 120, 4)))
    shown = {}
    for looks in (1, 10**6):
        look = watch.look(candidate, 5, looks=looks, samples=64, affords=always)
        assert look is not None
        shown[looks] = bool(look.regressed)
    assert shown == {1: True, 10**6: False}


def test_answers_that_fail_keep_a_checkpoint_from_being_clear(tmp_path: Path) -> None:
    watch, candidate = opened(project(tmp_path, silent=range(60)))
    look = watch.look(candidate, 5, looks=10, samples=64, affords=always)
    assert look is not None
    assert not look.regressed
    assert not look.clear
    assert "pairs failed" in look.comparisons[0].reason


def test_the_order_of_looks_is_not_the_gates(tmp_path: Path) -> None:
    path = project(tmp_path)
    ours, theirs = Watch.of(load_gate(path), 64).suites[0].samples, make_plan(load_gate(path)).states[0].samples
    assert [s.id for s in ours] != [s.id for s in theirs]
    assert {s.id for s in ours} == {s.id for s in theirs}


def test_improvements_and_advice_are_not_looked_at(tmp_path: Path) -> None:
    path = project(tmp_path)
    add_suite(path, "colours", 40)
    add_suite(path, "shapes", 40)
    edit(path, lambda d: d["suites"][1].update(guards=[{"metric": "exact_match", "must_improve": 0.1}]))
    edit(path, lambda d: d["suites"][2].update(guards=[{"metric": "exact_match", "required": False}]))
    watch = Watch.of(load_gate(path), 64)
    assert [g.label for g in watch.guards] == ["sums/exact_match"]
    assert [s.suite.name for s in watch.suites] == ["sums"]
    edit(path, lambda d: d.update(suites=d["suites"][1:]))
    with pytest.raises(ConfigError, match="nothing that ForgettingGuard could look at"):
        Watch.of(load_gate(path), 64)


def test_a_suite_that_is_decided_is_asked_no_more(tmp_path: Path) -> None:
    path = project(tmp_path)
    add_suite(path, "colours", 16)
    watch, candidate = opened(path)
    look = watch.look(candidate, 5, looks=4, samples=64, affords=always)
    assert look is not None
    used = {c.suite: c.n_used for c in look.comparisons}
    assert used["colours"] == 16
    assert used["sums"] > 16


def test_a_look_ends_where_it_can_no_longer_be_afforded(tmp_path: Path) -> None:
    watch, candidate = opened(project(tmp_path))
    parts: list[float] = []

    def once(part: float) -> bool:
        parts.append(part)
        return len(parts) == 1

    look = watch.look(candidate, 5, looks=10, samples=64, affords=once)
    assert look is not None
    assert look.samples == CHUNK
    assert parts[0] == CHUNK / 64
    assert watch.look(candidate, 6, looks=10, samples=64, affords=lambda part: False) is None


def test_the_answers_of_lost_starting_weights_are_not_invented(tmp_path: Path) -> None:
    path = project(tmp_path)
    loaded = load_gate(path)
    baseline = build_subject(loaded, "baseline", SubjectContext(tmp_path))
    with OutputCache(tmp_path / "cache.sqlite") as cache, pytest.raises(ConfigError, match="start the training anew"):
        Watch.of(loaded, 64).ask_baseline(baseline, cache, "of weights that are gone")


@pytest.mark.parametrize(
    ("points", "budget", "plan"),
    [
        (10, 10_000.0, LookPlan(1, 10, 64)),  # all that were wanted
        (10, 5_000.0, LookPlan(2, 5, 64)),  # fewer, whole
        (10, 2_000.0, LookPlan(3, 3, 32)),  # at least four, smaller, as far as the points allow
        (10, 250.0, LookPlan(10, 1, 16)),  # one of the smallest
        (10, 200.0, None),
        (2, 10_000.0, LookPlan(1, 2, 64)),
    ],
)
def test_looks_are_made_fewer_and_smaller_to_fit_the_budget(points: int, budget: float, plan: LookPlan | None) -> None:
    found = plan_looks(points, 64, 1_000.0, budget, smallest=16)
    assert found == plan
    if found is not None:
        assert found.looks * 1_000.0 * found.samples / 64 <= budget
        assert found.looks * found.stride <= points


def test_common_beginnings_are_counted_once() -> None:
    assert _distinct_tokens([(1, 2, 3), (1, 2, 4), (1, 2, 3, 5), (9,), (1, 2, 3)]) == len({1, 2, 3, 5, 4, 9})


def test_axolotls_keys_are_those_of_the_guard() -> None:
    assert ForgettingGuardArgs.model_validate({"forgetting_guard": {"gate": "g.yaml"}}).forgetting_guard is not None
    with pytest.raises(ValueError, match="sample"):
        ForgettingGuardArgs.model_validate(json.loads('{"forgetting_guard": {"gate": "g.yaml", "sample": 3}}'))


def test_where_samples_are_held_back_looks_ask_those_and_none_of_the_verdicts(tmp_path: Path) -> None:
    path = edit(project(tmp_path), lambda document: document.update(for_sweeps=0.4))
    asked = {sample.id for _, samples in Watch.of(load_gate(path), 1000).asked for sample in samples}
    assert len(asked) == 48
    assert not asked & {sample.id for state in make_plan(load_gate(path)).states for sample in state.samples}
