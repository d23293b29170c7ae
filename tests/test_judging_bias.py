"""Position and verbosity bias, by hand, by brute force and against scipy and statsmodels."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from harness.judging.bias import binomial_interval, position_bias, verbosity_bias
from harness.judging.kinds._pairs import of_both_orders, turned
from harness.judging.records import Judgement


def said(value: float | None) -> Judgement:
    if value is None:
        return Judgement("failed", None, "no reply", "timeout")
    return Judgement("scored", value, "because")


def pair(straight: float | None, by_place: float | None) -> Judgement:
    """A pair judged in both orders; `by_place` is what was said of the turned order as it was shown."""
    return of_both_orders(said(straight), turned(said(by_place)))


def test_a_judge_of_places_is_told_from_one_of_answers() -> None:
    places = position_bias([pair(-1, -1)] * 3 + [pair(1, 1)])
    assert (places.pairs, places.first_place, places.second_place, places.leaning) == (4, 3, 1, 0)
    assert (places.bias, places.consistent) == (0.5, 0.0)
    answers = position_bias([pair(-1, 1), pair(1, -1), pair(0, 0)])
    assert (answers.bias, answers.consistent, answers.interval) == (0.0, 1.0, None)


@pytest.mark.parametrize("votes", [list(v) for v in itertools.product((-1, 0, 1), repeat=4)])
def test_the_bias_is_the_share_of_votes_for_the_first_place_less_the_second(votes: list[int]) -> None:
    found = position_bias([pair(votes[0], votes[1]), pair(votes[2], votes[3])])
    assert found.bias == pytest.approx((votes.count(-1) - votes.count(1)) / 4)
    alike = [(a, b) for a, b in (votes[:2], votes[2:]) if a == -b]
    assert found.consistent == len(alike) / 2


def test_pairs_with_a_failed_order_and_single_grades_are_not_counted() -> None:
    judged = [pair(-1, None), pair(None, 1), said(4.0), pair(-1, -1)]
    assert position_bias(judged).pairs == 1
    assert position_bias([]).bias is None


def test_a_jurys_jurors_are_counted_one_by_one() -> None:
    jurors = [{"value": 0.0, "details": pair(-1, -1).details}, {"value": -1.0, "details": pair(-1, 1).details}]
    found = position_bias([Judgement("scored", 0.0, "", details={"jurors": jurors})])
    assert (found.pairs, found.first_place, found.bias) == (2, 1, 0.5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (3, 7), (60, 100), (1, 1)])
def test_intervals_are_exact_binomial_ones(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert binomial_interval(successes, trials) == pytest.approx(expected, abs=1e-9)


def test_verbosity_agrees_with_scipy_and_with_counting() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(-200, 200, 150)
    differences = np.clip(np.round(lengths / 150 + rng.normal(size=150)), -4, 4)
    found = verbosity_bias([*differences.tolist(), None], [*lengths.tolist(), 5])
    assert found.pairs == 150
    assert found.correlation == pytest.approx(stats.spearmanr(differences, lengths).statistic)
    both = [(d, n) for d, n in zip(differences, lengths, strict=True) if d and n]
    longer = sum(d * n > 0 for d, n in both)
    assert (found.decided, found.longer_won) == (len(both), longer)
    assert found.interval == pytest.approx(stats.binomtest(longer, len(both)).proportion_ci(0.95, "exact"))


def test_the_interval_of_the_correlation_covers_the_truth_as_often_as_it_says() -> None:
    rng, rho, hits = np.random.default_rng(1), 0.5, 0
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's of a bivariate normal with correlation rho
    for _ in range(600):
        x = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=60)
        interval = verbosity_bias(x[:, 0].tolist(), (x[:, 1] * 1e6).astype(int).tolist()).correlation_interval
        assert interval is not None
        hits += interval[0] <= truth <= interval[1]
    assert 0.93 <= hits / 600 <= 0.97


def test_a_judge_of_length_alone_is_seen_and_nothing_is_said_of_nothing() -> None:
    found = verbosity_bias([1.0, -1.0, 1.0, -1.0, 1.0], [30, -20, 10, -5, 8])
    assert (found.share, found.longer_won) == (1.0, 5)
    nothing = verbosity_bias([0.0, None], [3, 4])
    assert (nothing.pairs, nothing.decided, nothing.share, nothing.correlation) == (1, 0, None, None)
    perfect = verbosity_bias([1.0, 2.0, 3.0, 4.0], [1, 2, 3, 4])
    assert (perfect.correlation, perfect.correlation_interval) == (pytest.approx(1.0), None), "four pairs prove little"
    for record in (found.as_json(), nothing.as_json(), position_bias([pair(1, 1)]).as_json()):
        json.dumps(record, allow_nan=False)


def test_both_orders_make_one_judgement() -> None:
    assert [pair(a, b).value for a, b in ((-1, 1), (1, -1), (0, 0), (-1, -1), (1, 1), (0, -1))] == [-1, 1, 0, 0, 0, 0]
    one_failed = pair(None, 1)
    assert (one_failed.state, one_failed.failure) == ("failed", "timeout")
    assert one_failed.reason.startswith("straight order")
    unsure = of_both_orders(said(-1), Judgement("abstained", None, "cannot tell"))
    assert (unsure.state, unsure.value) == ("abstained", None)
