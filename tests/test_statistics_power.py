"""Planning by simulation, and by simulation that the decisions are as seldom wrong as they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.records import Estimand
from harness.statistics import power
from harness.statistics.ordering import commit_order
from harness.statistics.power import Setting, decide_sets, draw_sets, fewest_samples, plan, simulate
from harness.statistics.sequential import Design, Draws, running_log_e, sequential_test


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def setting(n: int, flips: float, margin: float, estimand: Estimand, cluster: int = 1) -> Setting:
    return Setting(n, flips, margin, 0.05, 0.05, estimand, cluster)


def at_most(rate: float, level: float, runs: int) -> bool:
    return rate <= level + 3 * math.sqrt(level * (1 - level) / runs)


CASES = [
    setting(200, 0.12, 0.05, "frozen"),
    setting(541, 0.05, 0.02, "frozen"),
    setting(500, 0.12, 0.04, "frozen", cluster=5),
    setting(300, 0.12, 0.04, "population"),
    setting(600, 0.12, 0.05, "population", cluster=5),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_wrong_promotions_and_blocks_of_an_equal_model_are_rare(case: Setting) -> None:
    runs = 400
    assert at_most(float(simulate(case, -case.margin, runs, rng(1)).passed.mean()), case.alpha, runs)
    assert at_most(float(simulate(case, 0.0, runs, rng(2)).regressed.mean()), case.block_alpha, runs)


def test_unequal_clusters_in_the_committed_order_promote_wrongly_no_more_often_than_promised() -> None:
    # The large clusters lose and the small ones win, for a mean of exactly −δ.
    sizes = np.array([12] * 6 + [1] * 88)
    sums = np.where(sizes == 12, -12.0, 1.0)
    sums[6 + 24 :] = 0.0
    names = [str(cluster) for cluster, size in enumerate(sizes) for _ in range(size)]
    delta, runs, passed = -float(sums.sum() / sizes.sum()), 400, 0
    for run in range(runs):
        order = commit_order(names, len(names), str(run).encode(), size_biased=True)
        drawn = np.array([int(c) for c in dict.fromkeys(names[i] for i in order)])[:-1]
        draws = Draws(sums[drawn], sizes[drawn], sizes[drawn])
        passed += running_log_e(draws, Design(delta, 1.0, "frozen", len(names)), side=1)[-1] >= math.log(1 / 0.2)
    assert at_most(passed / runs, 0.2, runs)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("difference", [0.0, -0.1])
def test_a_simulated_run_is_decided_as_the_gate_decides_it(case: Setting, difference: float) -> None:
    if abs(difference) > case.flip_rate:
        return
    sums, sizes = draw_sets(case, difference, 6, rng(4))
    outcomes = decide_sets(case, sums, sizes)
    total = int(sizes[0].sum())
    for run in range(len(sums)):
        scored = sizes[run].astype(np.int64)
        design = Design(case.margin, 1.0, case.estimand, total, case.cluster_size)
        result = sequential_test(Draws(sums[run], scored, scored), design, alpha=0.05, block_alpha=0.05, complete=True)
        assert result.outcome == "undecided" or outcomes.passed[run] == (result.outcome == "pass")
        assert outcomes.regressed[run] == (result.outcome == "regressed")
        if result.decided_at is not None:
            assert outcomes.share[run] == pytest.approx(scored[: result.decided_at].sum() / total)


def test_batches_and_the_first_look_do_not_change_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    case = setting(400, 0.12, 0.05, "frozen")
    monkeypatch.setattr(power, "_BATCH", 1_000)
    assert len(simulate(case, 0.0, 7, rng()).passed) == 7
    sums, sizes = draw_sets(case, 0.0, 7, rng())
    together = decide_sets(case, sums, sizes)
    alone = [decide_sets(case, sums[i : i + 1], sizes[i : i + 1]) for i in range(7)]
    assert list(together.share) == [outcome.share[0] for outcome in alone]


def test_frozen_sets_hold_exactly_the_difference_asked_for() -> None:
    sums, sizes = draw_sets(setting(541, 0.12, 0.02, "frozen"), -0.02, 5, rng())
    assert sizes.shape == sums.shape == (5, 541)
    means = sums.mean(axis=1)
    assert np.ptp(means) == 0
    assert -0.02 - 2 / 541 <= means[0] <= -0.02
    with pytest.raises(ValueError, match="needs more flips"):
        simulate(setting(100, 0.02, 0.02, "frozen"), 0.05, 10, rng())


def test_a_plan_of_a_frozen_set_is_never_undecided() -> None:
    answer = plan(300, 0.08, 0.05, estimand="frozen", guards=4, runs=100, rng=rng())
    assert answer.undecided_rate == 0.0
    assert answer.pass_rate + answer.block_rate == 1.0
    assert answer.aa_block_rate == answer.block_rate
    assert 0 < answer.mean_share <= answer.share_90 <= 1
    assert answer.fewest_samples <= answer.share_90 * 300
    assert answer.detectable_drop == pytest.approx(0.05, abs=0.01)  # complete, it sees any drop of δ
    assert answer.error == pytest.approx(0.05)


def test_a_plan_of_a_small_stream_says_that_it_can_show_nothing() -> None:
    answer = plan(20, 0.1, 0.02, estimand="population", runs=100, rng=rng())
    assert answer.undecided_rate > 0.9
    assert answer.fewest_samples == 20
    assert answer.detectable_drop is None or answer.detectable_drop > 0.2


def test_a_true_drop_can_be_asked_about() -> None:
    answer = plan(400, 0.2, 0.05, estimand="frozen", true_difference=-0.15, runs=100, rng=rng())
    assert answer.block_rate == 1.0
    assert answer.aa_block_rate <= 0.1
    assert answer.mean_share < 0.6


@pytest.mark.parametrize("estimand", ["frozen", "population"])
def test_the_fewest_samples_are_those_of_a_set_without_any_change(estimand: Estimand) -> None:
    fewest = fewest_samples(1319, 0.02, 0.05, estimand)
    one = np.ones(1319, dtype=np.int64)
    design = Design(0.02, 1.0, estimand, 1319)
    result = sequential_test(Draws(np.zeros(1319), one, one), design, alpha=0.05, block_alpha=0.05)
    assert result.decided_at == fewest
    # No test at level α can pass earlier than when −δ with the rarest flips would still look like this.
    assert fewest >= math.log(0.05) / math.log(1 - 0.02) / 2
