"""How far a judge agrees with humans, and jurors with each other, with intervals that respect clusters.

**Error.** Every coefficient here is a smooth function of means, so that its error can be read off its influence
values: how much each rated item pulls the estimate. Summed within clusters where items come in clusters
(`clustered_interval`), their squares give the standard error. For Cohen's κ without clusters that is the one of Fleiss,
Cohen & Everitt 1969, with n − 1 for n; for AUC the one of DeLong, DeLong & Clarke-Pearson 1988; with clusters that of
Obuchowski 1997. For Krippendorff's α the influence is found by leaving out each item or cluster once (jackknife).

**Interval.** The upper end is Student's t. The lower end, which decides whether a judge may block, is Student's t on
the scale of log(1 − coefficient) and always lies lower: κ and α are 1 − a ratio of disagreements, and such ratios are
skew. By simulation, at n = 100 to 300 and true κ from 0.4 to 0.8, a lower bound at 95 % lies above the truth in 0 to
7 % of the runs this way, in 5 to 13 % with t alone (the most for a rare class and high κ), in 0 to 7 % on Fisher's
scale (atanh), and in 3 to 8 % with the BCa bootstrap. Upper ends lie below the truth in up to 11 % on either of the
first two scales, and in up to 9 % with t. The lower bound keeps its level near 0.4, where it is needed, and exceeds it
most (6 %) for quadratic weights on five levels and high κ; docs/judging-validity.md has a table.

**Near perfection.** Where fewer than five items (or clusters) hold any disagreement, their spread says little about how
many there are, and the exact binomial bound on their share is used if it lies lower still: perfect agreement on a few
items is no proof of it.

Ratings are levels 0 … levels − 1, worst first, so that a rubric's 1 to 5 becomes 0 to 4 and a pairwise −1, 0, 1 becomes
0, 1, 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.statistics.clustered import clustered_error, clustered_interval
from harness.statistics.ordering import commit_order
from harness.statistics.paired import Interval, paired_interval, t_interval
from harness.statistics.proportions import proportion_lower_bound

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

Weights = Literal["none", "quadratic"]
Level = Literal["nominal", "ordinal", "interval"]

_FEW = 5  # units that disagree, below which their spread says little about how many there are


def confusion(a: Ints, b: Ints, *, levels: int) -> Ints:
    """(levels, levels) counts of items that got level i in `a` (rows) and j in `b` (columns); both (n,)."""
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"ratings of {a.shape} and {b.shape} items")
    if levels < 2 or np.any((a < 0) | (a >= levels) | (b < 0) | (b >= levels)):
        raise ValueError(f"ratings must be levels from 0 to {levels - 1}, at least two")
    counts: Ints = np.bincount(a * levels + b, minlength=levels**2).reshape(levels, levels)
    return counts


def cohen_kappa(a: Ints, b: Ints, *, levels: int, weights: Weights = "none") -> float:
    """Cohen's κ (1960), or the weighted κ (1968) with squared distances between levels; at most 1.

    Where a rater gave every item the same level, agreement beyond chance can be neither shown nor denied: 0.

    Args:
        a: (n,) levels of one rater, n ≥ 1.
        b: (n,) levels of the other.
        levels: number of levels on the scale, used or not, ≥ 2.
        weights: `none` counts every disagreement alike.

    Raises:
        ValueError: no items, or ratings off the scale.
    """
    return _kappa(a, b, levels, weights)[0]


def kappa_interval(
    a: Ints, b: Ints, *, levels: int, weights: Weights = "none", confidence: float = 0.95, clusters: Ints | None = None
) -> Interval:
    """κ with its two-sided interval; the lower end alone is a bound at (1 + confidence) / 2.

    Where a rater used one level only the interval is the whole scale.

    Args:
        a: see `cohen_kappa`.
        b: see `cohen_kappa`.
        levels: see `cohen_kappa`.
        weights: see `cohen_kappa`.
        confidence: two-sided level, in (0, 1).
        clusters: (n,) cluster of each item, at least two; None when each stands alone.

    Raises:
        ValueError: fewer than two items or clusters, or ratings off the scale.
    """
    estimate, influence, chance = _kappa(a, b, levels, weights)
    units = _units(clusters, len(a))
    found = clustered_interval(estimate + influence, units, confidence=confidence)
    if np.all(a == a[0]) or np.all(b == b[0]):
        return Interval(estimate, -1.0, 1.0)
    return _bounded(found, _share_bound((a != b).astype(float), units, confidence) / chance, -1.0)


def _kappa(a: Ints, b: Ints, levels: int, weights: Weights) -> tuple[float, Floats, float]:
    """κ, the influence of each item, and the disagreement that chance would give."""
    counts, n, places = confusion(a, b, levels=levels), len(a), np.arange(levels)
    if not n:
        raise ValueError("no items were rated")
    cost = (places[:, None] - places) ** 2 / (levels - 1) ** 2 if weights == "quadratic" else places[:, None] != places
    rows, columns = counts.sum(axis=1) / n, counts.sum(axis=0) / n
    seen, chance = float(np.sum(cost * counts)) / n, float(rows @ cost @ columns)
    if rows.max() == 1.0 or columns.max() == 1.0:
        return 0.0, np.zeros(n), chance
    # κ = 1 − seen / chance; an item moves `seen` by its own cost and `chance` through both margins.
    expected = (cost @ columns)[a] + (rows @ cost)[b] - 2.0 * chance
    influence = (seen / chance * expected - (cost[a, b] - seen)) / chance
    return 1.0 - seen / chance, influence, chance


def auc(scores: Floats, positive: Bools) -> float:
    """Chance that a positive item's score is above a negative one's, ties counting half (Mann & Whitney); in [0, 1].

    Args:
        scores: (n,) the judge's scores, finite.
        positive: (n,) the humans' label; at least one of each kind.

    Raises:
        ValueError: only one kind of label, or a score that is not a number.
    """
    return _auc(scores, positive)[0]


def auc_interval(
    scores: Floats, positive: Bools, *, confidence: float = 0.95, clusters: Ints | None = None
) -> Interval:
    """AUC with its two-sided interval (DeLong et al. 1988; Obuchowski 1997 with clusters), within [0, 1].

    Student's t has one degree of freedom less than there are items (or clusters) of the rarer kind, where most of the
    error comes from. Where all scores are equal, or there is one item of a kind, the interval is the whole scale.

    Args:
        scores: see `auc`.
        positive: see `auc`.
        confidence: two-sided level, in (0, 1).
        clusters: (n,) cluster of each item, at least two; None when each stands alone.

    Raises:
        ValueError: as `auc`, or fewer than two clusters.
    """
    estimate, influence, misplaced = _auc(scores, positive)
    units = _units(clusters, len(scores))
    rarer = positive if positive.sum() * 2 <= len(positive) else ~positive
    few = len(np.unique(units[rarer]))
    error, many = clustered_error(influence, units)
    if np.all(scores == scores[0]) or few < 2:
        return Interval(estimate, 0.0, 1.0)
    error *= math.sqrt(few / (few - 1) * (many - 1) / many)
    found = t_interval(estimate, error, few - 1, confidence)
    return _bounded(found, _share_bound(misplaced[rarer], units[rarer], confidence), 0.0)


def _auc(scores: Floats, positive: Bools) -> tuple[float, Floats, Floats]:
    """AUC, the influence of each item, and the share of the other kind's items that each is on the wrong side of."""
    if scores.shape != positive.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise ValueError("scores must be finite, one for each label")
    high, low = scores[positive], scores[~positive]
    if not len(high) or not len(low):
        raise ValueError("an AUC needs items of both kinds")
    placed = np.empty(len(scores))
    placed[positive] = _share_below(high, low)
    placed[~positive] = 1.0 - _share_below(low, high)
    area = float(np.mean(placed[positive]))
    influence = (placed - area) * np.where(positive, len(scores) / len(high), len(scores) / len(low))
    return area, influence, 1.0 - placed


