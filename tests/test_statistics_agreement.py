"""Agreement against scikit-learn, statsmodels, krippendorff and published tables, and where it stops being defined."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import stdtrit

from harness.statistics.agreement import (
    Level,
    Weights,
    alpha_interval,
    auc,
    auc_interval,
    cohen_kappa,
    committed_folds,
    confusion,
    cross_fitted,
    kappa_interval,
    krippendorff_alpha,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units; 0: missing.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ],
    dtype=float,
)
PUBLISHED[PUBLISHED == 0] = np.nan


def rated(n: int, levels: int, seed: int, *, sight: float = 0.6) -> tuple[Ints, Ints]:
    """Two raters, of whom the second repeats the first with probability `sight` and guesses otherwise."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, levels, n)
    return first, np.where(rng.random(n) < sight, first, rng.integers(0, levels, n))


# ---------------------------------------------------------------- κ


@pytest.mark.parametrize("levels", [2, 3, 5])
@pytest.mark.parametrize(("weights", "theirs"), [("none", None), ("quadratic", "quadratic")])
def test_kappa_is_that_of_scikit_learn(levels: int, weights: Weights, theirs: str | None) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        a, b = rated(40, levels, seed)
        expected = metrics.cohen_kappa_score(a, b, weights=theirs, labels=list(range(levels)))
        assert cohen_kappa(a, b, levels=levels, weights=weights) == pytest.approx(expected, abs=1e-12)


def test_kappa_by_hand() -> None:
    # 50 grant proposals, two readers: 20 and 15 alike, 5 and 10 not. Agreement 0.7, by chance 0.5.
    a, b = np.repeat([0, 0, 1, 1], [20, 5, 10, 15]), np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert confusion(a, b, levels=2).tolist() == [[20, 5], [10, 15]]
    assert cohen_kappa(a, b, levels=2) == pytest.approx(0.4)


@pytest.mark.parametrize(("weights", "theirs"), [("none", None), ("quadratic", "fc")])
def test_error_of_kappa_is_that_of_fleiss_cohen_and_everitt(weights: Weights, theirs: str | None) -> None:
    from statsmodels.stats.inter_rater import cohens_kappa

    for seed in range(5):
        a, b = rated(150, 4, seed)
        found = kappa_interval(a, b, levels=4, weights=weights, confidence=0.9)
        error = (found.high - found.estimate) / stdtrit(149, 0.95) * np.sqrt(149 / 150)
        assert error == pytest.approx(cohens_kappa(confusion(a, b, levels=4), wt=theirs).std_kappa, rel=1e-9)


def test_a_level_that_nobody_used_widens_the_quadratic_scale_evenly() -> None:
    a, b = rated(100, 4, 0)
    for levels in (5, 9):
        assert cohen_kappa(a, b, levels=levels, weights="quadratic") == pytest.approx(
            cohen_kappa(a, b, levels=4, weights="quadratic")
        )


def test_copies_of_an_item_in_one_cluster_add_no_certainty() -> None:
    a, b = rated(80, 3, 1)
    alone = kappa_interval(a, b, levels=3)
    copies, clusters = [np.repeat(x, 4) for x in (a, b)], np.repeat(np.arange(80), 4)
    together = kappa_interval(*copies, levels=3, clusters=clusters)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    blind = kappa_interval(*copies, levels=3)
    assert blind.high - blind.low < 0.6 * (together.high - together.low)


def test_the_lower_end_lies_below_that_of_t_and_falls_with_confidence() -> None:
    a, b = rated(120, 3, 2)
    ends = [kappa_interval(a, b, levels=3, confidence=c) for c in (0.8, 0.9, 0.95, 0.99)]
    assert all(e.estimate - e.low > e.high - e.estimate > 0 for e in ends)
    assert [e.low for e in ends] == sorted((e.low for e in ends), reverse=True)


def test_perfect_agreement_is_not_certainty() -> None:
    a = np.arange(100) % 3
    found = kappa_interval(a, a, levels=3, confidence=0.9)
    assert found.estimate == 1.0
    assert found.high == 1.0
    # With no disagreement among 100 items its share may be 1 − 0.05^(1/100); chance disagreement is 0.6666.
    assert found.low == pytest.approx(1 - (1 - 0.05**0.01) / (1 - (0.34**2 + 2 * 0.33**2)))
    assert kappa_interval(a[:6], a[:6], levels=3).low < 0.4


@pytest.mark.parametrize("same", ["both", "judge", "human"])
def test_a_rater_that_never_varies_shows_nothing(same: str) -> None:
    varied, flat = np.arange(47) % 3, np.ones(47, dtype=np.int64)
    a, b = (flat if same in ("both", side) else varied for side in ("judge", "human"))
    assert cohen_kappa(a, b, levels=3) == 0.0
    assert cohen_kappa(a, b, levels=3, weights="quadratic") == 0.0
    found = kappa_interval(a, b, levels=3)
    assert (found.low, found.high) == (-1.0, 1.0)


