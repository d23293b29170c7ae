"""What holds for any ratings and any labelling: no number that is not one, no end on the wrong side, no favourites."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.statistics.agreement import (
    Level,
    Weights,
    alpha_interval,
    auc_interval,
    committed_folds,
    cross_fitted,
    kappa_interval,
)
from harness.statistics.paired import Interval
from harness.statistics.ppi import (
    Corrected,
    LabelDraws,
    committed_draws,
    corrected_difference,
    corrected_outcome,
    draw_probabilities,
)
from tests.fuzzing import examples

FEW = settings(max_examples=examples(30), deadline=None)
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40)
OUTCOMES = st.sampled_from([-1.0, -0.5, 0.0, 1.0])


def ordered(interval: Interval, least: float) -> bool:
    """Whether three finite numbers stand in order within the scale; rounding may move an end to the estimate."""
    ends = (least, interval.low, interval.estimate, interval.high, 1.0)
    return all(math.isfinite(x) for x in ends) and all(a <= b + 1e-9 for a, b in itertools.pairwise(ends))


@FEW
@given(PAIRS, st.sampled_from(["none", "quadratic"]), st.integers(1, 4))
def test_kappa_is_a_number_within_its_interval_and_has_no_favourite(
    pairs: list[tuple[int, int]], weights: Weights, size: int
) -> None:
    a, b = np.array(pairs).T
    clusters = np.arange(len(a)) // size
    assume(clusters[-1] > 0)
    found = kappa_interval(a, b, levels=4, weights=weights, clusters=clusters)
    assert ordered(found, -1.0)
    turned = kappa_interval(b[::-1], a[::-1], levels=4, weights=weights, clusters=clusters[::-1])
    assert (turned.low, turned.estimate, turned.high) == pytest.approx((found.low, found.estimate, found.high))


@FEW
@given(PAIRS)
def test_auc_is_a_number_within_its_interval_and_turns_with_the_scores(pairs: list[tuple[int, int]]) -> None:
    scores, kinds = np.array(pairs, dtype=float).T
    positive = kinds > 1
    assume(positive.any() and not positive.all())
    found, turned = auc_interval(scores, positive), auc_interval(-scores, positive)
    assert ordered(found, 0.0)
    assert turned.estimate == pytest.approx(1 - found.estimate)


@FEW
@given(
    st.lists(st.tuples(*[st.sampled_from([math.nan, 0.0, 1.0, 2.5])] * 3), min_size=2, max_size=20),
    st.sampled_from(["nominal", "ordinal", "interval"]),
)
def test_alpha_is_a_number_within_its_interval(items: list[tuple[float, ...]], level: Level) -> None:
    ratings = np.array(items).T
    assume(((~np.isnan(ratings)).sum(axis=0) >= 2).sum() >= 2)
    assert ordered(alpha_interval(ratings, level=level), -1.0)


@FEW
@given(PAIRS, st.integers(2, 5), st.binary(max_size=4))
def test_cross_fitted_levels_are_levels_that_the_other_folds_span(
    pairs: list[tuple[int, int]], folds: int, seed: bytes
) -> None:
    assume(len(pairs) >= folds)
    judge, human = np.array(pairs).T
    fold = committed_folds(len(pairs), folds, seed)
    found = cross_fitted(judge.astype(float), human, fold, levels=4)
    for k in range(folds):
        others = human[fold != k]
        assert np.all((found[fold == k] >= others.min()) & (found[fold == k] <= others.max()))


@st.composite
def labellings(draw: st.DrawFn) -> tuple[np.ndarray, LabelDraws]:
    """A judge's differences and labelled draws."""
    judge = np.array(draw(st.lists(OUTCOMES, min_size=3, max_size=12)))
    human = np.array(draw(st.lists(OUTCOMES, min_size=len(judge), max_size=len(judge))))
    guess = np.array(draw(st.lists(st.floats(0, 3), min_size=len(judge), max_size=len(judge))))
    q = draw_probabilities(guess, floor=draw(st.floats(0.1, 1.0)))
    pairs = committed_draws(q, draw(st.integers(2, 60)), draw(st.binary(max_size=4)))
    return judge, LabelDraws(pairs, human[pairs], q)


def ends(found: Corrected) -> tuple[float, float, float]:
    assert found.interval is not None
    return found.interval.low, found.interval.estimate, found.interval.high


@FEW
@given(labellings(), st.sampled_from(["frozen", "population"]))
def test_a_corrected_difference_is_a_number_and_never_certain_without_reason(
    case: tuple[np.ndarray, LabelDraws], estimand: str
) -> None:
    judge, draws = case
    found = corrected_difference(judge, draws, span=1.0, estimand=estimand)  # type: ignore[arg-type]  # one of two
    assert all(math.isfinite(x) for x in (*ends(found), found.error, found.spread, found.skewness))
    assert found.interval is not None
    assert found.interval.low <= found.interval.high
    assert found.error > 0
    assert 0.0 <= found.tuning <= 1.0
    assert found.stream >= 0.0


@FEW
@given(labellings())
def test_turning_or_stretching_the_scale_turns_or_stretches_the_interval(case: tuple[np.ndarray, LabelDraws]) -> None:
    judge, draws = case
    found = ends(corrected_difference(judge, draws, span=1.0, estimand="population"))
    turned = LabelDraws(draws.pairs, -draws.labels, draws.probabilities)
    assert ends(corrected_difference(-judge, turned, span=1.0, estimand="population"))[::-1] == pytest.approx(
        tuple(-x for x in found), abs=1e-9
    )
    wider = LabelDraws(draws.pairs, 4 * draws.labels, draws.probabilities)
    assert ends(corrected_difference(4 * judge, wider, span=4.0, estimand="population")) == pytest.approx(
        tuple(4 * x for x in found), abs=1e-9
    )


@FEW
@given(labellings(), st.floats(-0.5, 0.5), st.floats(0.01, 0.2), st.floats(0.001, 0.2))
def test_an_outcome_never_gets_better_with_a_narrower_margin(
    case: tuple[np.ndarray, LabelDraws], margin: float, alpha: float, block_alpha: float
) -> None:
    judge, draws = case
    found = corrected_difference(judge, draws, span=1.0, estimand="frozen")
    rank = {"regressed": 0, "undecided": 1, "pass": 2}
    wide, narrow = (corrected_outcome(found, m, alpha, block_alpha) for m in (margin + 0.1, margin))
    assert rank[narrow] <= rank[wide]