def _share_below(values: Floats, others: Floats) -> Floats:
    """For each value, the share of others below it, those equal counting half."""
    ordered = np.sort(others)
    sides = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    share: Floats = sides / (2.0 * len(others))
    return share


def krippendorff_alpha(ratings: Floats, *, level: Level) -> float:
    """Krippendorff's α: 1 − observed over expected disagreement, for any number of raters; at most 1.

    Computed from the coincidences of values (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"). Where
    all ratings are the same one value, agreement beyond chance can be neither shown nor denied: 0.

    Args:
        ratings: (raters, items), NaN where a rater gave none; an item with fewer than two ratings says nothing.
        level: `nominal` counts every disagreement alike, `ordinal` by the ranks between, `interval` by the square of
            the difference.

    Raises:
        ValueError: no item has two ratings, or a rating is infinite.
    """
    counts, values, _ = _counted(ratings)
    return _alpha(counts, values, level)


def alpha_interval(
    ratings: Floats, *, level: Level, confidence: float = 0.95, clusters: Ints | None = None
) -> Interval:
    """Krippendorff's α with its two-sided interval by the jackknife over items or clusters.

    Args:
        ratings: see `krippendorff_alpha`.
        level: see `krippendorff_alpha`.
        confidence: two-sided level, in (0, 1).
        clusters: (items,) cluster of each item; at least two hold an item with two ratings. None: each stands alone.

    Raises:
        ValueError: as `krippendorff_alpha`, or fewer than two items or clusters.
    """
    counts, values, kept = _counted(ratings)
    units = _units(clusters, ratings.shape[1])[kept]
    names, place = np.unique(units, return_inverse=True)
    estimate = _alpha(counts, values, level)
    if len(names) < 2:
        raise ValueError(f"an interval needs at least two clusters, not {len(names)}")
    if len(values) < 2:
        return Interval(0.0, -1.0, 1.0)
    left_out = np.array([_alpha(counts[place != k], values, level) for k in range(len(names))])
    pulls = (len(names) - 1) * (np.mean(left_out) - left_out)
    found = paired_interval(estimate + pulls, confidence=confidence)
    disagree = ((counts > 0).sum(axis=1) > 1).astype(float)
    worst = _distances(counts.sum(axis=0), values, level).max() / _disagreement(counts, values, level)[1]
    return _bounded(found, _share_bound(disagree, units, confidence) * worst, -1.0)


