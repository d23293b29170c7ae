"""The numbers and outcomes of a comparison in words, the same in every report and in the terminal.

Scores bounded by 0 and 1 are shown as points, times 100; every other metric keeps its own unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from harness.records import Check, Comparison, Decision, Outcome, Score, Verdict

MISSING = "–"

HEADLINE: dict[Decision, str] = {
    "promote": "The candidate may be promoted.",
    "block": "The candidate must not be promoted.",
    "hold": "No decision: the evidence does not allow one.",
}
MARK: dict[Outcome, str] = {"pass": "✓", "regressed": "✗", "undecided": "?"}
_WORD: dict[Outcome, str] = {"pass": "Pass", "regressed": "Regressed", "undecided": "Undecided"}


def outcome_word(comparison: Comparison) -> str:
    """`Pass`, `Regressed` or `Undecided`; a demanded gain that is shown to be missing has fallen short."""
    if comparison.must_improve is not None and comparison.outcome == "regressed":
        return "Fell short"
    return _WORD[comparison.outcome]


def in_points(bounds: tuple[float, float]) -> bool:
    """Whether values on this scale are shown as points, times 100."""
    return bounds == (0.0, 1.0)


def scaled(value: float, bounds: tuple[float, float]) -> float:
    """`value` in the unit that is shown."""
    return value * 100 if in_points(bounds) else value


def unit(bounds: tuple[float, float]) -> str:
    """` pts`, or nothing for a metric in its own unit."""
    return " pts" if in_points(bounds) else ""


def threshold(comparison: Comparison) -> float:
    """Where D must lie above: minus the margin, or the demanded improvement, in score points."""
    return -comparison.margin if comparison.must_improve is None else comparison.must_improve


def decimals(comparison: Comparison) -> int:
    """Enough decimals that no shown number is rounded onto the threshold it lies beside."""
    least = _least_decimals(comparison)
    limit = scaled(threshold(comparison), comparison.bounds)
    ends = (*(comparison.interval or ()), *([] if comparison.difference is None else [comparison.difference]))
    shown = [scaled(value, comparison.bounds) for value in ends]
    for digits in range(least, least + 3):
        if all(math.isclose(v, limit, abs_tol=1e-9) or round(v, digits) != round(limit, digits) for v in shown):
            return digits
    return least + 2


def mean(value: float | None, comparison: Comparison) -> str:
    """A baseline or candidate mean as a bare number."""
    if value is None:
        return MISSING
    return _number(scaled(value, comparison.bounds), _least_decimals(comparison))


def difference(comparison: Comparison) -> str:
    """`−3.2 pts`, or a dash without any pair."""
    if comparison.difference is None:
        return MISSING
    return signed(comparison.difference, comparison) + unit(comparison.bounds)


def interval(comparison: Comparison) -> str:
    """`[−4.9, −1.6]`, or nothing without any pair."""
    return span(comparison.interval, comparison)


def span(ends: tuple[float, float] | None, comparison: Comparison) -> str:
    """An interval of differences in the unit shown."""
    if ends is None:
        return ""
    return f"[{signed(ends[0], comparison)}, {signed(ends[1], comparison)}]"


def signed(value: float, comparison: Comparison) -> str:
    """A difference with its sign, without its unit."""
    return _number(scaled(value, comparison.bounds), decimals(comparison), sign=True)


def margin(comparison: Comparison) -> str:
    """`drop < 2.0 pts`, or `gain > 5.0 pts` for a guard that demands an improvement."""
    word, size = ("drop <", comparison.margin)
    if comparison.must_improve is not None:
        word, size = ("gain >", comparison.must_improve)
    digits = decimals(comparison)
    return f"{word} {_number(scaled(size, comparison.bounds), digits)}{unit(comparison.bounds)}"


def level(comparison: Comparison) -> str:
    """Level of the decision interval, 1 − 2α."""
    return f"{100 * (1 - 2 * comparison.alpha):g} %"


def used(comparison: Comparison) -> str:
    """`412 of 1,000`."""
    return f"{comparison.n_used:,} of {comparison.n:,}"


def score(value: Score) -> str:
    """One sample's score as it was given, or its state."""
    return value.state if value.value is None else f"{value.value:.4g}"


def totals(verdict: Verdict) -> tuple[int, int]:
    """Samples used and samples frozen, each suite counted once however many metrics and slices look at it."""
    used_of: dict[str, tuple[int, int]] = {}
    for comparison in verdict.comparisons:
        if comparison.slice is None:
            most = used_of.get(comparison.suite, (0, 0))
            used_of[comparison.suite] = (max(most[0], comparison.n_used), max(most[1], comparison.n))
    return sum(u for u, _ in used_of.values()), sum(n for _, n in used_of.values())


def tally(comparisons: Iterable[Comparison]) -> str:
    """`6 pass · 2 regressed · 1 undecided`, leaving out what did not happen."""
    counted: dict[str, int] = {}
    for comparison in comparisons:
        word = outcome_word(comparison).lower()
        counted[word] = counted.get(word, 0) + 1
    order = ("regressed", "fell short", "undecided", "pass")
    return " · ".join(f"{counted[word]} {word}" for word in order if word in counted) or "none"


def required(verdict: Verdict) -> list[Comparison]:
    """Guards that decide, a veto that is used among them, in order of concern."""
    return _by_concern(c for c in verdict.comparisons if c.required or c.blocks)


def worst(verdict: Verdict) -> Comparison | None:
    """The required guard of most concern: of those with the gravest outcome, the one with the least room left."""
    guards = required(verdict)
    return min((c for c in guards if c.outcome == guards[0].outcome), key=_room, default=None)


def advisory(verdict: Verdict) -> list[Comparison]:
    """Whole-suite guards that only inform."""
    return _by_concern(c for c in verdict.comparisons if not c.required and not c.blocks and c.slice is None)


def slices(verdict: Verdict) -> list[Comparison]:
    """Slices that only inform; a critical slice is a required guard."""
    return _by_concern(c for c in verdict.comparisons if not c.required and not c.blocks and c.slice is not None)


def failed_checks(verdict: Verdict) -> list[Check]:
    """Pre-flight checks that did not pass."""
    return [check for check in verdict.checks if not check.passed]


def _by_concern(comparisons: Iterable[Comparison]) -> list[Comparison]:
    order: dict[Outcome, int] = {"regressed": 0, "undecided": 1, "pass": 2}
    return sorted(comparisons, key=lambda c: order[c.outcome])  # stable: the policy's order within an outcome


def _room(comparison: Comparison) -> float:
    """From the threshold up to the difference, as a share of the scale; a guard without any pair has most."""
    if comparison.difference is None:
        return math.inf
    return (comparison.difference - threshold(comparison)) / abs(comparison.bounds[1] - comparison.bounds[0])


def _least_decimals(comparison: Comparison) -> int:
    """Two significant digits of the margin, and no fewer than the scale's width asks for."""
    size = abs(scaled(threshold(comparison), comparison.bounds))
    of_margin = 1 - math.floor(math.log10(size)) if size > 0 else 0
    if in_points(comparison.bounds):
        return min(4, max(1, of_margin))
    width = abs(comparison.bounds[1] - comparison.bounds[0])
    of_scale = 3 - math.ceil(math.log10(width)) if math.isfinite(width) and width > 0 else 2
    return min(4, max(0, of_margin, of_scale))


def _number(value: float, digits: int, *, sign: bool = False) -> str:
    text = f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "\N{MINUS SIGN}")
