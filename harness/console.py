"""All drawing in a terminal: the progress of a run, its verdict, errors and tables. The only user of rich.

Results go to stdout, everything else to stderr. Texts that come from models, files or users are never read as
markup, and the escape sequences in them never reach the terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from harness import wear, words
from harness.errors import HarnessError, InfrastructureError
from harness.progress import Observer
from harness.records import Comparison, Decision, Verdict
from harness.report._text import plain, stripped

QUIET_SECONDS = 5.0  # the shortest time between two progress lines in a log
_LOG_WIDTH = 160  # a log has no width; rich would take 80 and fold every table
_FULL_WIDTH = 140  # a narrower terminal gets the columns that decide
_GUARD_COLUMNS = 3  # required guards that get a column each in the table of candidates

_STYLE = {"pass": "green", "regressed": "bold red", "undecided": "yellow"}
_VERDICT: dict[Decision, tuple[str, str]] = {
    "promote": ("✓", "bold green"),
    "block": ("✗", "bold red"),
    "hold": ("‖", "bold yellow"),
}


# ---------------------------------------------------------------- progress


@contextmanager
def watch(stream: TextIO | None = None) -> Iterator[Observer]:
    """An observer for the time of a run: a live table in a terminal, single lines in a log."""
    out = sys.stderr if stream is None else stream
    if out.isatty() and os.environ.get("TERM") != "dumb":
        board = Board(_console(out))
        with board.live:
            yield board
    else:
        yield Lines(_console(out))


class Board:
    """An observer that keeps one table up to date. rich redraws from its own thread; attributes are only replaced."""

    def __init__(self, console: Console) -> None:
        """Draw on `console` once `live` is entered."""
        self._console = console
        self._spinner = Spinner("dots", style="cyan")
        self._stage = "starting"
        self._asking = ""
        self._left: float | None = None
        self._states: list[Comparison] = []
        self.live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,  # stdout is for results; it must not be drawn on stderr
        )

    def stage(self, text: str) -> None:
        """See `Observer.stage`."""
        self._stage, self._asking, self._left, self._states = stripped(text), "", None, []

    def asking(self, suite: str, arm: str, done: int, total: int) -> None:
        """See `Observer.asking`."""
        self._asking = _asking(suite, arm, done, total)

    def guards(self, standing: Sequence[Comparison], seconds_left: float | None) -> None:
        """See `Observer.guards`."""
        self._states, self._left = list(standing), seconds_left

    def note(self, text: str) -> None:
        """See `Observer.note`."""
        self._console.print(Text(f"  {stripped(text)}", style="dim"))

    def _draw(self) -> RenderableType:
        head = Text(self._stage, style="bold")
        for part in (self._asking, _left(self._left)):
            if part:
                head.append(f" · {part}", style="dim")
        self._spinner.update(text=head)
        return Group(self._spinner, *([_board(self._states, self._console)] if self._states else []))


class Lines:
    """An observer that writes lines: every stage and note, every required guard's decision, progress now and then."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `console`, at most one progress line every `QUIET_SECONDS` of `clock`."""
        self._console = console
        self._clock = clock
        self._spoke = float("-inf")
        self._decided: dict[str, str] = {}

    def stage(self, text: str) -> None:
        """See `Observer.stage`."""
        self._decided = {}
        self._say(f"== {text}")

    def asking(self, suite: str, arm: str, done: int, total: int) -> None:
        """See `Observer.asking`."""
        if self._due():
            self._say(_asking(suite, arm, done, total))

    def guards(self, standing: Sequence[Comparison], seconds_left: float | None) -> None:
        """See `Observer.guards`."""
        for state in standing:
            if state.required and state.outcome != self._decided.get(state.label, "undecided"):
                self._say(f"{state.label}: {state.outcome} after {state.n_used:,} samples, {_running(state)}")
            self._decided[state.label] = state.outcome
        if self._due():
            self._say(_summary(standing, seconds_left))

    def note(self, text: str) -> None:
        """See `Observer.note`."""
        self._say(text)

    def _due(self) -> bool:
        if self._clock() - self._spoke < QUIET_SECONDS:
            return False
        self._spoke = self._clock()
        return True

    def _say(self, text: str) -> None:
        self._console.print(Text(stripped(text)), soft_wrap=True)