def _counted(ratings: Floats) -> tuple[Floats, Floats, Ints]:
    """(items, values) how many raters gave each value to each item with two ratings, the values, and those items."""
    if ratings.ndim != 2 or np.isinf(ratings).any():
        raise ValueError("ratings are a table of raters by items of finite numbers, or NaN where one is missing")
    given = ~np.isnan(ratings)
    kept = np.flatnonzero(given.sum(axis=0) >= 2)
    if not len(kept):
        raise ValueError("no item has two ratings")
    ratings, given = ratings[:, kept], given[:, kept]
    values = np.unique(ratings[given])
    return (ratings[:, :, None] == values).sum(axis=0).astype(np.float64), values, kept


def _alpha(counts: Floats, values: Floats, level: Level) -> float:
    seen, chance = _disagreement(counts, values, level)
    return 1.0 - seen / chance if chance > 0 else 0.0


def _disagreement(counts: Floats, values: Floats, level: Level) -> tuple[float, float]:
    """Observed and expected disagreement."""
    raters, totals = counts.sum(axis=1), counts.sum(axis=0)
    coincidences = (counts / (raters - 1.0)[:, None]).T @ counts
    coincidences -= np.diag((counts / (raters - 1.0)[:, None]).sum(axis=0))
    chances = np.outer(totals, totals) - np.diag(totals)
    cost, n = _distances(totals, values, level), float(totals.sum())
    return float(np.sum(cost * coincidences)) / n, float(np.sum(cost * chances)) / (n * max(n - 1.0, 1.0))


def _distances(totals: Floats, values: Floats, level: Level) -> Floats:
    """(values, values) squared distance of two values."""
    if level == "nominal":
        apart: Floats = (values[:, None] != values).astype(np.float64)
        return apart
    # Two ranks are as far apart as the ratings from one to the other, half of those at both ends not counted.
    places = np.cumsum(totals) - totals / 2.0 if level == "ordinal" else values
    distance: Floats = (places[:, None] - places) ** 2
    return distance


