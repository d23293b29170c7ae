"""Drift: where a candidate's greedy answers leave the baseline's, and how far its probabilities had moved by then.

Advisory. A score says whether an answer got better or worse; drift says how much the wording moved while the score
stayed. It comes from tokens that both subjects generated anyway, so it costs nothing, and it decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.records import Output

# A log-probability in float32 does not tell a probability from one that is closer to 1 than this, or smaller than that.
_NEAR_ONE = 2.0**-24
_NEAR_ZERO = 2.0**-126


@dataclass(frozen=True, slots=True)
class AnswerDrift:
    """Two greedy answers to one request, token by token; positions and counts are in tokens.

    `divergence` is the position, from 0, of the first token that differs, and None when the sequences are equal; where
    one answer goes on after the other has ended, it is the position after the end. `agreed` counts the tokens before
    it, and `generated` those of the candidate's whole answer. `kl` (nats) is summed over the agreed tokens,
    see `partition_kl`; None where the log-probabilities are not known. `near_ties` counts those of both subjects.
    """

    divergence: int | None
    agreed: int
    generated: int
    kl: float | None
    near_ties: int

    @property
    def compared(self) -> int:
        """Positions that were looked at: the agreed ones, and the first that differs."""
        return self.agreed + (self.divergence is not None)

    @property
    def maybe_tie(self) -> bool:
        """Whether float noise may be why the answers differ. It is not known at which token a near-tie was."""
        return self.divergence is not None and self.near_ties > 0


@dataclass(frozen=True, slots=True)
class SuiteDrift:
    """All compared answers of one suite.

    `divergence` holds the lower quartile, the median and the upper quartile of the position of the first difference,
    over the answers that differ; None where all are alike. `agreed` of the `generated` candidate tokens came before
    any difference. `kl` is the mean per agreed token in nats, a lower bound; None where nothing is known of it.
    `near_ties` counts those of both subjects, `maybe_ties` the differing answers that had one.
    """

    suite: str
    answers: int
    identical: int
    divergence: tuple[float, float, float] | None
    agreed: int
    generated: int
    kl: float | None
    near_ties: int
    maybe_ties: int


def compare(baseline: Output, candidate: Output) -> AnswerDrift | None:
    """The drift of one greedy answer, or None where a side failed or left no tokens.

    Both must have been asked the same request in the same tokens; that is for the caller to know.
    """
    if baseline.failure or candidate.failure or not (baseline.ids and candidate.ids):
        return None
    agreed = common_prefix(baseline.ids, candidate.ids)
    return AnswerDrift(
        divergence=None if baseline.ids == candidate.ids else agreed,
        agreed=agreed,
        generated=len(candidate.ids),
        kl=_prefix_kl(baseline, candidate, agreed),
        near_ties=baseline.near_ties + candidate.near_ties,
    )


def summarise(suite: str, answers: Iterable[AnswerDrift]) -> SuiteDrift:
    """The drift of a suite; at least one answer is needed."""
    every = list(answers)
    places = [a.divergence for a in every if a.divergence is not None]
    known = [(a.kl, a.agreed) for a in every if a.kl is not None]
    tokens = sum(agreed for _, agreed in known)
    return SuiteDrift(
        suite=suite,
        answers=len(every),
        identical=len(every) - len(places),
        divergence=_quartiles(places) if places else None,
        agreed=sum(a.agreed for a in every),
        generated=sum(a.generated for a in every),
        kl=math.fsum(kl for kl, _ in known) / tokens if tokens else None,
        near_ties=sum(a.near_ties for a in every),
        maybe_ties=sum(a.maybe_tie for a in every),
    )


def partition_kl(baseline: float, candidate: float) -> float:
    """Kullback–Leibler divergence baseline ‖ candidate of {this token, any other}, in nats, from log-probabilities.

    p·ln(p/q) + (1−p)·ln((1−p)/(1−q)). Lumping all other tokens together can only lose divergence (the data-processing
    inequality), so this is a lower bound of the divergence over the whole vocabulary.

    Both probabilities are first moved into [2⁻¹²⁶, 1 − 2⁻²⁴]: a float32 log-probability does not resolve more, and a
    probability of exactly 1 or 0 would give infinity or no number. Moving both into one interval never moves them
    apart, so the bound stays a lower bound, and two probabilities beyond the same end count as equal.
    """
    lp, lq = (min(max(value, math.log(_NEAR_ZERO)), math.log1p(-_NEAR_ONE)) for value in (baseline, candidate))
    return max(0.0, math.exp(lp) * (lp - lq) - math.expm1(lp) * (_log_other(lp) - _log_other(lq)))


def common_prefix(one: Sequence[object], two: Sequence[object]) -> int:
    """How many elements two sequences have in common from the start."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _prefix_kl(baseline: Output, candidate: Output, agreed: int) -> float | None:
    if len(baseline.logprobs) != len(baseline.ids) or len(candidate.logprobs) != len(candidate.ids):
        return None
    pairs = zip(baseline.logprobs[:agreed], candidate.logprobs[:agreed], strict=True)
    return math.fsum(partition_kl(p, q) for p, q in pairs)


def _log_other(logprob: float) -> float:
    """ln(1 − p) for ln p < 0, exact at both ends."""
    return math.log(-math.expm1(logprob)) if logprob > -math.log(2) else math.log1p(-math.exp(logprob))


def _quartiles(values: Sequence[int]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)