def test_ratings_that_cannot_be_compared_are_refused() -> None:
    none = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match="no items"):
        cohen_kappa(none, none, levels=3)
    with pytest.raises(ValueError, match="from 0 to 2"):
        cohen_kappa(np.array([0, 3]), np.array([0, 1]), levels=3)
    with pytest.raises(ValueError, match="from 0 to 2"):
        cohen_kappa(np.array([0, 1]), np.array([-1, 1]), levels=3)
    with pytest.raises(ValueError, match="items"):
        cohen_kappa(np.array([0, 1]), np.array([0]), levels=3)
    with pytest.raises(ValueError, match="two clusters"):
        kappa_interval(np.array([0, 1]), np.array([0, 1]), levels=2, clusters=np.array([7, 7]))
    with pytest.raises(ValueError, match="two clusters"):
        auc_interval(np.array([0.0, 1.0]), np.array([False, True]), clusters=np.array([7, 7]))
    with pytest.raises(ValueError, match="two clusters"):
        kappa_interval(np.array([1]), np.array([1]), levels=2)
    with pytest.raises(ValueError, match="clusters for 1"):
        kappa_interval(np.array([0, 1]), np.array([0, 1]), levels=2, clusters=np.array([7]))


def test_lower_bound_of_kappa_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    missed = []
    for _ in range(800):
        first = rng.choice(3, 100, p=[0.35, 0.3, 0.35])
        second = np.where(rng.random(100) < 0.5, first, rng.choice(3, 100, p=[0.35, 0.3, 0.35]))
        missed.append(kappa_interval(first, second, levels=3, confidence=0.9).low > 0.5)
    assert np.mean(missed) == pytest.approx(0.04, abs=0.02)


# ---------------------------------------------------------------- AUC


def test_auc_is_that_of_scikit_learn_ties_included() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    for levels in (2, 5, 1000):
        positive = rng.random(90) < 0.3
        scores = rng.integers(0, levels, 90) + levels / 3 * positive
        assert auc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))


def test_error_of_auc_is_that_of_delong() -> None:
    rng = np.random.default_rng(4)
    positive = rng.random(120) < 0.4
    scores = np.round(rng.normal(positive * 1.0), 1)
    wins = (scores[positive][:, None] > scores[~positive]) + 0.5 * (scores[positive][:, None] == scores[~positive])
    # DeLong et al. 1988: the variances of both kinds' placements, each over its number.
    variance = (
        np.var(wins.mean(axis=1), ddof=1) / positive.sum() + np.var(wins.mean(axis=0), ddof=1) / (~positive).sum()
    )
    found = auc_interval(scores, positive)
    rarer = min(positive.sum(), (~positive).sum())
    assert (found.high - found.estimate) / stdtrit(rarer - 1, 0.975) == pytest.approx(np.sqrt(variance), rel=0.01)


def test_auc_where_it_stops_being_defined() -> None:
    positive = np.arange(40) < 15
    with pytest.raises(ValueError, match="both kinds"):
        auc(np.arange(40.0), np.ones(40, dtype=bool))
    with pytest.raises(ValueError, match="finite"):
        auc(np.full(40, np.nan), positive)
    perfect = auc_interval(positive * 1.0, positive, confidence=0.9)
    assert perfect.estimate == 1.0
    assert perfect.low == pytest.approx(0.05 ** (1 / 15))  # none of the 15 rarer ones was out of place
    lone = auc_interval(np.arange(40.0), np.arange(40) == 30)
    assert (lone.low, lone.high) == (0.0, 1.0)
    flat = auc_interval(np.ones(40), positive)
    assert (flat.low, flat.estimate, flat.high) == (0.0, 0.5, 1.0)


# ---------------------------------------------------------------- α


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level: Level, expected: float) -> None:
    assert krippendorff_alpha(PUBLISHED, level=level) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_is_that_of_krippendorff_with_missing_ratings(level: Level) -> None:
    package = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(5)
    for raters in (2, 3, 6):
        truth = rng.integers(0, 5, 60)
        ratings = np.where(rng.random((raters, 60)) < 0.6, truth, rng.integers(0, 5, (raters, 60))) * 1.5 - 2
        ratings[rng.random(ratings.shape) < 0.3] = np.nan
        expected = package.alpha(ratings, level_of_measurement=level)
        assert krippendorff_alpha(ratings, level=level) == pytest.approx(expected, abs=1e-12)


