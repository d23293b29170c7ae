"""Every fixed-sample formula against an independent implementation: scipy, statsmodels or a count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from harness.statistics.clustered import clustered_interval
from harness.statistics.multiplicity import holm, holm_adjusted
from harness.statistics.paired import chance_centred_forgetting, flips, mcnemar_exact, paired_interval
from harness.statistics.power import smallest_detectable_drop
from harness.statistics.proportions import proportion_lower_bound


@pytest.mark.parametrize(("lost", "won"), [(0, 1), (3, 3), (2, 9), (40, 22), (0, 30)])
def test_mcnemar_is_the_exact_test_of_statsmodels(lost: int, won: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    expected = mcnemar([[10, lost], [won, 10]], exact=True).pvalue
    assert mcnemar_exact(lost, won) == pytest.approx(expected)
    assert mcnemar_exact(won, lost) == mcnemar_exact(lost, won)


def test_mcnemar_without_flips_shows_nothing() -> None:
    assert mcnemar_exact(0, 0) == 1.0


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        p = [*rng.uniform(0, 1, size - 1) ** 3, 0.0]
        rejected, adjusted, *_ = multipletests(p, alpha=0.05, method="holm")
        np.testing.assert_allclose(holm_adjusted(p), adjusted)
        assert holm(p, 0.05) == list(rejected)


def test_holm_with_ties_nothing_and_nonsense() -> None:
    assert holm_adjusted([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm_adjusted([]) == []
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm_adjusted([math.nan])


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95])
def test_paired_interval_is_scipys_paired_t(confidence: float) -> None:
    rng = np.random.default_rng(1)
    baseline, candidate = rng.normal(size=(2, 25))
    expected = scipy.stats.ttest_rel(candidate, baseline).confidence_interval(confidence)
    found = paired_interval(candidate - baseline, confidence=confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.estimate == pytest.approx(np.mean(candidate - baseline))


def test_clustered_interval_is_cluster_robust_least_squares() -> None:
    from statsmodels.regression.linear_model import OLS

    rng = np.random.default_rng(2)
    labels = rng.integers(0, 12, 80)
    d = rng.normal(size=80) + rng.normal(size=12)[labels]
    fit = OLS(d, np.ones(80)).fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    low, high = fit.conf_int(alpha=0.1)[0]
    found = clustered_interval(d, labels * 7 - 3, confidence=0.9)  # labels are names, not places
    assert (found.estimate, found.low, found.high) == pytest.approx((fit.params[0], low, high))


def test_clusters_of_one_are_no_clusters() -> None:
    d = np.random.default_rng(3).normal(size=30)
    alone, plain = clustered_interval(d, np.arange(30), confidence=0.95), paired_interval(d, confidence=0.95)
    assert (alone.low, alone.high) == pytest.approx((plain.low, plain.high))


def test_intervals_need_two_of_what_varies() -> None:
    with pytest.raises(ValueError, match="two differences"):
        paired_interval(np.zeros(1), confidence=0.9)
    with pytest.raises(ValueError, match="two clusters"):
        clustered_interval(np.zeros(5), np.zeros(5, dtype=np.int64), confidence=0.9)
    with pytest.raises(ValueError, match="two clusters"):
        clustered_interval(np.zeros(0), np.zeros(0, dtype=np.int64), confidence=0.9)


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (1, 20), (13, 20), (20, 20), (999, 1000)])
def test_lower_bound_is_clopper_pearson(successes: int, trials: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    expected, _ = proportion_confint(successes, trials, alpha=0.1, method="beta")
    assert proportion_lower_bound(successes, trials, confidence=0.95) == pytest.approx(expected)


def test_lower_bound_refuses_what_is_no_proportion() -> None:
    for successes, trials in ((1, 0), (-1, 4), (5, 4)):
        with pytest.raises(ValueError, match="proportion"):
            proportion_lower_bound(successes, trials, confidence=0.95)


def test_flips_count_what_changed_and_not_rounding() -> None:
    baseline, candidate = np.array([1, 0, 1, 0.3]), np.array([0, 1, 1, 0.1 + 0.2])
    assert (flips(candidate - baseline).lost, flips(candidate - baseline).won) == (1, 1)


def test_forgetting_is_what_a_model_that_guesses_would_show() -> None:
    # 400 of 1,000 known; 100 of them forgotten, none learnt; guessing earns 1/4: of those forgotten a quarter is
    # guessed all the same, and the 600 never known flip by luck both ways alike.
    lucky = 600 * 0.25 * 0.75
    lost, won = round(100 * 0.75 + lucky), round(lucky)
    assert chance_centred_forgetting(lost, won, 1000, 0.25) == pytest.approx(0.1, abs=0.002)  # whole flips
    assert chance_centred_forgetting(3, 9, 100, 0.0) == 0.0
    for n, chance in ((0, 0.0), (10, 1.0)):
        with pytest.raises(ValueError, match="chance"):
            chance_centred_forgetting(0, 0, n, chance)


def test_smallest_detectable_drop_has_the_power_it_names() -> None:
    d = np.array([-1.0] * 6 + [1.0] * 6 + [0.0] * 88)
    drop, error = smallest_detectable_drop(d, np.arange(100), alpha=0.05), float(np.std(d, ddof=1)) / 10
    power = scipy.stats.norm.sf(scipy.stats.norm.isf(0.05) - drop / error)
    assert power == pytest.approx(0.8)