def _board(states: Sequence[Comparison], console: Console) -> RenderableType:
    """As many guards as the screen holds, those first that matter most for how long the run still takes."""
    order = sorted(states, key=lambda s: (not s.required, s.outcome != "undecided"))
    room = max(3, console.size.height - 6)
    table = _table("", ("guard", "samples", "", "difference", "margin", "outcome"), right=(2, 3, 4))
    for state in order[:room]:
        bar = ProgressBar(total=max(state.n, 1), completed=state.n_used, width=16)
        table.add_row(
            Text(stripped(state.label), style="" if state.required else "dim", overflow="ellipsis", no_wrap=True),
            bar,
            Text(f"{state.n_used:,} of {state.n:,}"),
            Text(_running(state)),
            Text(words.margin(state)),
            Text(state.outcome, style=_STYLE.get(state.outcome, "")),
        )
    if len(order) <= room:
        return table
    return Group(table, Text(f"  … and {len(order) - room} more guards", style="dim"))


def _running(state: Comparison) -> str:
    return f"{words.difference(state)} {words.interval(state)}".strip()


def _summary(states: Sequence[Comparison], seconds_left: float | None) -> str:
    required = [s for s in states if s.required]
    counts = [f"{sum(s.outcome == o for s in required)} {o}" for o in ("pass", "regressed", "undecided")]
    used, total = sum(s.n_used for s in required), sum(s.n for s in required)
    share = f"{used:,} of {total:,} pairs ({used / max(total, 1):.0%})"
    return " · ".join(part for part in (share, "required guards: " + ", ".join(counts), _left(seconds_left)) if part)


def _asking(suite: str, arm: str, done: int, total: int) -> str:
    return f"{stripped(suite)}, {stripped(arm)}: {done:,} of {total:,} requests"


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"at most {hours} h {minutes} min left"
    return f"at most {minutes} min left" if minutes else f"at most {whole} s left"


# ---------------------------------------------------------------- results


def print_verdict(verdict: Verdict, *, report: Path | None = None, stream: TextIO | None = None) -> None:
    """The verdict with its reasons, the guards as a table, and where the report lies."""
    console = _console(sys.stdout if stream is None else stream)
    icon, style = _VERDICT[verdict.verdict]
    console.print()
    console.print(Text.assemble((f"{icon} {verdict.verdict.upper()}", style), f"  {words.HEADLINE[verdict.verdict]}"))
    for reason in verdict.reasons:
        console.print(_bullet("•", reason))
    for said in wear.told(verdict):
        console.print(_bullet("!", f"worn set: {said}"))
    console.print()
    _print_guards(console, verdict)
    if report is not None:
        console.print(Text(f"Report: {stripped(str(report))}"), soft_wrap=True)


def print_candidates(results: Sequence[tuple[str, Verdict, Path]], *, stream: TextIO | None = None) -> None:
    """All candidates of one run, a line each: (name, verdict, run directory).

    A few required guards have a column each; of many, only the worst of each candidate is shown.
    """
    labels = [c.label for c in results[0][1].comparisons if c.required]
    each = len(labels) <= _GUARD_COLUMNS
    rows = []
    for name, verdict, run in results:
        cells = [_brief(c) for c in verdict.comparisons if c.required] if each else [_worst(verdict)]
        rows.append((name, f"{_VERDICT[verdict.verdict][0]} {verdict.verdict.upper()}", *cells, _from_here(run)))
    columns = labels if each else ["worst required guard"]
    print_table("Candidates", ("candidate", "verdict", *columns, "run"), rows, stream=stream)