def test_error_of_alpha_is_what_new_samples_show() -> None:
    rng = np.random.default_rng(6)
    found = []
    for _ in range(150):
        truth = rng.integers(0, 4, 80)
        ratings = np.where(rng.random((3, 80)) < 0.7, truth, rng.integers(0, 4, (3, 80))).astype(float)
        interval = alpha_interval(ratings, level="ordinal", confidence=0.9)
        found.append([interval.estimate, (interval.high - interval.estimate) / stdtrit(79, 0.95)])
    estimates, errors = np.array(found).T
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.2)


def test_alpha_where_it_stops_being_defined() -> None:
    alone = np.array([[1.0, np.nan], [np.nan, 2.0]])
    with pytest.raises(ValueError, match="two ratings"):
        krippendorff_alpha(alone, level="nominal")
    with pytest.raises(ValueError, match="finite"):
        krippendorff_alpha(np.array([[1.0, np.inf], [1.0, 2.0]]), level="interval")
    assert krippendorff_alpha(np.ones((3, 9)), level="ordinal") == 0.0
    assert alpha_interval(np.ones((3, 9)), level="ordinal").low == -1.0
    with pytest.raises(ValueError, match="two clusters"):
        alpha_interval(np.array([[1.0, 2.0], [1.0, 2.0]]), level="nominal", clusters=np.array([4, 4]))
    alike = np.tile(np.arange(30.0) % 3, (2, 1))
    assert alpha_interval(alike, level="nominal").low == pytest.approx(0.826, abs=0.01)


# ---------------------------------------------------------------- held-out levels


def test_folds_keep_clusters_whole_are_even_and_can_be_made_again() -> None:
    names = [f"session {i // 3}" for i in range(90)]
    folds = committed_folds(90, 5, b"labels of 3 May", cluster_of=names)
    assert all(len(set(folds[i : i + 3])) == 1 for i in range(0, 90, 3))
    assert np.bincount(folds).tolist() == [18] * 5
    assert folds.tolist() == committed_folds(90, 5, b"labels of 3 May", cluster_of=names).tolist()
    assert folds.tolist() != committed_folds(90, 5, b"labels of 4 May", cluster_of=names).tolist()
    with pytest.raises(ValueError, match="31 folds of 30 clusters"):
        committed_folds(90, 31, b"", cluster_of=names)


def test_the_map_to_human_levels_is_isotonic_regression_on_the_other_folds() -> None:
    isotonic = pytest.importorskip("sklearn.isotonic")
    rng = np.random.default_rng(7)
    human = rng.integers(0, 5, 200)
    judge = np.round(human * 20 + rng.normal(0, 25, 200))
    folds = committed_folds(200, 4, b"seed")
    expected = np.empty(200)
    for fold in range(4):
        out = folds == fold
        fitted = isotonic.IsotonicRegression(out_of_bounds="clip").fit(judge[~out], human[~out])
        expected[out] = fitted.predict(judge[out])
    assert cross_fitted(judge, human, folds, levels=5).tolist() == np.floor(expected + 0.5).astype(int).tolist()


def test_recalibration_finds_no_agreement_where_there_is_none() -> None:
    rng = np.random.default_rng(8)
    kappas = []
    for seed in range(40):
        human, judge = rng.integers(0, 3, 120), rng.normal(size=120)
        folds = committed_folds(120, 5, bytes([seed]))
        kappas.append(cohen_kappa(cross_fitted(judge, human, folds, levels=3), human, levels=3, weights="quadratic"))
    assert np.mean(kappas) < 0.03


def test_recalibration_mends_a_shifted_scale_but_not_a_reversed_one() -> None:
    rng = np.random.default_rng(9)
    human = rng.integers(0, 5, 300)
    shifted = np.minimum(human + 2, 4) * 1.0
    folds = committed_folds(300, 5, b"seed")
    raw = cohen_kappa(shifted.astype(np.int64), human, levels=5, weights="quadratic")
    mended = cohen_kappa(cross_fitted(shifted, human, folds, levels=5), human, levels=5, weights="quadratic")
    assert mended > raw + 0.2
    assert abs(cohen_kappa(cross_fitted(-shifted, human, folds, levels=5), human, levels=5)) < 0.05


@pytest.mark.parametrize("wrong", ["short", "one fold", "not a number"])
def test_cross_fitting_refuses_what_it_cannot_use(wrong: Literal["short", "one fold", "not a number"]) -> None:
    judge, human, folds = np.arange(6.0), np.arange(6) % 3, np.arange(6) % 2
    if wrong == "short":
        judge = judge[:5]
    elif wrong == "one fold":
        folds = folds * 0
    else:
        judge[2] = np.nan
    with pytest.raises(ValueError, match=r"fold|length"):
        cross_fitted(judge, human, folds, levels=3)
