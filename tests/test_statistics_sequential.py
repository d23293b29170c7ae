"""The decision for one guard: wrong no more often than it says, exact when complete, consistent with its interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from harness.records import Estimand
from harness.statistics.sequential import Design, Draws, SequentialResult, running_log_e, sequential_test


def singles(differences: Sequence[float], scored: Sequence[int] | None = None) -> Draws:
    n = len(differences)
    return Draws(np.array(differences, dtype=float), np.array(scored or [1] * n), np.ones(n, dtype=np.int64))


def run(
    draws: Draws,
    margin: float,
    *,
    total: int,
    span: float = 1.0,
    estimand: Estimand = "frozen",
    alpha: float = 0.05,
    complete: bool = False,
) -> SequentialResult:
    design = Design(margin, span, estimand, total, int(draws.sizes.max(initial=1)))
    return sequential_test(draws, design, alpha=alpha, block_alpha=alpha, complete=complete)


def mixed(n: int, lost: int, won: int, seed: int = 0) -> list[float]:
    values = [-1.0] * lost + [1.0] * won + [0.0] * (n - lost - won)
    return list(np.random.default_rng(seed).permutation(values))


def test_nothing_seen_is_undecided() -> None:
    empty = singles([])
    for complete in (False, True):
        result = run(empty, 0.02, total=10, complete=complete)
        assert (result.outcome, result.decided_at, result.interval) == ("undecided", None, (-1.0, 1.0))
        assert (result.log_e_pass, result.log_e_block) == (0.0, 0.0)


def test_pairs_that_all_failed_are_undecided_whatever_is_demanded() -> None:
    for margin in (-2.0, 0.02, 2.0):
        assert run(singles([0, 0], [0, 0]), margin, total=2, complete=True).outcome == "undecided"


def test_no_change_passes_early_and_a_collapse_is_blocked_early() -> None:
    same = run(singles([0.0] * 2000), 0.02, total=2000)
    assert same.outcome == "pass"
    assert same.decided_at is not None
    assert same.decided_at < 400
    worse = run(singles(mixed(2000, 400, 100)), 0.02, total=2000)
    assert worse.outcome == "regressed"
    assert worse.decided_at is not None
    assert worse.decided_at < 400


def test_the_outcome_never_changes_after_it_was_reached() -> None:
    d = mixed(600, 20, 20)
    result = run(singles(d), 0.05, total=600)
    assert result.decided_at is not None
    for seen in range(0, 600, 7):
        partial = run(singles(d[:seen]), 0.05, total=600)
        assert partial.outcome == ("undecided" if seen < result.decided_at else result.outcome)
        assert partial.decided_at == (None if seen < result.decided_at else result.decided_at)


@pytest.mark.parametrize(
    ("lost", "outcome"), [(3, "pass"), (4, "regressed"), (5, "regressed")], ids=["above", "on the margin", "below"]
)
def test_a_complete_frozen_set_is_decided_by_its_mean(lost: int, outcome: str) -> None:
    result = run(singles(mixed(200, lost, 0)), 0.02, total=200, complete=True)
    assert result.outcome == outcome
    assert result.interval == pytest.approx((-lost / 200, -lost / 200))


def test_a_complete_set_overrules_a_false_alarm_of_the_bets() -> None:
    # An order that the hash would draw with probability < α: everything lost comes last.
    d = [0.0] * 150 + [-1.0] * 50
    assert run(singles(d[:150]), 0.2, total=200).outcome == "pass"
    assert run(singles(d), 0.2, total=200, complete=True).outcome == "regressed"


def test_a_stream_is_left_to_the_bets_when_complete() -> None:
    result = run(singles(mixed(50, 5, 5)), 0.02, total=50, estimand="population", complete=True)
    assert result.outcome == "undecided"
    assert result.interval[0] < -0.02 < 0 < result.interval[1]


def test_failed_pairs_leave_the_mean_alone() -> None:
    d, scored = [-1.0, 0.0, 0.0, 0.0, 0.0], [1, 1, 0, 0, 1]
    result = run(singles(d, scored), 0.3, total=5, complete=True)
    assert result.interval == pytest.approx((-1 / 3, -1 / 3))
    assert result.outcome == "regressed"


def test_an_improvement_guard_is_the_same_with_the_sign_turned() -> None:
    better = singles(mixed(2000, 20, 400))
    assert run(better, -0.05, total=2000).outcome == "pass"
    assert run(singles([0.0] * 2000), -0.05, total=2000).outcome == "regressed"


def test_a_margin_beyond_the_scale_is_met_and_a_gain_beyond_it_is_not() -> None:
    assert run(singles([-1.0, -1.0]), 1.5, total=4).outcome == "pass"
    assert run(singles([1.0, 1.0]), -1.5, total=4).outcome == "regressed"


@pytest.mark.parametrize("estimand", ["frozen", "population"])
def test_rescaling_the_metric_changes_nothing(estimand: Estimand) -> None:
    d = np.array(mixed(300, 30, 20))
    plain = run(singles(d), 0.05, total=400, estimand=estimand)
    scaled = run(singles(d * 100), 5.0, total=400, span=100.0, estimand=estimand)
    assert scaled.outcome == plain.outcome
    assert scaled.log_e_pass == pytest.approx(plain.log_e_pass)
    assert scaled.interval == pytest.approx((plain.interval[0] * 100, plain.interval[1] * 100), abs=1e-3)


@pytest.mark.parametrize("estimand", ["frozen", "population"])
def test_turning_the_signs_swaps_the_sides(estimand: Estimand) -> None:
    d = np.array(mixed(300, 60, 10))
    plain, turned = (run(singles(s * d), s * 0.05, total=400, estimand=estimand) for s in (1, -1))
    assert (plain.log_e_pass, plain.log_e_block) == pytest.approx((turned.log_e_block, turned.log_e_pass))
    assert (plain.outcome, turned.outcome) == ("regressed", "pass")
    assert plain.interval == pytest.approx((-turned.interval[1], -turned.interval[0]), abs=1e-6)


@pytest.mark.parametrize("margin", [0.02, 0.1, -0.05])
@pytest.mark.parametrize("estimand", ["frozen", "population"])
def test_the_interval_never_contradicts_the_outcome(estimand: Estimand, margin: float) -> None:
    rng = np.random.default_rng(5)
    for _ in range(8):
        n = int(rng.integers(1, 300))
        draws = singles(rng.choice([-1.0, -0.3, 0.0, 1.0], n, p=[0.1, 0.1, 0.6, 0.2]) * rng.choice([1, -1]))
        result = run(draws, margin, total=n + 100, estimand=estimand)
        low, high = result.interval
        mean = float(draws.sums.mean())
        assert -1 <= low <= mean <= high <= 1
        if result.outcome == "pass" and mean > -margin:
            assert low >= -margin
        if result.outcome == "regressed" and mean < -margin:
            assert high <= -margin
        if result.outcome == "undecided":
            assert low <= -margin + 1e-6
            assert high >= -margin - 1e-6


def test_means_inside_the_interval_are_not_ruled_out_and_means_outside_are() -> None:
    draws, design = singles(mixed(400, 40, 30)), Design(0.1, 1.0, "frozen", 900)
    low, high = sequential_test(draws, design, alpha=0.05, block_alpha=0.05).interval
    threshold = math.log(20)
    for m in np.linspace(-0.99, 0.99, 67):
        pass_side = running_log_e(draws, design, side=1, m=float(m))[-1] >= threshold
        block_side = running_log_e(draws, design, side=-1, m=float(m))[-1] >= threshold
        assert pass_side == (m < low)
        assert block_side == (m > high)


SMALL = [
    [-1.0, -1.0, 0.0, 0.0, 1.0],
    [-0.5, 0.2, 0.2, 1.0, 0.0],
    [-1.0, 0.0, 0.0, 0.0, 0.0],
    [1.0, 1.0, 1.0, 1.0, -1.0],
]


@pytest.mark.parametrize("alpha", [0.2, 0.4])
@pytest.mark.parametrize("items", SMALL, ids=str)
def test_wrong_decisions_and_missed_means_are_as_rare_as_promised_over_all_orders(
    items: list[float], alpha: float
) -> None:
    mean = math.fsum(items) / len(items)
    orders = set(itertools.permutations(items))  # each as likely as any other, because ties repeat all alike
    passed, regressed, missed = 0, 0, 0
    for order in orders:
        # At δ = −mean both nulls hold with equality: any decision before the end is a wrong one.
        result = run(singles(order[:-1]), -mean, total=len(items), alpha=alpha)
        passed += result.outcome == "pass"
        regressed += result.outcome == "regressed"
        missed += not result.interval[0] - 1e-6 <= mean <= result.interval[1] + 1e-6
    assert passed <= alpha * len(orders)
    assert regressed <= alpha * len(orders)
    assert missed <= 2 * alpha * len(orders)


def test_the_sides_have_their_own_levels() -> None:
    draws, design = singles(mixed(300, 60, 10)), Design(0.05, 1.0, "frozen", 3000)
    strict = sequential_test(draws, design, alpha=0.05, block_alpha=1e-12)
    assert strict.outcome == "undecided"
    assert strict.log_e_block > math.log(20)


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (singles([1.5]), "exceeds"),
        (singles([math.nan]), "exceeds"),
        (singles([0.5], [0]), "exceeds"),
        (Draws(np.zeros(1), np.array([2]), np.array([1])), "more pairs"),
        (singles([0.0] * 9), "frozen set"),
    ],
    ids=["beyond the span", "NaN", "failed and yet a difference", "more scored than asked", "more than the set"],
)
def test_contradictory_draws_are_refused(draws: Draws, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sequential_test(draws, Design(0.02, 1.0, "frozen", 8), alpha=0.05, block_alpha=0.05)


def test_a_cluster_beyond_the_cap_and_a_level_beyond_one_are_refused() -> None:
    draws = Draws(np.zeros(1), np.array([3]), np.array([3]))
    with pytest.raises(ValueError, match="cap"):
        sequential_test(draws, Design(0.02, 1.0, "population", 8, cluster_cap=2), alpha=0.05, block_alpha=0.05)
    with pytest.raises(ValueError, match="levels"):
        sequential_test(draws, Design(0.02, 1.0, "frozen", 8), alpha=1.0, block_alpha=0.05)
