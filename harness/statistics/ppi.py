"""Prediction-powered correction: a judge's mean difference, put right by the human labels of a few of its pairs.

**Setting.** N pairs have a judge's difference f_i, candidate minus baseline, in score points; it is 0 where both
outputs are identical, and known to be right there. θ_N is the mean of the humans' differences Y_i over the same N
pairs. n draws are labelled, made independently and *with* replacement with known probabilities q_i that are 0 for
identical outputs alone. The estimate is

    θ̂ = (1/n) Σ_t T_t,    T_t = λ f̄ + (Y_t − λ f_t) / (N q_t),

the power-tuned estimator of PPI++ (Angelopoulos, Duchi & Zrnic 2023, arXiv 2311.01453) with the weights of active
inference (Zrnic & Candès 2024, arXiv 2403.03208), whose labels are drawn one by one, as by Hansen & Hurwitz 1943, so
that their number is fixed. E T_t = θ_N whatever λ and q are: a bad judge and a bad guess at its mistakes cost width
only.

**λ** is the slope that makes the spread of T smallest, Cov(Y/q, f/q) / Var(f/q), clipped to [0, 1]. It is fitted to the
draws of the other folds (draw t is in fold t mod 10), which keeps θ̂ exactly unbiased: given the other folds, the draws
of one fold are independent of its λ. To fit it costs a little: a judge whose correlation with the labels is below about
1/√n makes the interval no narrower (Mani et al. 2025, arXiv 2505.20178).

**Error, frozen** (θ_N is what is asked about): f̄ is known, only the draws are random, and the variance is Var(T)/n.

**Error, population** (the mean θ of the stream that the N pairs came from): θ_N itself varies. Conditionally on the
pairs the mean of θ̂ is θ_N, so the variances add: Var(T)/n + Var(θ_N). λ's best value stays the same. With
e_i = Y_i − θ, summed over a cluster c, Var(θ_N) is estimated by N⁻² Σ_c (Σ_{i∈c} e_i)². Here e_i = k_i + r_i, of which
k_i = λ f_i − θ̂ is known for all N, and r_i = Y_i − λ f_i for the draws alone; it is 0 for identical outputs. So k·k is
summed as it is; k·r and a pair's own r² are weighted by 1/(n q_t); and products r·r of two draws of one cluster, but of
different pairs, by 1/(n (n−1) q_t q_s). Each is unbiased apart from θ̂ for θ in it. The products of different members
are not let below 0 in total: a cluster is not taken to be less alike than strangers are. (ppi-python adds Var(λf)/N
instead, because there the labelled pairs are not among the N.)

**The interval** is Student's t where it is wide enough. T is skew where the judge errs seldom and to one side, and then
the end that matters lies too near: with a judge that favours the candidate in 4 % of the pairs and 100 labels, t
promotes at α = 0.05 in 14 % of the runs. So each end is the farther one of t's and that of Hall's transformation
(Hall 1992, JRSS B 54, 221–228), which removes skewness to the second order; where T is symmetric they nearly agree. And
where the labels of all pairs but fewer than five lie equally far from the judge, or are equal, mistakes may have gone
unseen; two imaginary draws are then added to the variance, as far off to either side as a label can be. Both only
widen. docs/judging-validity.md has the figures.

**A fixed n.** The interval is for a number of labels that was fixed beforehand (`labels_needed`). To look at it, label
on and look again raises the error; the sequential test of a gate is no licence for that.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.records import Estimand, Outcome
from harness.statistics.paired import Interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_FOLDS = 10
_FEW = 5  # mistakes seen, below which their spread says little about those not seen
_MOST_LABELS = 10_000_000  # nobody labels more; the end of a search


@dataclass(frozen=True, slots=True)
class LabelDraws:
    """The labelled draws, in the committed order.

    A draw whose label failed or was withheld must be left out by the caller, and counted. What is left is then a sample
    of the pairs that can be labelled, which is taken to say the same as the whole: an assumption that the share of
    such draws must be small for.

    Attributes:
        pairs: (n,) which of the N pairs was drawn; the same one may appear again, with the same label.
        labels: (n,) the humans' difference Y, candidate minus baseline, in score points.
        probabilities: (N,) q, the probability of each pair at every draw.
    """

    pairs: Ints
    labels: Floats
    probabilities: Floats


@dataclass(frozen=True, slots=True)
class Corrected:
    """The corrected difference; score points throughout.

    Attributes:
        interval: estimate and limits at `confidence`; None below two draws, when nothing can be said. The limits are
            kept within the scale; the estimate is not, which would make it biased.
        confidence: two-sided level of `interval`.
        error: standard error of the estimate; infinite below two draws.
        skewness: of the estimate, third central moment over error³; its ends are moved by it.
        freedom: degrees of freedom of Student's t.
        span: largest difference there can be.
        spread: standard deviation of one draw's T, which `labels_needed` asks for.
        stream: variance that no label can take away; 0 for a frozen set.
        judge_mean: f̄, what the judge alone would have said.
        tuning: λ, the average over the folds, in [0, 1]; 0 where the judge is of no use.
        draws: n.
        distinct: number of different pairs among them.
        effective_labels: how many labels, drawn uniformly and without the judge, would tell θ_N as well.
    """

    interval: Interval | None
    confidence: float
    error: float
    skewness: float
    freedom: int
    span: float
    spread: float
    stream: float
    judge_mean: float
    tuning: float
    draws: int
    distinct: int
    effective_labels: float

    def at(self, confidence: float) -> Interval | None:
        """The interval at another two-sided level, within the scale; None below two draws."""
        if self.interval is None:
            return None
        from scipy.special import stdtrit  # not at the top: it is not needed to start the program

        t, middle = float(stdtrit(self.freedom, (1 + confidence) / 2)), self.interval.estimate
        low = middle - self.error * max(t, _unbent(t, self.skewness))
        high = middle + self.error * max(t, -_unbent(-t, self.skewness))
        return Interval(middle, min(max(low, -self.span), self.span), max(min(high, self.span), -self.span))


def corrected_difference(
    judge: Floats,
    draws: LabelDraws,
    *,
    span: float,
    estimand: Estimand,
    confidence: float = 0.95,
    clusters: Ints | None = None,
    tuning: float | None = None,
) -> Corrected:
    """Estimate the humans' mean difference from the judge's differences and a few labels.

    Args:
        judge: (N,) the judge's differences f, 0 for identical outputs; pairs that it failed on are left out.
        draws: the labels.
        span: largest difference in score points, > 0: 1 for a pairwise outcome in {−1, 0, 1}, 4 for a scale of 1 to 5.
        estimand: `frozen` asks about these N pairs, `population` about the stream that they came from.
        confidence: two-sided level, in (0, 1). A one-sided decision at α uses the ends at 1 − 2α.
        clusters: (N,) which cluster of the stream a pair belongs to; None when each stands alone. Frozen sets ignore
            it.
        tuning: a λ in [0, 1] fixed beforehand; None fits it.

    Raises:
        ValueError: shapes disagree, a number is off its scale, or a pair was drawn that has no probability.
    """
    _validate(judge, draws, span, clusters, tuning)
    n, distinct, judge_mean = len(draws.pairs), len(np.unique(draws.pairs)), float(np.mean(judge))
    if n < 2:
        return Corrected(None, confidence, math.inf, 0.0, 0, span, math.inf, 0.0, judge_mean, 0.0, n, distinct, 0.0)
    weights = 1.0 / (len(judge) * draws.probabilities[draws.pairs])
    slopes = _slopes(judge[draws.pairs] * weights, draws.labels * weights, tuning)
    terms = slopes * judge_mean + (draws.labels - slopes * judge[draws.pairs]) * weights
    estimate, slope = float(np.mean(terms)), float(np.mean(slopes))
    spread, stream, freedom = _spread(judge, draws, terms, span), 0.0, n - 1
    if estimand == "population":
        places = np.arange(len(judge)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
        stream = _stream_variance(judge, draws, weights, places, estimate, slope)
        freedom = min(freedom, int(places.max()))
    error = math.sqrt(spread**2 / n + stream)
    skewness = float(np.mean((terms - estimate) ** 3)) / n**2 / error**3 if error else 0.0
    found = Corrected(
        interval=Interval(estimate, estimate, estimate),
        confidence=confidence,
        error=error,
        skewness=skewness,
        freedom=freedom,
        span=span,
        spread=spread,
        stream=stream,
        judge_mean=judge_mean,
        tuning=slope,
        draws=n,
        distinct=distinct,
        effective_labels=n * _uniform_variance(draws, weights, estimate) / spread**2 if spread else math.inf,
    )
    return replace(found, interval=found.at(confidence))


def corrected_outcome(corrected: Corrected, margin: float, alpha: float, block_alpha: float) -> Outcome:
    """What a corrected difference says about one guard with margin δ (negative for a demanded improvement).

    `pass` where the lower end of the interval at 1 − 2α lies above −δ, `regressed` where the upper end of that at
    1 − 2·block_alpha does not, `undecided` otherwise, and below two draws.
    """
    if not (0.0 < alpha < 0.5 and 0.0 < block_alpha < 0.5):
        raise ValueError(f"levels ({alpha}, {block_alpha}) must lie in (0, 0.5)")
    passing, blocking = corrected.at(1 - 2 * alpha), corrected.at(1 - 2 * block_alpha)
    if passing is None or blocking is None:
        return "undecided"
    if passing.low > -margin:
        return "pass"
    return "regressed" if blocking.high <= -margin else "undecided"


def draw_probabilities(expected_residual: Floats, *, floor: float = 0.5, drawable: Bools | None = None) -> Floats:
    """(N,) probabilities of a draw: in part uniform, the rest in proportion to how far off the judge may be.

    Neyman's allocation draws in proportion to the root mean square of Y − λf. The uniform part keeps every weight
    1/(N q) at most 1/floor, so that a wrong guess cannot make the interval much wider than uniform draws would.

    Args:
        expected_residual: (N,) guessed size of human minus judge, ≥ 0; only ratios matter. All 0: uniform.
        floor: the part that is uniform, in (0, 1].
        drawable: (N,) false where both outputs are identical: the difference is known to be 0. None: all can be drawn.

    Raises:
        ValueError: nothing can be drawn, or a number is off its scale.
    """
    can = np.ones(len(expected_residual), dtype=bool) if drawable is None else drawable
    if can.shape != expected_residual.shape or not can.any():
        raise ValueError(f"{int(can.sum())} pairs can be drawn of {len(expected_residual)}")
    if not 0.0 < floor <= 1.0 or not np.all((expected_residual >= 0) & np.isfinite(expected_residual)):
        raise ValueError("the floor lies in (0, 1] and expected residuals are finite and not negative")
    uniform = can / can.sum()
    size = np.where(can, expected_residual, 0.0)
    wanted = size / size.sum() if size.any() else uniform
    mixed: Floats = floor * uniform + (1 - floor) * wanted
    mixed /= mixed.sum()
    return mixed


def committed_draws(probabilities: Floats, n: int, seed_material: bytes) -> Ints:
    """(n,) pairs drawn independently with replacement, which anyone can compute again from `seed_material`.

    Its SHA-256 seeds the generator, whose raw words NumPy promises to be the same in every version. A longer plan
    begins with a shorter one. The material must be fixed before any label exists, and name what is drawn from: the
    pairs and their probabilities.
    """
    _validate_probabilities(probabilities)
    words = np.random.PCG64(int.from_bytes(hashlib.sha256(seed_material).digest(), "big")).random_raw(n)
    steps = np.cumsum(probabilities)
    # The first pair whose step lies above the number: a pair with probability 0 has no step of its own.
    places = np.searchsorted(steps / steps[-1], ((words >> np.uint64(11)) + 0.5) * 2.0**-53, side="right")
    return places.astype(np.int64)


def labels_needed(spread: float, reach: float, *, alpha: float, power: float = 0.5, stream: float = 0.0) -> int | None:
    """Labels after which (t_{1−α} + t_{power}) standard errors are at most `reach`; None where no number suffices.

    With α = (1 − confidence)/2 and a power of one half, `reach` is the interval's half-width. With a one-sided α and a
    power of 0.8, it is the distance from −δ of a true difference that is then decided in 80 % of such plans.

    Args:
        spread: standard deviation of one draw's T, > 0, from a pilot (`Corrected.spread`). The pilot's labels decide
            how many more are drawn, hence they must not be counted among them.
        reach: score points, > 0.
        alpha: level of one end, in (0, 0.5).
        power: in [0.5, 1).
        stream: variance that no label takes away (`Corrected.stream`).
    """
    if not (0 < spread < math.inf and reach > 0 and stream >= 0 and 0 < alpha < 0.5 and 0.5 <= power < 1):
        raise ValueError(f"spread {spread}, reach {reach}, stream {stream}, alpha {alpha}, power {power}")
    if _reach(_MOST_LABELS, spread, stream, alpha, power) > reach:
        return None
    low, high = 1, _MOST_LABELS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _reach(middle, spread, stream, alpha, power) <= reach else (middle, high)
    return high


def _reach(n: int, spread: float, stream: float, alpha: float, power: float) -> float:
    """How far n ≥ 2 labels see, in score points."""
    from scipy.special import stdtrit

    quantiles = float(stdtrit(n - 1, 1 - alpha)) + float(stdtrit(n - 1, power))
    return quantiles * math.sqrt(spread**2 / n + stream)


def _slopes(judged: Floats, labelled: Floats, tuning: float | None) -> Floats:
    """(n,) λ for each draw, fitted to the draws of the other folds; arguments are f and Y with their weights."""
    if tuning is not None:
        return np.full(len(judged), tuning)
    fold = np.arange(len(judged)) % _FOLDS
    return np.array([_slope(judged[fold != k], labelled[fold != k]) for k in range(_FOLDS)])[fold]


def _slope(judged: Floats, labelled: Floats) -> float:
    """Least-squares slope of Y on f within [0, 1]; 0 where f does not vary, so that the labels stand alone."""
    if len(judged) < 2:
        return 0.0
    away = judged - np.mean(judged)
    square = float(away @ away)
    return min(max(float(away @ labelled) / square, 0.0), 1.0) if square > 0 else 0.0


def _spread(judge: Floats, draws: LabelDraws, terms: Floats, span: float) -> float:
    """Standard deviation of T, with two imaginary draws where too few labels tell anything new."""
    squares = float(np.sum((terms - np.mean(terms)) ** 2))
    _, first = np.unique(draws.pairs, return_index=True)  # a pair that is drawn again says nothing new
    labels, judged = draws.labels[first], judge[draws.pairs[first]]
    if min(_unlike(labels - judged), _unlike(labels)) < _FEW:
        least = float(np.min(draws.probabilities[draws.probabilities > 0]))
        squares += 2.0 * (2.0 * span / (len(judge) * least)) ** 2
    return math.sqrt(squares / (len(terms) - 1))


def _unlike(values: Floats) -> int:
    """How many values differ from the commonest one."""
    return len(values) - int(np.unique(np.round(values, 9), return_counts=True)[1].max())


def _stream_variance(
    judge: Floats, draws: LabelDraws, weights: Floats, places: Ints, estimate: float, slope: float
) -> float:
    """Variance of θ_N under another draw of clusters from the stream; see the module."""
    n, total, groups = len(draws.pairs), len(judge), int(places.max()) + 1
    if groups < 2:
        raise ValueError("a population needs at least two clusters")
    known, rest = slope * judge - estimate, draws.labels - slope * judge[draws.pairs]
    drawn, place = weights * rest, places[draws.pairs]
    alone = float(np.mean(known**2) + np.mean(drawn * (2.0 * known[draws.pairs] + rest)))
    # Σ over clusters of products of two different members: the squares are taken off again.
    sums, squares = (np.bincount(places, weights=v, minlength=groups) for v in (known, known**2))
    mixed = 2.0 * float(np.mean(drawn * (sums[place] - known[draws.pairs]))) * total
    both = _different_pairs(drawn, draws.pairs, place, groups) * total**2 / (n * (n - 1))
    together = (float(np.sum(sums**2 - squares)) + mixed + both) / total**2
    return (max(alone, 0.0) / total + max(together, 0.0)) * groups / (groups - 1)


def _different_pairs(drawn: Floats, pairs: Ints, place: Ints, groups: int) -> float:
    """Σ of products of two draws of one cluster, over ordered couples of draws of different pairs."""
    by_cluster = np.bincount(place, weights=drawn, minlength=groups)
    by_pair = np.bincount(pairs, weights=drawn)
    return float(np.sum(by_cluster**2) - np.sum(by_pair**2))


def _uniform_variance(draws: LabelDraws, weights: Floats, estimate: float) -> float:
    """Variance of one label's term when pairs that can be drawn are drawn uniformly and the judge is not used."""
    share = float(np.mean(draws.probabilities > 0))
    return max(share * float(np.mean(weights * draws.labels**2)) - estimate**2, 0.0)


