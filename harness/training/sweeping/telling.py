"""A sweep's result for people: its page, and the rows of its table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import words
from harness.report import _sweep
from harness.report._sweep import SweepPage, TrialRow
from harness.runs import write_json, write_text
from harness.training.sweeping.outcome import Measured, Trial
from harness.training.sweeping.sweep import SweepResult

RESULT = "sweep.json"


def write_report(result: SweepResult, title: str) -> Path:
    """Write the page and `sweep.json` into the sweep's folder; the path of the page."""
    write_json(result.out / RESULT, result.as_json())
    path = result.out / _sweep.FILENAME
    write_text(path, _sweep.render(page(result, title)))
    return path


def page(result: SweepResult, title: str) -> SweepPage:
    """What the page shows."""
    chosen = result.chosen
    samples = "; ".join(
        f"{name}: {n:,} for choosing, {result.left[name]:,} for the verdict" for name, n in result.held.items()
    )
    return SweepPage(
        title=title,
        paths=result.paths,
        trials=[_row(trial, result.paths) for trial in result.trials],
        front=result.front,
        chosen=None if chosen is None else chosen.number,
        facts=[("Samples", samples)],
        settings={} if chosen is None else {path: value_text(chosen.values[path]) for path in result.paths},
        next_step=next_step(result),
    )


def next_step(result: SweepResult) -> str:
    """The command that makes the verdict; empty where nothing is recommended."""
    return "" if result.recipe is None else f"harness train {result.recipe.name}"


def table(result: SweepResult) -> tuple[list[str], list[tuple[str, ...]]]:
    """Columns and rows for the terminal."""
    rows = [(str(r.number), *r.settings, r.learned, r.forgotten, _state(r, result)) for r in page(result, "").trials]
    return ["trial", *(path.rpartition(".")[2] for path in result.paths), "learned", "worst loss", "outcome"], rows


def value_text(value: Any) -> str:
    """A setting's value, numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _state(row: TrialRow, result: SweepResult) -> str:
    if row.state == "failed":
        return f"failed: {row.remark}"
    said = {"feasible": "no regression", "regressed": "regressed"}[row.state]
    if result.chosen is not None and row.number == result.chosen.number:
        return f"{said}, recommended"
    return f"{said}, front" if row.number in result.front else said


def _row(trial: Trial, paths: tuple[str, ...]) -> TrialRow:
    settings = [value_text(trial.values[path]) for path in paths]
    if trial.state == "failed":
        return TrialRow(trial.number, "failed", settings, remark=trial.reason)
    gain, loss = trial.values_of
    worst = trial.worst
    return TrialRow(
        trial.number, trial.state, settings, 100 * gain, loss,
        learned=_difference(trial.least, interval=True),
        forgotten=f"{_minus(f'{loss:.2f}')} of the margin ({worst.label}: {_difference(worst)})",
        remark=_remark(trial),
    )  # fmt: skip


def _difference(guard: Measured, *, interval: bool = False) -> str:
    """`+3.2 pts [+1.0, +5.4]`."""
    said = f"{words.scaled(guard.difference, guard.bounds) + 0.0:+.1f}{words.unit(guard.bounds)}"
    if interval and guard.interval is not None:
        low, high = (words.scaled(end, guard.bounds) for end in guard.interval)
        said += f" [{low:+.1f}, {high:+.1f}]"
    return _minus(said)


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")


def _remark(trial: Trial) -> str:
    """What is worth knowing of a trial beside its numbers: that it was not trained, or that it ended early."""
    if trial.same_as is not None:
        return f"the settings of trial {trial.same_as}, whose outcome it has"
    early = [_ended(stage) for stage in trial.stages if stage["ended"] not in ("finished", "fitted at once")]
    return "; ".join(early)


def _ended(stage: Mapping[str, Any]) -> str:
    return f"{stage['name']} ended at step {stage['steps']}: {stage['ended']}"
