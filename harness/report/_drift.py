"""Drift in words, the same in every report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness import words
from harness.drift import SuiteDrift
from harness.report._text import one_line

INTRO = (
    "How far the candidate's wording has moved from the baseline's, token by token, on the requests that both answered "
    "greedily, whether or not a score changed. It informs and decides nothing."
)
NOTES = (
    "The first difference counts the tokens before it; the median is over the answers that differ, and half of them "
    "lie in the range given.",
    "Divergence is the Kullback–Leibler divergence baseline ‖ candidate in nats, the mean over the tokens before the "
    "first difference. Only the token that was chosen is compared with all others together, so the true divergence is "
    "at least this.",
    "A near-tie is a choice so close that float noise could have turned it. It is not recorded at which token one was, "
    "so an answer that differs and had one may differ for no other reason, or may not.",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One suite's drift; `range` and `doubt` are empty where there is nothing to say."""

    suite: str
    answers: str
    alike: str
    first: str
    range: str
    before: str
    divergence: str
    ties: str
    doubt: str


def rows(drifts: Sequence[SuiteDrift]) -> list[Row]:
    """One row a suite, in the order given."""
    return [_row(drift) for drift in drifts]


def summary(drifts: Sequence[SuiteDrift]) -> str:
    """All suites together in one phrase."""
    answers, alike = sum(d.answers for d in drifts), sum(d.identical for d in drifts)
    return f"{_share(alike, answers)} of {answers:,} answers alike token for token"


def _row(drift: SuiteDrift) -> Row:
    low, middle, high = drift.divergence or (0.0, 0.0, 0.0)
    differ = drift.answers - drift.identical
    return Row(
        suite=one_line(drift.suite, 200),
        answers=f"{drift.answers:,}",
        alike=_share(drift.identical, drift.answers),
        first=f"after {middle:,.0f} tokens" if drift.divergence else "none differs",
        range=f"{low:,.0f} to {high:,.0f}" if drift.divergence else "",
        before=f"{_share(drift.agreed, drift.generated)} of {drift.generated:,}",
        divergence=words.MISSING if drift.kl is None else f"{_nats(drift.kl)} nats",
        ties=f"{drift.near_ties:,}",
        doubt=f"in {drift.maybe_ties:,} of {differ:,} that differ" if drift.maybe_ties else "",
    )


def _share(part: int, whole: int) -> str:
    """A percentage that says 0 or 100 only where that is exact."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"


def _nats(value: float) -> str:
    """Two significant digits, without an exponent."""
    if value < 1e-6:
        return "< 0.000001" if value else "0"
    return f"{value:,.{max(0, 1 - math.floor(math.log10(value)))}f}"