def _from_here(path: Path) -> Path:
    """A path as short as it can be typed, since a folded one cannot be copied."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _worst(verdict: Verdict) -> str:
    comparison = words.worst(verdict)
    return words.MISSING if comparison is None else f"{comparison.label} {_brief(comparison)}"


def _brief(comparison: Comparison) -> str:
    return f"{words.difference(comparison)} {words.MARK[comparison.outcome]}"


def print_error(error: HarnessError, *, stream: TextIO | None = None) -> None:
    """What went wrong, on stderr."""
    console = _console(sys.stderr if stream is None else stream)
    console.print(Text.assemble(("error: ", "bold red"), plain(str(error))), soft_wrap=True)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, stream: TextIO | None = None
) -> None:
    """A table of anything; columns whose cells are all numbers are aligned to the right."""
    console = _console(sys.stdout if stream is None else stream)
    numeric = [i for i in range(len(columns)) if rows and all(isinstance(row[i], int | float) for row in rows)]
    table = _table(title, columns, right=numeric)
    for row in rows:
        table.add_row(*(Text(stripped("" if cell is None else str(cell)), overflow="fold") for cell in row))
    console.print(table)


def _print_guards(console: Console, verdict: Verdict) -> None:
    shown = [*words.required(verdict), *words.advisory(verdict)]
    if shown:
        full = console.width >= _FULL_WIDTH
        columns = {"guard": "left", **_NUMBERS, "outcome": "left"} if full else _NARROW
        table = _table("", list(columns), right=[i for i, side in enumerate(columns.values()) if side == "right"])
        for comparison in shown:
            cells = _row(comparison)
            table.add_row(*(cells[column] for column in columns))
        console.print(table)
    slices = words.slices(verdict)
    if slices:
        noun = "slice" if len(slices) == 1 else "slices"
        console.print(Text(f"{len(slices)} advisory {noun}: {words.tally(slices)}", style="dim"))


_NUMBERS = {
    "baseline": "right",
    "candidate": "right",
    "difference": "left",
    "margin": "left",
    "lost/won": "right",
    "samples": "right",
}
_NARROW = {"guard": "left", "difference": "left", "margin": "left", "samples": "right", "outcome": "left"}


def _row(comparison: Comparison) -> dict[str, Text]:
    style = _STYLE[comparison.outcome] if comparison.required or comparison.blocks else "dim"
    numbers = {
        "baseline": words.mean(comparison.baseline_mean, comparison),
        "candidate": words.mean(comparison.candidate_mean, comparison),
        "difference": f"{words.difference(comparison)} {words.interval(comparison)}".strip(),
        "margin": words.margin(comparison),
        "lost/won": f"{words.counted(comparison.lost, comparison)}/{words.counted(comparison.won, comparison)}",
        "samples": words.used(comparison),
    }
    return {
        "guard": Text(stripped(comparison.label), overflow="fold"),
        **{name: Text(value, no_wrap=True) for name, value in numbers.items()},
        "outcome": Text(_outcome(comparison), style=style, no_wrap=True),
    }


def _outcome(comparison: Comparison) -> str:
    remarks = [] if comparison.required else [comparison.standing]
    remarks += ["fragile"] if comparison.fragile else []
    word = f"{words.MARK[comparison.outcome]} {words.outcome_word(comparison).lower()}"
    return f"{word} ({', '.join(remarks)})" if remarks else word


# ---------------------------------------------------------------- rich


class _Quiet(Console):
    """rich ends the program with exit code 1 when its reader is gone, which would read as BLOCK."""

    def on_broken_pipe(self) -> None:
        """Leave with the exit code of an infrastructure failure; what was decided stands in the run directory."""
        self.quiet = True
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - the interpreter flushes it at its end
        raise InfrastructureError("whoever read the output went away; the verdict is in the run directory")


def _console(stream: TextIO) -> Console:
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
    if not encoding.startswith("utf") and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a verdict must not fail on a terminal without ✓
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", _LOG_WIDTH))
    return _Quiet(file=stream, highlight=False, markup=False, emoji=False, width=width)


def _table(title: str, columns: Sequence[str], *, right: Sequence[int] = ()) -> Table:
    table = Table(title=Text(stripped(title)) if title else None, box=None, pad_edge=False, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(Text(stripped(column)), justify="right" if index in right else "left", header_style="dim")
    return table


def _bullet(mark: str, text: str) -> Table:
    """A paragraph with a hanging indent."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(f"  {mark}"), Text(stripped(text)))
    return grid