def _unbent(t: float, skewness: float) -> float:
    """The quantile of (estimate − truth) / error that belongs to t, given the estimate's skewness (Hall 1992)."""
    if abs(skewness) < 1e-6:
        return t
    return 3.0 / skewness * (float(np.cbrt(1.0 + skewness * (t - skewness / 6.0))) - 1.0)


def _validate(judge: Floats, draws: LabelDraws, span: float, clusters: Ints | None, tuning: float | None) -> None:
    """Refuse what would be silently wrong; conditions are written so that NaN, which compares false, is refused too."""
    if judge.shape != draws.probabilities.shape or judge.ndim != 1 or not len(judge):
        raise ValueError(f"{len(judge)} judged pairs and {len(draws.probabilities)} probabilities")
    if draws.pairs.shape != draws.labels.shape:
        raise ValueError(f"{len(draws.pairs)} draws and {len(draws.labels)} labels")
    if clusters is not None and clusters.shape != judge.shape:
        raise ValueError(f"{len(judge)} judged pairs and clusters for {len(clusters)}")
    most = span * (1 + 1e-9)
    if not (span > 0 and np.all(np.abs(judge) <= most) and np.all(np.abs(draws.labels) <= most)):
        raise ValueError(f"a difference exceeds the span of {span:g}, or is not a number")
    if tuning is not None and not 0.0 <= tuning <= 1.0:
        raise ValueError(f"a tuning of {tuning:g} does not lie in [0, 1]")
    _validate_probabilities(draws.probabilities)
    if np.any((draws.pairs < 0) | (draws.pairs >= len(judge))) or np.any(draws.probabilities[draws.pairs] == 0):
        raise ValueError("a pair was drawn that cannot be drawn")
    if np.any(judge[draws.probabilities == 0] != 0):
        raise ValueError("a pair that can never be drawn must have identical outputs, and a difference of 0")


def _validate_probabilities(probabilities: Floats) -> None:
    if not np.all(probabilities >= 0) or not abs(float(np.sum(probabilities)) - 1.0) <= 1e-9:
        raise ValueError("probabilities of a draw are not negative and sum to 1")
