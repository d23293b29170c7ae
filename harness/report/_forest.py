"""Geometry of the forest plot: where every bar, whisker and margin of a group of guards lies. Draws nothing.

All guards of one panel share one scale, so a panel holds guards of one unit. Two layouts exist because text that is
scaled down with a picture is unreadable on a phone: `WIDE` puts label, plot and numbers side by side, `NARROW` puts
the label above the plot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness import words
from harness.records import Comparison
from harness.report._text import one_line

_PAD = 18  # room for a mark or half a number at either end of the plot


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes in units of the picture; `label` is how many characters of a label fit."""

    name: str
    width: int
    left: int
    right: int
    row: int
    bar: int
    label: int
    ticks: int


WIDE = Layout("wide", width=1040, left=322, right=812, row=34, bar=17, label=40, ticks=6)
NARROW = Layout("narrow", width=340, left=4, right=336, row=54, bar=37, label=34, ticks=4)


@dataclass(frozen=True, slots=True)
class Line:
    """A horizontal line; an end outside the scale is cut off there and drawn as an arrow."""

    start: float
    end: float
    cut_start: bool
    cut_end: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One guard of the plot."""

    y: int
    label: str
    remark: str
    text: str
    outcome: str
    point: float | None
    decision: Line | None
    population: Line | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: guards of one unit on one scale."""

    id: str
    layout: Layout
    height: int
    unit: str
    description: str
    zero: float
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[Row, ...]


def panels(comparisons: Sequence[Comparison], layout: Layout) -> list[Panel]:
    """One panel a unit, points first, then in order of appearance."""
    groups: dict[tuple[float, float], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(comparison.bounds, []).append(comparison)
    ordered = sorted(groups, key=lambda bounds: not words.in_points(bounds))
    return [_panel(groups[bounds], layout, f"{layout.name}-{i}") for i, bounds in enumerate(ordered)]


def _panel(comparisons: Sequence[Comparison], layout: Layout, identifier: str) -> Panel:
    bounds = comparisons[0].bounds
    scale = _Scale(_extent(comparisons), layout)
    low, high = bounds
    unit = "points" if words.in_points(bounds) else f"the metric's own unit, {low:g} to {high:g}"
    return Panel(
        id=identifier,
        layout=layout,
        height=layout.row * len(comparisons) + 34,
        unit=unit,
        description=". ".join(_sentence(comparison) for comparison in comparisons) + ".",
        zero=scale.x(0.0),
        ticks=tuple((scale.x(tick), tick_text(tick)) for tick in ticks(*scale.extent, layout.ticks)),
        rows=tuple(_row(comparison, scale, i) for i, comparison in enumerate(comparisons)),
    )


def _row(comparison: Comparison, scale: _Scale, index: int) -> Row:
    factor = words.scaled(1.0, comparison.bounds)
    point = None if comparison.difference is None else scale.x(comparison.difference * factor)
    remarks = ([] if comparison.required else [comparison.standing]) + (["fragile"] if comparison.fragile else [])
    return Row(
        y=index * scale.layout.row,
        label=one_line(comparison.label, scale.layout.label),
        remark=", ".join(remarks),
        text=f"{words.difference(comparison)} {words.interval(comparison)}".strip(),
        outcome=comparison.outcome,
        point=point,
        decision=scale.line(comparison.interval, factor),
        population=scale.line(comparison.population_interval, factor),
        threshold=scale.x(words.threshold(comparison) * factor),
    )


def _sentence(comparison: Comparison) -> str:
    if comparison.difference is None:
        return f"{one_line(comparison.label, 120)}: no pair is complete, {words.outcome_word(comparison).lower()}"
    return (
        f"{one_line(comparison.label, 120)}: {words.difference(comparison)}, interval "
        f"{words.interval(comparison)}, {words.margin(comparison)}, {words.outcome_word(comparison).lower()}"
    )


def _extent(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """The range shown: zero, thresholds and differences always, intervals up to a few times as far."""
    factor = words.scaled(1.0, comparisons[0].bounds)
    fixed = [0.0, *(words.threshold(c) for c in comparisons)]
    fixed += [c.difference for c in comparisons if c.difference is not None]
    reach = 2.5 * max(map(abs, fixed)) or 0.05 * abs(comparisons[0].bounds[1] - comparisons[0].bounds[0])
    spans = [c.interval for c in comparisons] + [c.population_interval for c in comparisons]
    ends = fixed + [max(-reach, min(reach, end)) for span in spans if span is not None for end in span]
    low, high = min(ends), max(ends)
    pad = 0.05 * (high - low) or reach
    return (low - pad) * factor, (high + pad) * factor


@dataclass(frozen=True, slots=True)
class _Scale:
    """From a difference in the unit shown to a place in the picture."""

    extent: tuple[float, float]
    layout: Layout

    def x(self, value: float) -> float:
        low, high = self.extent
        share = (min(max(value, low), high) - low) / (high - low)
        left, right = self.layout.left + _PAD, self.layout.right - _PAD
        return round(left + share * (right - left), 1)

    def line(self, ends: tuple[float, float] | None, factor: float) -> Line | None:
        if ends is None:
            return None
        start, end = ends[0] * factor, ends[1] * factor
        return Line(self.x(start), self.x(end), start < self.extent[0], end > self.extent[1])


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from `low` to `high`, at most one more than `count`."""
    step = _round_step((high - low) / count)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _round_step(rough: float) -> float:
    power = float(10 ** math.floor(math.log10(rough)))
    return next((m * power for m in (1, 2, 5) if m * power >= rough), 10 * power)


def tick_text(value: float) -> str:
    """A number with its sign, beside a tick."""
    return "0" if value == 0 else f"{value:+g}".replace("-", "\N{MINUS SIGN}")