def committed_folds(n: int, folds: int, seed_material: bytes, *, cluster_of: Sequence[str] | None = None) -> Ints:
    """(n,) the fold of every item, 0 … folds − 1, which anyone can compute again from `seed_material`.

    Clusters come in the order that the hash commits to (`commit_order`); each goes to the fold that holds fewest items.

    Args:
        n: number of items.
        folds: at least 2, and no more than there are clusters.
        seed_material: what the folds are committed to.
        cluster_of: the cluster of every item, or None when each stands alone.

    Raises:
        ValueError: too few or too many folds, or clusters are not named for every item.
    """
    names = [str(index) for index in range(n)] if cluster_of is None else list(cluster_of)
    if not 2 <= folds <= len(set(names)):
        raise ValueError(f"{folds} folds of {len(set(names))} clusters")
    members: dict[str, list[int]] = {}
    for index in commit_order(names, n, seed_material, size_biased=False):
        members.setdefault(names[index], []).append(index)
    found, held = np.zeros(n, dtype=np.int64), [0] * folds
    for group in members.values():
        fold = held.index(min(held))
        found[group] = fold
        held[fold] += len(group)
    return found


def cross_fitted(judge: Floats, human: Ints, folds: Ints, *, levels: int) -> Ints:
    """(n,) the human level that a judge's value stands for, by a map that never saw the item.

    For each fold, the rising map from value to mean human level that fits the other folds best (least squares, by
    pooling adjacent violators; Barlow et al. 1972) is applied to it, linear between the values seen and constant
    beyond, and rounded to the nearest level. A judge whose scale runs the wrong way gets a constant: κ 0.

    Args:
        judge: (n,) the judge's values on any scale, finite.
        human: (n,) levels 0 … levels − 1.
        folds: (n,) fold of each item, at least two (`committed_folds`, which keeps clusters whole).
        levels: number of human levels.

    Raises:
        ValueError: shapes disagree, one fold only, or a number is off its scale.
    """
    confusion(human, human, levels=levels)
    if judge.shape != human.shape or folds.shape != human.shape or not np.isfinite(judge).all():
        raise ValueError("judge, human and folds must be of one length, and the judge's values finite")
    if len(np.unique(folds)) < 2:
        raise ValueError("cross-fitting needs at least two folds")
    predicted = np.empty(len(judge))
    for fold in np.unique(folds):
        held_out = folds == fold
        values, fitted = _rising(judge[~held_out], human[~held_out])
        predicted[held_out] = np.interp(judge[held_out], values, fitted)
    return np.floor(predicted + 0.5).astype(np.int64)


def _rising(values: Floats, targets: Ints) -> tuple[Floats, Floats]:
    """The distinct values in order, and the isotonic fit at each."""
    from scipy.optimize import isotonic_regression  # not at the top: it is not needed to start the program

    distinct, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=targets) / counts
    fitted: Floats = isotonic_regression(means, weights=counts).x
    return distinct, fitted


def _units(clusters: Ints | None, n: int) -> Ints:
    """The cluster of each item; each its own where None."""
    if clusters is not None and clusters.shape != (n,):
        raise ValueError(f"clusters for {len(clusters)} of {n} items")
    return np.arange(n) if clusters is None else clusters


def _share_bound(bad: Floats, units: Ints, confidence: float) -> float:
    """Upper bound on the share of units with anything bad where fewer than five have, 0 where more do.

    Where raters agree in all but a few items, the spread of those few is no guide to how many there are: none at all
    would have no spread. The exact binomial bound is.
    """
    _, place = np.unique(units, return_inverse=True)
    total = int(place.max()) + 1
    worst = int(np.count_nonzero(np.bincount(place, weights=bad)))
    if worst >= _FEW:
        return 0.0
    return 1.0 - proportion_lower_bound(total - worst, total, confidence=(1 + confidence) / 2)


def _bounded(found: Interval, loss: float, least: float) -> Interval:
    """The interval within the coefficient's scale: lower end on the scale of log(1 − coefficient), or at 1 − loss."""
    short = 1.0 - found.estimate
    # An exponent of 100 is past the end of any scale, and does not overflow.
    low = 1.0 - short * math.exp(min((found.estimate - found.low) / short, 100.0)) if short > 0 else 1.0
    low = min(low, 1.0 - loss)
    return Interval(found.estimate, max(low, least), min(found.high, 1.0))
