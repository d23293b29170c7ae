"""A judge's difference corrected by what people said of some of its pairs: then the corrected interval decides"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.records import Comparison, Correction, Guard, HumanLabels
from harness.statistics.ppi import Corrected, LabelDraws, corrected_difference, corrected_outcome

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MOST_UNTOLD = 0.1  # share of the draws that nobody can tell; beyond it those that are told may be another kind of pair


@dataclass(frozen=True, slots=True)
class Judged:
    """A guard's complete pairs, in order: ids, (n,) oriented differences in score points, their clusters.

    `span` is the largest difference there can be, `left` how many samples the judge has not seen yet.
    """

    ids: tuple[str, ...]
    gains: Floats
    cluster: Ints
    span: float
    left: int


def corrected(
    comparison: Comparison, judged: Judged, human: HumanLabels | None, guard: Guard, *, block_alpha: float
) -> Comparison:
    """The comparison with people's labels taken in, undecided until all that were planned are there.

    The number of labels is the guard's, fixed before the first: to look at fewer, and label on where the answer is not
    liked, would raise the error.

    Args:
        comparison: what the judge alone says.
        judged: its pairs.
        human: what people said; None where nothing was drawn yet.
        guard: with the number of `labels`, margin and levels.
        block_alpha: level of "regressed", already corrected for the number of guards.
    """
    if not judged.left and not judged.gains.any() and comparison.n_tied == comparison.n_used:
        return comparison  # both subjects said the same throughout, so there is nothing that people could be shown
    missing = _missing(judged, human, guard, untied=comparison.n_used - comparison.n_tied)
    if missing or human is None:
        return replace(comparison, outcome="undecided", reason=missing)
    result = corrected_difference(
        judged.gains,
        _label_draws(judged, human, guard.labels),
        span=judged.span,
        estimand=guard.estimand,
        confidence=1 - 2 * guard.alpha,
        clusters=judged.cluster,
    )
    told = replace(comparison, correction=_correction(result, guard), fragile=False, log_e_pass=0.0, log_e_block=0.0)
    if result.interval is None:
        return replace(told, outcome="undecided", reason="fewer than two labels by people")
    interval = (result.interval.low, result.interval.high)
    outcome = corrected_outcome(result, guard.tolerated, guard.alpha, block_alpha)
    return replace(told, outcome=outcome, difference=result.interval.estimate, interval=interval)


def _label_draws(judged: Judged, human: HumanLabels, planned: int) -> LabelDraws:
    place = {sample_id: index for index, sample_id in enumerate(judged.ids)}
    told = [(place[d.sample_id], d.difference) for d in human.draws[:planned] if d.difference is not None]
    return LabelDraws(
        pairs=np.array([index for index, _ in told], dtype=np.int64),
        labels=np.array([difference for _, difference in told], dtype=float),
        probabilities=np.array([human.probabilities.get(sample_id, 0.0) for sample_id in judged.ids]),
    )


def _correction(result: Corrected, guard: Guard) -> Correction:
    return Correction(
        judged=result.judge_mean,
        reliance=result.tuning,
        labels=result.draws,
        planned=guard.labels,
        distinct=result.distinct,
    )


def _missing(judged: Judged, human: HumanLabels | None, guard: Guard, untied: int) -> str:
    """What is not there yet of all that the correction rests on, or an empty string; `untied` pairs could be drawn."""
    if judged.left:
        return f"the judge has yet to see {judged.left} samples; people's labels correct its mean over all of them"
    wanted = f"{guard.labels} labels by people decide it: harness judge label RUN, then this command again"
    if human is None or not human.draws:
        return f"none of the {wanted}"
    if set(human.probabilities) - set(judged.ids) or len(human.probabilities) != untied:
        return f"the judged pairs are no longer those that people's were drawn from; draw anew: {wanted}"
    drawn = human.draws[: guard.labels]
    answered = sum(not draw.open for draw in drawn)
    if answered < guard.labels:
        return f"{answered} of the {wanted}"
    untold = sum(draw.difference is None for draw in drawn)
    if untold > _MOST_UNTOLD * guard.labels:
        return (
            f"of {untold} of {guard.labels} drawn pairs nobody could tell which side is better, more than "
            f"{_MOST_UNTOLD:.0%}: what is left may be another kind of pair"
        )
    return ""
