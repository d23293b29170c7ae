"""The promises of docs/wear.md on few simulated people and few candidates."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import wear
from benchmarks.validity import ALPHA, Rate
from harness.statistics.wear import luck

RUNS, CANDIDATES = 60, 60


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wear, "CANDIDATES", CANDIDATES)


def tried(learning: bool, disclosed: wear.Disclosed = "full", candidates: int = 1) -> wear.Tried:
    world = wear.World(400, learning, disclosed, candidates, margin=0.04)
    return wear.attempt(world, RUNS, np.random.default_rng(3))


@pytest.mark.slow
def test_a_share_of_alpha_holds_for_those_who_do_not_look_and_not_for_those_who_do() -> None:
    assert tried(learning=False).promoted.mean() > 4 * ALPHA
    shared = tried(learning=False, candidates=CANDIDATES).promoted
    assert not Rate(float(shared.mean()), RUNS).exceeds(ALPHA)
    assert tried(learning=True, candidates=CANDIDATES).promoted.mean() > 4 * ALPHA


@pytest.mark.slow
def test_behind_a_ladder_it_holds_for_both() -> None:
    guarded = tried(learning=True, disclosed="ladder", candidates=CANDIDATES)
    assert not Rate(float(guarded.promoted.mean()), RUNS).exceeds(ALPHA)
    assert guarded.overfit.mean() < tried(learning=True, candidates=CANDIDATES).overfit.mean() / 2


@pytest.mark.slow
def test_the_best_of_those_who_do_not_look_is_as_lucky_as_is_warned_of() -> None:
    world = wear.World(400, learning=False, margin=0.04)
    found = wear.attempt(world, 300, np.random.default_rng(4), decide=False).overfit.mean()
    error = float(np.sqrt((wear.FLIPS - 0.04**2) / 400))
    assert found == pytest.approx(luck(CANDIDATES, error), rel=0.06)
