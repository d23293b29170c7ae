"""How far a judge can be trusted, by its judgements alone: position and verbosity bias, and the agreement of a jury

Position bias: how often a judge prefers whichever answer comes first (Zheng et al. 2023, section 3.3). Every pair is
judged in both orders; of a judge that reads the answers alone each pair gives one vote for each place. Verbosity bias:
how often the longer answer wins (Dubois et al. 2024), and how far the judge's difference goes with the difference in
length. A longer answer may of course be better: this is an association, and no proof of a fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from harness.judging.records import Judgement
from harness.statistics.agreement import krippendorff_alpha
from harness.statistics.proportions import proportion_lower_bound

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class PositionBias:
    """Votes by place over pairs that were judged in both orders; a jury's count once for each juror.

    `first_place` and `second_place` count the pairs for which the judge chose that place in both orders, `leaning`
    those where one order was a tie and the other was not. `bias` is the share of single judgements for the first place
    less those for the second, −1 to 1. `consistent` is the share of pairs judged alike in both orders. `interval` (95
    %, exact binomial) bounds the first place's share of the pairs that one place won in both orders; 0.5 is no bias.
    None where there is nothing to count.
    """

    pairs: int
    first_place: int
    second_place: int
    leaning: int
    bias: float | None
    consistent: float | None
    interval: Interval | None

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class VerbosityBias:
    """How the judge's differences go with differences in length, over `pairs` that have both.

    `correlation` is Spearman's ρ with its 95 % interval (Bonett & Wright 2000); None below 4 pairs or where one side
    is constant, and the interval also where ρ is −1 or 1. Of the `decided` pairs (a difference, and lengths that
    differ) the longer won `longer_won`; its `share` has an exact 95 % binomial interval; 0.5 is no association.
    """

    pairs: int
    correlation: float | None
    correlation_interval: Interval | None
    decided: int
    longer_won: int
    share: float | None
    interval: Interval | None

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def position_bias(judgements: Sequence[Judgement]) -> PositionBias:
    """Position bias from the `orders` in the details of pairwise judgements; others are passed over."""
    votes = [places for judgement in judgements for places in _votes(judgement.details)]
    first = sum(v == (1, 1) for v in votes)
    second = sum(v == (-1, -1) for v in votes)
    leaning = sum(sum(abs(place) for place in v) == 1 for v in votes)
    if not votes:
        return PositionBias(0, 0, 0, 0, None, None, None)
    total = sum(sum(v) for v in votes)
    alike = sum(sum(v) == 0 for v in votes)
    return PositionBias(
        len(votes), first, second, leaning, total / (2 * len(votes)), alike / len(votes),
        binomial_interval(first, first + second),
    )  # fmt: skip


def verbosity_bias(differences: Sequence[float | None], lengths: Sequence[int]) -> VerbosityBias:
    """Verbosity bias of paired judgements.

    Args:
        differences: what the judge makes of each pair, second (candidate) less first (baseline): a pairwise value, or
            the difference of two levels; None where a side has no value.
        lengths: length of the second output less that of the first, in any unit.
    """
    both = [(d, length) for d, length in zip(differences, lengths, strict=True) if d is not None]
    decided = [(d > 0) == (length > 0) for d, length in both if d and length]
    longer = sum(decided)
    correlation = _spearman([d for d, _ in both], [length for _, length in both])
    return VerbosityBias(
        len(both), correlation, _around(correlation, len(both)), len(decided), longer,
        longer / len(decided) if decided else None, binomial_interval(longer, len(decided)),
    )  # fmt: skip


def agreement(judgements: Sequence[Judgement], *, pairwise: bool) -> float | None:
    """Krippendorff's α of a jury's jurors over its judgements: ordinal for a pair, interval for levels of a scale.

    A juror that gave no value has no rating. None where no two jurors rated the same case, or where nothing varied
    at all, so that chance agreement cannot be told. Where the last judge was asked only on disagreement its
    ratings are of the hard cases, and α of all jurors is lower than it would be on every case.
    """
    rows = [judgement.details["jurors"] for judgement in judgements if "jurors" in judgement.details]
    if not rows:
        return None
    ratings = np.full((max(map(len, rows)), len(rows)), np.nan)
    for case, jurors in enumerate(rows):
        for rater, juror in enumerate(jurors):
            if juror["value"] is not None:
                ratings[rater, case] = juror["value"]
    rated = ratings[:, np.isfinite(ratings).sum(axis=0) >= 2]
    if len(np.unique(rated[np.isfinite(rated)])) < 2:
        return None
    return float(krippendorff_alpha(rated, level="ordinal" if pairwise else "interval"))


def binomial_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval | None:
    """Exact two-sided interval of a proportion (Clopper & Pearson 1934); None without trials."""
    if trials == 0:
        return None
    side = 1 - (1 - confidence) / 2
    low = proportion_lower_bound(successes, trials, confidence=side)
    return low, 1 - proportion_lower_bound(trials - successes, trials, confidence=side)


def _votes(details: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """(place, place) of both orders: 1 the first place was chosen, −1 the second, 0 a tie; jurors one after another."""
    for juror in details.get("jurors", ()):
        yield from _votes(juror.get("details", {}))
    orders = details.get("orders")
    if orders is None or any(orders[order]["value"] is None for order in ("straight", "turned")):
        return
    # Values are −1 where the pair's first output is better. In the turned order that output stands second.
    yield -_sign(orders["straight"]["value"]), _sign(orders["turned"]["value"])


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _spearman(differences: Sequence[float], lengths: Sequence[int]) -> float | None:
    if len(differences) < 4 or len(set(differences)) < 2 or len(set(lengths)) < 2:
        return None
    from scipy import stats  # not at the top: it takes half a second

    return float(cast(Any, stats.spearmanr(differences, lengths)).statistic)


def _around(correlation: float | None, count: int) -> Interval | None:
    """Fisher's z with the variance of Bonett & Wright (2000), which holds for ranks with heavy ties as well."""
    if correlation is None or abs(correlation) == 1:  # ranks that agree throughout have no spread to tell of an error
        return None
    half = 1.959963984540054 * math.sqrt((1 + correlation**2 / 2) / (count - 3))
    z = math.atanh(correlation)
    return math.tanh(z - half), math.tanh(z + half)
