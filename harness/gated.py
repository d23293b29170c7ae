"""A gate run once for many tests: what the pytest plugin asks, in one process or in several of pytest-xdist"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness import words
from harness.candidates import with_candidates
from harness.config import LoadedConfig, load_gate
from harness.document import read_run
from harness.errors import HarnessError, InfrastructureError, StorageError
from harness.gate import make_plan, run_gate
from harness.progress import Silent
from harness.records import Comparison, Verdict
from harness.report._text import stripped

Key = tuple[str, bool]
"""A guard's label, and whether it is required."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a test says: its state, the reason in one line, and the page with everything else."""

    state: Literal["passed", "skipped", "failed"]
    text: str
    report: Path


class GateSession:
    """One gate in one run of a test program.

    `shared` is a folder in which several processes meet: one of them runs the gate, the others wait for it and read
    what it left. None where there is one process.
    """

    def __init__(self, path: Path, candidate: Path | None, out: Path | None, shared: Path | None) -> None:
        self.path = path
        self._candidate, self._out, self._shared = candidate, out, shared
        self._made: Path | None = None
        self._told: dict[str, str] | None = None
        self._verdict: Verdict | None = None

    def guards(self) -> list[tuple[str, Key]]:
        """The name of every guard with its key; reads suites, loads no model.

        Raises:
            HarnessError: the configuration or a suite is wrong.
        """
        plan = make_plan(self._loaded(), self._out)
        for state in plan.states:
            state.suite.close()
        ordered = sorted(plan.guards, key=lambda guard: not guard.required)
        keys = dict.fromkeys((guard.label, guard.required) for guard in ordered)
        return [(_name(label, required), (label, required)) for label, required in keys]

    def verdict(self) -> Finding:
        """The gate's verdict: passed on PROMOTE alone."""
        verdict, report = self._decided()
        reasons = stripped("; ".join(verdict.reasons)) or words.HEADLINE[verdict.verdict]
        state: Literal["passed", "failed"] = "passed" if verdict.verdict == "promote" else "failed"
        return Finding(state, f"{verdict.verdict.upper()}: {reasons}", report)

    def guard(self, key: Key) -> Finding:
        """One guard's outcome; see `harness.pytest_plugin` for what becomes of it."""
        verdict, report = self._decided()
        found = [c for c in verdict.comparisons if (c.label, c.required) == key]
        if not found:
            return Finding("failed", f"HOLD: the run holds nothing about {key[0]}", report)
        return _finding(min(found, key=_concern), verdict, report)

    def _decided(self) -> tuple[Verdict, Path]:
        """The verdict of the run, decided anew from its evidence.

        Raises:
            HarnessError: the gate could not run, now or when the first test asked.
        """
        if self._told is None:
            self._told = self._run() if self._shared is None else self._run_for_all(self._shared)
        if "error" in self._told:
            raise InfrastructureError(self._told["error"])
        run = Path(self._told["run"])
        if self._verdict is None:
            self._verdict = read_run(run).verdict
        return self._verdict, run / "report.html"

    def _run(self) -> dict[str, str]:
        """Where the finished run is, or why there is none; a second test must not start a gate that failed anew."""
        try:
            return {"run": str(run_gate(self._loaded(), Silent(), out=self._out).path)}
        except HarnessError as error:
            return {"error": str(error)}

    def meeting_place(self) -> Path:
        """A new folder for `shared` of other processes; the same for all of them."""
        if self._made is None:
            self._made = Path(tempfile.mkdtemp(prefix="harness-pytest-"))
        return self._made

    def close(self) -> None:
        """Remove the folder, if this process made it."""
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)

    def _run_for_all(self, shared: Path) -> dict[str, str]:
        with _alone(shared):
            told = shared / "told.json"
            if not told.exists():
                told.write_text(json.dumps(self._run()), encoding="utf-8")
            found: dict[str, str] = json.loads(told.read_text(encoding="utf-8"))
            return found

    def _loaded(self) -> LoadedConfig:
        loaded = load_gate(self.path)
        return loaded if self._candidate is None else with_candidates(loaded, [self._candidate])[0]


def _name(label: str, required: bool) -> str:
    """A guard's name as a test's: of one line, and with its brackets at the end, where JUnit files expect them."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in label)
    return shown if required else f"advisory: {shown}"


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold a folder, one process at a time; the lock ends with the process that holds it."""
    import fcntl

    try:
        with open(place / "lock", "w", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StorageError(f"{place}: {error}") from error


def _finding(comparison: Comparison, verdict: Verdict, report: Path) -> Finding:
    text = f"{words.outcome_word(comparison)}: {_numbers(comparison)}"
    if comparison.blocks:
        return Finding("failed", f"BLOCK: {text}", report)
    if comparison.outcome == "pass":
        return Finding("passed", text, report)
    if comparison.required:
        checks = "".join(stripped(f"; check {c.name}: {c.detail}") for c in words.failed_checks(verdict))
        return Finding("failed", f"HOLD: {text}{checks}", report)
    return Finding("skipped", f"advisory, {text}", report)


def _numbers(comparison: Comparison) -> str:
    numbers = f"{words.difference(comparison)} {words.interval(comparison)}".strip()
    reason = f"; {comparison.reason}" if comparison.reason else ""
    return stripped(f"{numbers} ({words.margin(comparison)}), {words.used(comparison)} samples{reason}")


def _concern(comparison: Comparison) -> Any:
    return ("regressed", "undecided", "pass").index(comparison.outcome)
