"""One judgement of a pair: from two orders, or from the difference of two scores"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.judging.records import Case, Judgement, PairCase, Usage

FIRST, TIE, SECOND = -1.0, 0.0, 1.0
_KEPT = 300  # characters


def of_both_orders(straight: Judgement, turned: Judgement) -> Judgement:
    """What two judgements of one pair come to, the second made with the order turned; both values mean the pair's own.

    Both alike: that value. Unlike: 0, and the details say what each order gave. A failure or an abstention in one order
    is one of the pair: half of the evidence would be evidence with the position bias in it.
    """
    usage = straight.usage + turned.usage
    details = {"orders": {"straight": _said(straight), "turned": _said(turned)}}
    for order, judgement in (("straight", straight), ("turned", turned)):
        if judgement.state == "failed":
            reason = f"{order} order: {judgement.reason}"
            return Judgement("failed", None, reason, judgement.failure, usage, details)
    for order, judgement in (("straight", straight), ("turned", turned)):
        if judgement.state == "abstained":
            return Judgement("abstained", None, f"{order} order: {judgement.reason}", None, usage, details)
    if straight.value == turned.value:
        return Judgement("scored", straight.value, straight.reason, usage=usage, details=details)
    reason = f"the two orders disagree ({_word(straight)}, then {_word(turned)}): {straight.reason}"
    return Judgement("scored", TIE, reason, usage=usage, details=details)


def by_difference(first: Judgement, second: Judgement, tie: float) -> Judgement:
    """The better one of two scored outputs; a difference of at most `tie` is a tie. There is no order to turn."""
    usage = first.usage + second.usage
    details = {"first": _said(first), "second": _said(second)}
    if first.value is None or second.value is None:
        place, without = ("first", first) if first.value is None else ("second", second)
        return Judgement(without.state, None, f"{place} output: {without.reason}", without.failure, usage, details)
    difference = second.value - first.value
    value = TIE if abs(difference) <= tie else SECOND if difference > 0 else FIRST
    return Judgement("scored", value, f"difference {difference:+.6g}", usage=usage, details=details)


def compare_by_scores(
    pairs: Sequence[PairCase], score: Callable[[Sequence[Case]], list[Judgement]], tie: float
) -> list[Judgement]:
    """Pairs of outputs that are scored one by one."""
    scored = score([case for pair in pairs for case in (pair.first, pair.second)])
    return [by_difference(first, second, tie) for first, second in zip(scored[::2], scored[1::2], strict=True)]


def turned(judgement: Judgement) -> Judgement:
    """A judgement of the turned order, said of the pair's own order."""
    value = None if judgement.value is None else 0.0 - judgement.value  # never −0.0
    return Judgement(judgement.state, value, judgement.reason, judgement.failure, judgement.usage, judgement.details)


def total(judgements: Sequence[Judgement]) -> Usage:
    """What they have used together."""
    return sum((judgement.usage for judgement in judgements), Usage())


def kept(reason: str) -> str:
    """As much of a reason as details keep, which a run stores for every pair."""
    return reason if len(reason) <= _KEPT else reason[: _KEPT - 1] + "…"


def _said(judgement: Judgement) -> dict[str, Any]:
    said: dict[str, Any] = {"state": judgement.state, "value": judgement.value, "reason": kept(judgement.reason)}
    return said | ({} if judgement.failure is None else {"failure": judgement.failure})


def _word(judgement: Judgement) -> str:
    return {FIRST: "first", TIE: "tie", SECOND: "second"}.get(judgement.value or 0.0, "?")
