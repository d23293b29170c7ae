"""What a look asks, what it tests, and what looks may cost; with recorded answers in place of a model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

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
    ("points", "suites", "budget", "plan"),
    [
        (10, 1, 10_000.0, LookPlan(10, 10, 64)),  # all that were wanted
        (10, 1, 5_000.0, LookPlan(10, 10, 16)),  # of one suite, one look in four may have to be whole
        (10, 1, 500.0, LookPlan(10, 1, 16)),
        (10, 1, 400.0, None),
        (10, 6, 10_000.0, LookPlan(10, 10, 64)),
        (10, 6, 8_000.0, LookPlan(10, 10, 48)),  # smaller first: 48, and one suite in six goes on to 64
        (10, 6, 4_000.0, LookPlan(10, 10, 16)),
        (10, 6, 2_000.0, LookPlan(10, 5, 16)),  # then fewer
        (10, 6, 400.0, LookPlan(10, 1, 16)),
        (10, 6, 370.0, None),
        (2, 6, 10_000.0, LookPlan(2, 2, 64)),
        (0, 6, 10_000.0, None),
    ],
)
def test_looks_are_made_smaller_and_then_fewer_to_fit_the_budget(
    points: int, suites: int, budget: float, plan: LookPlan | None
) -> None:
    assert plan_looks(points, 64, 1_000.0, budget, smallest=16, suites=suites) == plan


@given(points=st.integers(1, 60), looks=st.integers(1, 60))
def test_planned_looks_are_spread_and_the_last_is_at_the_end(points: int, looks: int) -> None:
    looks = min(looks, points)
    due = [point for point in range(1, points + 10) if LookPlan(points, looks, 16).due(point)]
    assert len(due) == looks
    assert due[-1] == points
    gaps = [after - before for before, after in itertools.pairwise([0, *due])]
    assert max(gaps) - min(gaps) <= 1


def test_a_look_goes_on_only_with_what_does_worse_than_is_tolerated_the_worst_first(tmp_path: Path) -> None:
    """Losses of 1 in 3 and of 1 in 6 are too few for one chunk to show; the suites without a loss are asked no more."""
    path = project(tmp_path, lost=range(0, 240, 3))
    for name, lost in (("colours", range(0, 240, 6)), ("shapes", range(0)), ("words", range(0))):
        add_suite(path, name, 240, lost=lost)
    watch, candidate = opened(path)
    look = watch.look(candidate, 5, looks=10, samples=CHUNK, affords=always)
    assert look is not None
    used = {c.suite: c.n_used for c in look.comparisons}
    assert used["shapes"] == used["words"] == CHUNK
    assert used["sums"] > CHUNK
    parts = iter([True] * 4 + [True, False] * 3 + [False])

    def four_and_three(part: float) -> bool:
        """The first chunk of all four suites, and then three times that of one suite alone."""
        return next(parts)

    poor = watch.look(candidate, 5, looks=10**9, samples=CHUNK, affords=four_and_three)
    assert poor is not None
    asked = {c.suite: c.n_used for c in poor.comparisons}
    assert asked == {"sums": 64, "colours": CHUNK, "shapes": CHUNK, "words": CHUNK}


def test_the_first_chunk_is_of_every_suite_or_of_none(tmp_path: Path) -> None:
    path = project(tmp_path)
    add_suite(path, "colours", 40)
    watch, candidate = opened(path)
    assert watch.look(candidate, 5, looks=10, samples=64, affords=lambda part: part < 0.2) is None


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
