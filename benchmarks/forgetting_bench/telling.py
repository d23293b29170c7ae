"""The tables and the figure, from what the trials left. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, median
from typing import Any

from benchmarks.engine_bench.tables import table
from benchmarks.forgetting_bench.settings import CARELESS, Setting
from benchmarks.forgetting_bench.trials import TARGET, gain, loss, mean_loss

Trials = Sequence[Mapping[str, Any]]

HALVED, KEPT = 0.5, 0.8
"""What every arm is to reach: at most this share of the careless loss, at least this share of the careless gain."""


@dataclass(frozen=True, slots=True)
class Found:
    """The trials of one arm at its chosen strength, one a seed, and the curve of one more look at the first of them."""

    title: str
    name: str
    strength: float | None
    trials: Trials

    def spread(self, measure: Callable[[Mapping[str, Any]], float]) -> tuple[float, float, float]:
        """Mean, smallest and largest over the seeds."""
        values = [measure(trial) for trial in self.trials]
        return fmean(values), min(values), max(values)


def points(spread: tuple[float, float, float]) -> str:
    """Score points as percentages: mean (smallest to largest)."""
    mean, low, high = (100 * value for value in spread)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def arms_table(found: Sequence[Found]) -> str:
    """A line for each arm, the careless one first."""
    header = (
        "arm", "strength", "new skill gained, points", "of the careless gain", "worst old skill lost, points",
        "of the careless loss", "old skills lost on average", "steps", "both aims",
    )  # fmt: skip
    careless = found[0]
    return table(header, [_line(one, careless) for one in found])


def _line(one: Found, careless: Found) -> list[str]:
    gained, lost = one.spread(gain), one.spread(loss)
    kept, left = ratios(one, careless)
    steps = sorted({int(trial["outcome"]["steps"]) for trial in one.trials})
    return [
        one.title,
        "–" if one.strength is None else f"{one.strength:g}",
        points(gained),
        f"{kept:.0%}",
        points(lost),
        f"{left:.0%}",
        points(one.spread(mean_loss)),
        "–".join(str(step) for step in dict.fromkeys((steps[0], steps[-1]))),
        "–" if one.name == CARELESS else "yes" if kept >= KEPT and left <= HALVED else "**no**",
    ]


def ratios(one: Found, careless: Found) -> tuple[float, float]:
    """Share of the careless arm's mean gain that is kept, and of its mean loss that is left."""
    most, worst = careless.spread(gain)[0], careless.spread(loss)[0]
    return one.spread(gain)[0] / most if most else 0.0, one.spread(loss)[0] / worst if worst else 0.0


def choices_table(tried: Sequence[tuple[str, float, Mapping[str, Any], bool]]) -> str:
    """Every strength that was tried, on the samples held back: arm, strength, trial, whether it was chosen."""
    header = ("arm", "strength", "gained", "worst lost", "chosen")
    return table(header, [
        [title, f"{strength:g}", f"{100 * gain(trial):.1f}", f"{100 * loss(trial):.1f}", "yes" if chosen else ""]
        for title, strength, trial, chosen in tried
    ])  # fmt: skip


def cost_table(rows: Mapping[str, Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]]) -> str:
    """Trainings without and with the guard, in pairs of one round each, by what is trained."""
    header = (
        "training", "rounds", "without, s", "with, s", "wall time added", "processor time added", "looks",
        "counted in tokens",
    )  # fmt: skip
    return table(header, [[title, str(len(pairs)), *_cost(pairs)] for title, pairs in rows.items()])


