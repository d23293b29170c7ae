"""The confidence sequence: stakes chosen for the margin, asked about every other mean as well."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import Estimand
from harness.statistics.betting import Urn, open_game
from harness.statistics.power import Setting, simulate
from harness.statistics.sequential import Design, Draws, Side, sequential_test
from tests.fuzzing import examples

Floats = npt.NDArray[np.float64]
# The differences of a cluster's scored pairs in percent of the span, and its number of failed pairs.
Cluster = tuple[list[int], int]

SOME = settings(max_examples=examples(30), deadline=None)
PATHS = st.lists(
    st.tuples(st.lists(st.integers(-100, 100), max_size=4), st.integers(0, 2)).filter(lambda c: c[0] or c[1]),
    min_size=1,
    max_size=30,
)
MARGINS = st.integers(-60, 60).map(lambda percent: percent / 100)
ESTIMANDS = st.sampled_from(["frozen", "population"])


def draws_of(clusters: Sequence[Cluster]) -> Draws:
    return Draws(
        np.array([sum(d) / 100 for d, _ in clusters]),
        np.array([len(d) for d, _ in clusters], dtype=np.int64),
        np.array([len(d) + failed for d, failed in clusters], dtype=np.int64),
    )


def design_for(draws: Draws, margin: float, estimand: Estimand, unseen: int) -> Design:
    return Design(margin, 1.0, estimand, int(draws.sizes.sum()) + unseen, int(draws.sizes.max()))


@SOME
@given(PATHS, MARGINS, ESTIMANDS, st.integers(0, 40))
def test_wealth_falls_at_every_draw_as_the_nulls_mean_rises(
    clusters: list[Cluster], margin: float, estimand: Estimand, unseen: int
) -> None:
    draws = draws_of(clusters)
    for sign in (1, -1):
        game = Side.of(draws, design_for(draws, margin, estimand, unseen), sign).game
        wealth = np.array([np.minimum(game.log_wealth(m), 50.0) for m in np.linspace(-0.99, 0.99, 41)])
        assert np.all(np.diff(wealth, axis=0) <= 1e-6)


@SOME
@given(PATHS, MARGINS, ESTIMANDS, st.integers(0, 40))
def test_interval_mean_and_outcome_agree(
    clusters: list[Cluster], margin: float, estimand: Estimand, unseen: int
) -> None:
    draws = draws_of(clusters)
    result = sequential_test(draws, design_for(draws, margin, estimand, unseen), alpha=0.1, block_alpha=0.1)
    low, high = result.interval
    pairs = int(draws.scored.sum())
    mean = math.fsum(draws.sums) / pairs if pairs else 0.0
    assert -1 <= low <= mean <= high <= 1
    if result.outcome == "pass":
        assert low >= min(-margin, mean)
    elif result.outcome == "regressed":
        assert high <= max(-margin, mean)
    else:
        assert low <= -margin <= high


@pytest.mark.slow
@SOME
@given(PATHS, MARGINS, ESTIMANDS)
def test_bounds_only_tighten(clusters: list[Cluster], margin: float, estimand: Estimand) -> None:
    draws = draws_of(clusters)
    design = design_for(draws, margin, estimand, unseen=10)
    for sign in (1, -1):
        heads = [Draws(draws.sums[:t], draws.scored[:t], draws.sizes[:t]) for t in range(1, len(clusters) + 1)]
        bounds = [sign * Side.of(head, design, sign).bound(0.1) for head in heads]
        assert all(later >= earlier - 1e-4 for earlier, later in itertools.pairwise(bounds))


TINY = st.lists(
    st.tuples(st.lists(st.sampled_from([-100, -100, -30, 0, 0, 0, 50, 100]), max_size=3), st.integers(0, 1)).filter(
        lambda c: c[0] or c[1]
    ),
    min_size=2,
    max_size=6,
).filter(lambda clusters: any(d for d, _ in clusters))


@SOME
@given(TINY, MARGINS, st.sampled_from([0.1, 0.25, 0.5]))
def test_the_true_mean_is_refuted_rarely_whatever_the_margin(
    clusters: list[Cluster], margin: float, alpha: float
) -> None:
    """Over every order of a small set, each with its probability: no approximation, no simulation."""
    chances, sums, scored, sizes = every_order(clusters)
    mean = sums[0].sum() / scored[0].sum()
    for sign in (1, -1):
        urn = Urn(sign * sums, scored, sizes, float(sizes[0].sum()))
        wealth = np.exp(open_game(urn, -sign * margin, gap=0.05).log_wealth(sign * mean))
        assert np.all(chances @ wealth <= 1 + 1e-6)
        assert chances[wealth.max(axis=1) >= 1 / alpha - 1e-9].sum() <= alpha + 1e-9


def every_order(clusters: Sequence[Cluster]) -> tuple[Floats, Floats, Floats, Floats]:
    """Chance of each order under successive sampling by size, (orders,); sums, scored and sizes, (orders, T)."""
    draws = draws_of(clusters)
    orders = np.array(list(itertools.permutations(range(len(clusters)))))
    sizes = draws.sizes[orders].astype(float)
    left = sizes.sum(axis=1, keepdims=True) - np.cumsum(sizes, axis=1) + sizes
    return (sizes / left).prod(axis=1), draws.sums[orders], draws.scored[orders].astype(float), sizes


@pytest.mark.slow
@pytest.mark.parametrize("estimand", ["frozen", "population"])
def test_error_rates_by_simulation(estimand: Estimand) -> None:
    setting = Setting(400, 0.12, 0.05, 0.05, 0.05, estimand)
    runs, rng = 1200, np.random.default_rng(11)
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert simulate(setting, -0.05, runs, rng).passed.mean() <= allowed
    assert simulate(setting, 0.0, runs, rng).regressed.mean() <= allowed
    still_tolerated = -0.045 if estimand == "frozen" else -0.05
    assert simulate(setting, still_tolerated, runs, rng).regressed.mean() <= allowed


@pytest.mark.parametrize(("margin", "difference"), [(0.05, 0.0), (0.01, 0.04), (0.01, -0.06), (0.05, -0.10)])
def test_clear_cases_are_over_within_a_tenth_of_the_samples(margin: float, difference: float) -> None:
    outcomes = simulate(Setting(5000, 0.12, margin, 0.05, 0.05, "frozen"), difference, 60, np.random.default_rng(12))
    right = outcomes.passed if difference > -margin else outcomes.regressed
    assert right.mean() > 0.9
    assert outcomes.share.mean() <= 0.1
