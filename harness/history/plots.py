"""Where every mark of a trend, and of learned against forgotten, lies. Draws nothing

A trend of hundreds of runs is a handful of SVG paths, one an outcome, so that the page stays small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness import words
from harness.history.reading import Run
from harness.records import Comparison, Outcome
from harness.report._forest import Layout, tick_text, ticks
from harness.report._sweep import Axis
from harness.report._text import one_line

TREND = (
    Layout("wide", width=1040, left=64, right=1020, row=210, bar=0, label=0, ticks=5),
    Layout("narrow", width=340, left=38, right=334, row=190, bar=0, label=0, ticks=4),
)
PLANE = (
    Layout("wide", width=1040, left=64, right=1020, row=430, bar=0, label=0, ticks=8),
    Layout("narrow", width=340, left=34, right=334, row=300, bar=0, label=0, ticks=4),
)
_OUTCOMES: tuple[Outcome, ...] = ("pass", "undecided", "regressed")
_OF_VERDICT: dict[str, Outcome] = {"promote": "pass", "hold": "undecided", "block": "regressed"}
_CUT = 3.0  # margins: whoever lost more is drawn at the edge, or one wreck would flatten all others


@dataclass(frozen=True, slots=True)
class Trend:
    """One guard over all runs that have it; `layouts` are the pictures, `rows` the same in words."""

    label: str
    unit: str
    standing: str
    count: int
    latest: str
    layouts: tuple[dict[str, Any], ...]
    description: str


def trends(runs: Sequence[Run], promoted: frozenset[str]) -> list[Trend]:
    """One trend a guard, required ones first; `runs` are the newest first, `promoted` are keys of runs."""
    found: dict[str, list[tuple[Run, Comparison]]] = {}
    for run in reversed(runs):
        for comparison in run.comparisons:
            found.setdefault(comparison.label, []).append((run, comparison))
    made = [_trend(label, points, promoted) for label, points in found.items()]
    return sorted(made, key=lambda trend: trend.standing != "required")


def _trend(label: str, points: Sequence[tuple[Run, Comparison]], promoted: frozenset[str]) -> Trend:
    latest = points[-1][1]
    counts = words.tally(comparison for _, comparison in points)
    said = f"{words.difference(latest)} {words.interval(latest)}".strip()
    return Trend(
        label=one_line(label, 120),
        unit="points" if words.in_points(latest.bounds) else "the metric's own unit",
        standing=latest.standing,
        count=len(points),
        latest=f"{said}, {words.outcome_word(latest).lower()}",
        layouts=tuple(_picture(points, promoted, layout) for layout in TREND),
        description=f"{len(points)} runs from {points[0][0].when[:10]} to {points[-1][0].when[:10]}: {counts}. "
        f"The latest: {said}, {words.margin(latest)}.",
    )


def _picture(points: Sequence[tuple[Run, Comparison]], promoted: frozenset[str], layout: Layout) -> dict[str, Any]:
    top, foot = 10, layout.row - 34
    up = Axis.of(_extent([c for _, c in points]), foot, top)
    step = (layout.right - layout.left) / len(points)
    size = max(1.5, min(5.5, 0.4 * step))
    places = [round(layout.left + (i + 0.5) * step, 1) for i in range(len(points))]
    lines: dict[Outcome, list[str]] = {outcome: [] for outcome in _OUTCOMES}
    marks: dict[Outcome, list[str]] = {outcome: [] for outcome in _OUTCOMES}
    for x, (_, c) in zip(places, points, strict=True):
        factor = words.scaled(1.0, c.bounds)
        if c.interval is not None:
            low, high = (up.at(min(max(end * factor, up.low), up.high)) for end in c.interval)
            lines[c.outcome].append(f"M{x} {low}V{high}")
        if c.difference is not None:
            marks[c.outcome].append(_mark(c.outcome, x, up.at(c.difference * factor), size))
    return {
        "name": layout.name, "width": layout.width, "height": layout.row, "left": layout.left, "right": layout.right,
        "top": top, "foot": foot, "thick": round(max(1.0, min(5.0, 0.3 * step)), 1), "zero": up.at(0.0),
        "yticks": [(up.at(t), tick_text(t)) for t in ticks(up.low, up.high, layout.ticks)],
        "threshold": _threshold([c for _, c in points], layout.left, step, up),
        "lines": [(outcome, "".join(paths)) for outcome, paths in lines.items() if paths],
        "marks": [(outcome, "".join(paths)) for outcome, paths in marks.items() if paths],
        "promoted": "".join(f"M{x} {foot + 4}l4 7h-8z" for x, (run, _) in zip(places, points, strict=True)
                            if run.key in promoted),
        "first": points[0][0].when[:10], "last": points[-1][0].when[:10],
    }  # fmt: skip


def _extent(comparisons: Sequence[Comparison]) -> list[float]:
    """Zero, thresholds and differences always, intervals up to a few times as far; in the unit shown."""
    factor = words.scaled(1.0, comparisons[0].bounds)
    fixed = [0.0, *(words.threshold(c) for c in comparisons)]
    fixed += [c.difference for c in comparisons if c.difference is not None]
    reach = 2.0 * max(map(abs, fixed))
    ends = [max(-reach, min(reach, end)) for c in comparisons if c.interval is not None for end in c.interval]
    return [value * factor for value in (*fixed, *ends)]


def _threshold(comparisons: Sequence[Comparison], left: float, step: float, up: Axis) -> str:
    """The margin as a path that turns where a run had another one."""
    path, before = "", None
    for i, c in enumerate(comparisons):
        y = up.at(words.threshold(c) * words.scaled(1.0, c.bounds))
        x = round(left + i * step, 1)
        path += "" if y == before else (f"M{x} {y}" if before is None else f"H{x}V{y}")
        before = y
    return path + f"H{round(left + len(comparisons) * step, 1)}"


def _mark(outcome: Outcome, x: float, y: float, r: float) -> str:
    """A circle, a square or a diamond of about the same size, as a piece of a path."""
    r = round(r, 1)
    if outcome == "pass":
        return f"M{round(x - r, 1)} {y}a{r} {r} 0 1 0 {2 * r:g} 0a{r} {r} 0 1 0 {-2 * r:g} 0z"
    if outcome == "undecided":
        return f"M{round(x - r, 1)} {round(y - r, 1)}h{2 * r:g}v{2 * r:g}h{-2 * r:g}z"
    return f"M{x} {round(y - 1.3 * r, 1)}l{1.3 * r:g} {1.3 * r:g}l{-1.3 * r:g} {1.3 * r:g}l{-1.3 * r:g} {-1.3 * r:g}z"


# ---------------------------------------------------------------- learned against forgotten


@dataclass(frozen=True, slots=True)
class TradeOff:
    """What a run's candidate learned, in points of 100, and its worst loss as a share of that guard's margin."""

    run: Run
    learned: float
    lost: float


def trade_offs(runs: Sequence[Run]) -> list[TradeOff]:
    """One for each run that measured both sides.

    Learned is the smallest gain among the required guards that demand an improvement; where none does, the largest
    difference among the required guards. Forgotten is the largest drop among those with a margin, over the margin.
    """
    return [TradeOff(run, *found) for run in runs if (found := _trade_off(run)) is not None]


def _trade_off(run: Run) -> tuple[float, float] | None:
    measured = [c for c in run.comparisons if c.required and c.difference is not None]
    share = {c.label: 100 * (c.difference or 0.0) / abs(c.bounds[1] - c.bounds[0]) for c in measured}
    demanded = [share[c.label] for c in measured if c.must_improve is not None]
    kept = [-(c.difference or 0.0) / c.margin for c in measured if c.must_improve is None]
    if not share or not (kept or demanded):
        return None
    return (min(demanded) if demanded else max(share.values())), max(kept, default=0.0)


def plane(found: Sequence[TradeOff], layout: Layout) -> dict[str, Any]:
    """Gain to the right, loss downwards, so that better is up and right; the newest run is ringed."""
    top, foot = 44, layout.row - 40
    across = Axis.of([0.0, *(t.learned for t in found)], layout.left, layout.right)
    down = Axis.of([0.0, 1.0, *(min(t.lost, _CUT) for t in found)], top, foot)
    size = 6.0 if len(found) <= 60 else 3.5
    marks = [_point(t, across, down, size) for t in reversed(found)]
    return {
        "name": layout.name, "width": layout.width, "height": layout.row, "left": layout.left, "right": layout.right,
        "top": top, "foot": foot, "limit": down.at(1.0), "zero": across.at(0.0), "marks": marks,
        "ring": (across.at(found[0].learned), down.at(min(found[0].lost, _CUT))),
        "xticks": [(across.at(t), tick_text(t)) for t in ticks(across.low, across.high, layout.ticks)],
        "yticks": [(down.at(t), tick_text(t).lstrip("+")) for t in ticks(down.low, down.high, layout.ticks)],
    }  # fmt: skip


def _point(found: TradeOff, across: Axis, down: Axis, size: float) -> dict[str, Any]:
    outcome = _OF_VERDICT[found.run.verdict]
    x, y = across.at(found.learned), down.at(min(found.lost, _CUT))
    said = f"learned {tick_text(round(found.learned, 1))} pts, worst loss {found.lost:.2f} of the margin"
    if found.lost > _CUT:
        said += ", more than is drawn"
    title = f"{one_line(found.run.candidate.name, 80)}, {found.run.when[:10]}: {said}, {found.run.verdict}"
    return {"outcome": outcome, "path": _mark(outcome, x, y, size), "title": title}