def _cost(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    def told(values: Sequence[float], form: str) -> str:
        return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    bare, guarded = zip(*pairs, strict=True)
    added = {
        key: [after[key] / before[key] - 1 for before, after in pairs] for key in ("seconds", "cpu_seconds")
    }  # fmt: skip
    outcomes = [trial["outcome"] for trial in guarded]
    return [
        told([trial["seconds"] for trial in bare], ".1f"),
        told([trial["seconds"] for trial in guarded], ".1f"),
        told(added["seconds"], "+.1%"),
        told(added["cpu_seconds"], "+.1%"),
        ", ".join(str(n) for n in sorted({o["looks"] for o in outcomes})),
        f"{median([o['looks_share'] for o in outcomes]):.1%}",
    ]


# ---------------------------------------------------------------- the figure

_LEFT, _CELL, _PLOT, _HEIGHT, _TOP = 20, 190, 150, 110, 46  # pixels; one plot an arm, a row of them a setting
_LINES = (("new skill", "#2b6cb0", ""), ("worst old skill", "#c53030", "5 3"), ("old skills, mean", "#718096", "2 2"))


def figure(found: Mapping[str, tuple[Setting, Sequence[Found]]], caption: str) -> str:
    """Accuracy while training, one plot an arm and one row a setting, as SVG; beneath each what the seeds came to."""
    rows = [_row(setting, arms, place) for place, (setting, arms) in enumerate(found.values())]
    width = _LEFT + max(len(arms) for _, arms in found.values()) * _CELL + 20
    height = _TOP + len(rows) * (_HEIGHT + 96) + 20
    legend = "".join(
        f'<line x1="{430 + 150 * i}" y1="14" x2="{455 + 150 * i}" y2="14" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dash}"/><text x="{460 + 150 * i}" y="18">{name}</text>'
        for i, (name, colour, dash) in enumerate(_LINES)
    )
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="18" font-size="13">Accuracy on frozen questions while training, one seed</text>',
        legend,
        *rows,
        f'<text x="10" y="{height - 8}" fill="#555">{escape(caption)}</text>',
        "</svg>",
        "",
    ])  # fmt: skip


def _row(setting: Setting, arms: Sequence[Found], place: int) -> str:
    top = _TOP + place * (_HEIGHT + 96)
    head = f'<text x="10" y="{top}" font-weight="bold">{escape(setting.title)}</text>'
    return head + "".join(_plot(setting, one, _LEFT + i * _CELL, top + 28) for i, one in enumerate(arms))


def _plot(setting: Setting, one: Found, x: int, y: int) -> str:
    frame = f'<rect x="{x}" y="{y}" width="{_PLOT}" height="{_HEIGHT}" fill="none" stroke="#cbd5e0"/>'
    named = one.title if one.strength is None else f"{one.title} ({one.strength:g})"
    parts = [frame, f'<text x="{x}" y="{y - 6}">{escape(named)}</text>']
    curve = next((trial["curve"] for trial in one.trials if trial["curve"]), [])
    for series, (_, colour, dash) in zip(_series(curve), _LINES, strict=True):
        path = " ".join(
            f"{'L' if i else 'M'}{x + _PLOT * step / setting.steps:.1f} {y + _HEIGHT * (1 - value):.1f}"
            for i, (step, value) in enumerate(series)
        )
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-dasharray="{dash}"/>')
    return "".join([*parts, *_ending(setting, one, x, y)])


def _ending(setting: Setting, one: Found, x: int, y: int) -> list[str]:
    """Where the guard's kept weights are from, and what all seeds came to on the samples of the verdict."""
    outcome = next((trial["outcome"] for trial in one.trials if trial["curve"]), {})
    parts = []
    if one.name.startswith("guard") and "kept_step" in outcome:
        at = x + _PLOT * outcome["kept_step"] / setting.steps
        parts.append(f'<line x1="{at:.1f}" y1="{y}" x2="{at:.1f}" y2="{y + _HEIGHT}" stroke="#2f855a"/>')
    gained, lost = one.spread(gain), one.spread(loss)
    lines = (
        f"0 to {setting.steps} steps",
        f"gained {points(gained)}",
        f"worst lost {points(lost)}",
    )
    shown = [f'<text x="{x}" y="{y + _HEIGHT + 14 * n}">{line}</text>' for n, line in enumerate(lines, 1)]
    return parts + shown


def _series(curve: Sequence[Mapping[str, Any]]) -> list[list[tuple[int, float]]]:
    """New skill, worst old skill, mean of the old ones, each as (step, accuracy)."""
    target = TARGET.removeprefix("demo-")
    found: list[list[tuple[int, float]]] = [[], [], []]
    for point in curve:
        old = [value for name, value in point["scores"].items() if name != target]
        values = point["scores"][target], min(old), fmean(old)
        for line, value in zip(found, values, strict=True):
            line.append((point["step"], value))
    return found
