"""A sweep as one page that needs nothing else: what each trial learned against what it forgot, and its settings.

The page is made of plain numbers and texts, so that it knows nothing of trainings. Everything that it shows passes
through Jinja's autoescaping; it has no script at all, and its policy allows its own style sheet and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from harness.report._forest import Layout, tick_text, ticks
from harness.report._text import one_line, visible
from harness.report.html import asset, content_security_policy, environment

FILENAME = "report.html"

State = Literal["feasible", "regressed", "failed"]
_WORDS: dict[State, str] = {"feasible": "no regression", "regressed": "regressed", "failed": "failed"}
_OUTCOMES: dict[State, str] = {"feasible": "pass", "regressed": "regressed", "failed": "undecided"}
WIDE = Layout("wide", width=1040, left=64, right=1020, row=430, bar=0, label=0, ticks=8)
NARROW = Layout("narrow", width=340, left=34, right=334, row=300, bar=0, label=0, ticks=4)
_TOP, _FOOT = 44, 40
_CUT = 3.0  # margins: a trial that lost more than this is drawn at the edge, or one wreck would flatten all others


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial. `gain` is in points of 100, `loss` a share of its margin; both are None where it failed."""

    number: int
    state: State
    settings: Sequence[str]
    gain: float | None = None
    loss: float | None = None
    learned: str = ""
    forgotten: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class SweepPage:
    """What the page shows. `front` are numbers of trials by rising gain, `facts` pairs of a name and a text."""

    title: str
    paths: Sequence[str]
    trials: Sequence[TrialRow]
    front: Sequence[int]
    chosen: int | None
    facts: Sequence[tuple[str, str]]
    settings: Mapping[str, str]
    next_step: str


@dataclass(frozen=True, slots=True)
class _Mark:
    """A trial in the plot; `cut` says that it lies beyond the plot's lower edge."""

    number: int
    outcome: str
    x: float
    y: float
    chosen: bool
    front: bool
    cut: bool
    label: str


def render(page: SweepPage) -> str:
    """The page's text; the same input always gives the same text."""
    style = asset("report.css") + asset("sweep.css")
    verdict = "hold" if page.chosen is None else "promote"  # colours of the page; the word is never shown
    drawn = [trial for trial in page.trials if trial.gain is not None]
    return environment().get_template("sweep.html.j2").render(
        title=one_line(page.title, 200),
        accent=verdict,
        chosen=page.chosen,
        plots=[_plot(page, drawn, layout) for layout in (WIDE, NARROW)] if drawn else [],
        paths=[one_line(path, 120) for path in page.paths],
        rows=[_row(trial, page) for trial in _ordered(page)],
        tally=", ".join(f"{n} {_WORDS[s]}" for s in _WORDS if (n := sum(t.state == s for t in page.trials))),
        facts=[(name, one_line(text, 200)) for name, text in page.facts],
        settings=[(one_line(path, 120), one_line(value, 80)) for path, value in page.settings.items()],
        next_step=one_line(page.next_step, 400),
        style=Markup(style),  # noqa: S704 - our own files, not a document's text
        policy=content_security_policy(style, ""),
    )  # fmt: skip


def _ordered(page: SweepPage) -> list[TrialRow]:
    """The chosen one first, then by what was learned; regressed ones after those, failed ones last."""
    rank: dict[State, int] = {"feasible": 0, "regressed": 1, "failed": 2}
    return sorted(page.trials, key=lambda t: (t.number != page.chosen, rank[t.state], -(t.gain or 0.0), t.number))


def _row(trial: TrialRow, page: SweepPage) -> dict[str, Any]:
    badges = (["recommended"] if trial.number == page.chosen else []) + (
        ["front"] if trial.number in page.front else []
    )
    return {
        "number": trial.number,
        "outcome": _OUTCOMES[trial.state],
        "word": _WORDS[trial.state],
        "badges": badges,
        "settings": [one_line(value, 80) for value in trial.settings],
        "learned": one_line(trial.learned, 120),
        "forgotten": one_line(trial.forgotten, 160),
        "remark": visible(trial.remark),
    }


def _plot(page: SweepPage, drawn: Sequence[TrialRow], layout: Layout) -> dict[str, Any]:
    """Places of everything in one picture: gain to the right, loss downwards, so that better is up and right."""
    across = Axis.of([0.0, *(t.gain or 0.0 for t in drawn)], layout.left, layout.right)
    losses = [t.loss or 0.0 for t in drawn]
    down = Axis.of([0.0, 1.0, *(min(loss, _CUT) for loss in losses)], _TOP, layout.row - _FOOT)
    marks = {t.number: _mark(t, page, across, down) for t in drawn}
    line = [(marks[n].x, marks[n].y) for n in page.front if n in marks]
    return {
        "name": layout.name, "width": layout.width, "height": layout.row, "left": layout.left, "right": layout.right,
        "top": _TOP, "foot": layout.row - _FOOT,
        "xticks": [(across.at(t), tick_text(t)) for t in ticks(across.low, across.high, layout.ticks)],
        "yticks": [(down.at(t), tick_text(t).lstrip("+")) for t in ticks(down.low, down.high, layout.ticks)],
        "limit": down.at(1.0), "zero": across.at(0.0), "path": _steps(line),
        "marks": sorted(marks.values(), key=lambda mark: mark.chosen),
        "description": ". ".join(mark.label for mark in marks.values()) + ".",
    }  # fmt: skip


def _mark(trial: TrialRow, page: SweepPage, across: Axis, down: Axis) -> _Mark:
    loss = trial.loss or 0.0
    said = f"Trial {trial.number}: learned {trial.learned}, forgot {trial.forgotten}, {_WORDS[trial.state]}"
    said += ", recommended" if trial.number == page.chosen else ""
    return _Mark(
        trial.number, _OUTCOMES[trial.state], across.at(trial.gain or 0.0), down.at(min(loss, _CUT)),
        trial.number == page.chosen, trial.number in page.front, loss > _CUT, one_line(said, 240),
    )  # fmt: skip


def _steps(points: Sequence[tuple[float, float]]) -> str:
    """The edge of what the front outdoes, as an SVG path: between two of its trials the better of neither is known."""
    if not points:
        return ""
    (x, y), *others = points
    return f"M{x} {y}" + "".join(f"V{below}H{right}" for right, below in others)


@dataclass(frozen=True, slots=True)
class Axis:
    """From a value to a place between `start` and `end`; a little room is left on both sides."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> Axis:
        """The axis on which all `values` lie."""
        low, high = min(values), max(values)
        pad = 0.06 * (high - low) or 1.0
        return cls(low - pad, high + pad, start, end)

    def at(self, value: float) -> float:
        """Where `value` lies, to a tenth of the picture's unit; outside the axis where it is none of its values."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)
