"""What a reviewer should see beside the changed lines: regressed and open guards, at their line of gate.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness import words
from harness.ci.outcome import Outcome
from harness.config import LoadedConfig, SuiteSection, load_gate, nearest_line
from harness.errors import ConfigError
from harness.records import Check, Comparison
from harness.report import Document

Level = Literal["error", "warning", "notice"]
_LIMIT = 1_000
_AT_LINE = re.compile(r"(?P<file>[^:\n]{1,400}):(?P<line>\d{1,7}): ")
_FROM = ("set", "task", "judge", "samples")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at. `file` is relative to the repository, or empty where it lies outside of it."""

    level: Level
    title: str
    text: str
    file: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a guard is written in a gate.yaml that need not be readable any more."""

    file: str
    loaded: LoadedConfig | None

    def of(self, comparison: Comparison) -> int | None:
        """The guard's line, else that of its suite; None where it cannot be told."""
        if self.loaded is None:
            return None
        for index, section in enumerate(self.loaded.gate.suites):
            if comparison.suite in _names(section):
                metrics = [guard.metric for guard in section.guards]
                at_guard = ("guards", metrics.index(comparison.metric)) if comparison.metric in metrics else ()
                return nearest_line(self.loaded.lines, ("suites", index, *at_guard))
        return None


def findings(outcome: Outcome, config: Path, root: Path) -> list[Finding]:
    """Everything to look at, gravest first: errors block, warnings hold, notices inform.

    `root` is the folder of the repository: what CI shows beside a line is named relative to it.
    """
    if outcome.error:
        return [_of_error(outcome.error, root)]
    try:
        loaded = load_gate(config)
    except ConfigError:
        loaded = None  # the gate read it; whatever happened to it since, the verdict stands
    places = _Places(_relative(config, root), loaded)
    several = len(outcome.documents) > 1
    found = [f for document in outcome.documents for f in _of_document(document, places, several)]
    return sorted(found, key=lambda finding: ("error", "warning", "notice").index(finding.level))


def _of_document(document: Document, places: _Places, several: bool) -> Iterator[Finding]:
    whose = f"{document.title}: " if several else ""
    for check in words.failed_checks(document.verdict):
        yield _of_check(check, places, whose)
    for comparison in document.verdict.comparisons:
        level = _level(comparison)
        if level is not None:
            title = _cut(f"{whose}{words.outcome_word(comparison)}: {comparison.label}", 200)
            yield Finding(level, title, _cut(_summary(comparison)), places.file, places.of(comparison))


def _of_check(check: Check, places: _Places, whose: str) -> Finding:
    return Finding("warning", _cut(f"{whose}Failed check: {check.name}", 200), _cut(check.detail), places.file)


def _level(comparison: Comparison) -> Level | None:
    if comparison.blocks:
        return "error"
    if comparison.required:
        return None if comparison.outcome == "pass" else "warning"
    return "notice" if comparison.outcome == "regressed" and comparison.slice is None else None


def _summary(comparison: Comparison) -> str:
    """The numbers and the reason in one line."""
    numbers = f"{words.difference(comparison)} {words.interval(comparison)}".strip()
    parts = (f"{numbers} ({words.margin(comparison)}), {words.used(comparison)} samples", comparison.reason)
    return "; ".join(part for part in parts if part)


def _of_error(message: str, root: Path) -> Finding:
    """Our errors begin with the file and line that they are about."""
    found = _AT_LINE.match(message)
    title = "The gate could not decide"
    if found is None:
        return Finding("error", title, _cut(message))
    return Finding(
        "error", title, _cut(message[found.end() :]), _relative(Path(found["file"]), root), int(found["line"])
    )


def _names(section: SuiteSection) -> set[str]:
    """What the suite of a section may be called; told without building it, which would need its libraries."""
    if section.name:
        return {section.name}
    given = {key: str(section.options[key]) for key in _FROM if section.options.get(key)}
    names = {value.partition("@")[0] for value in given.values()} | {Path(v).stem for v in given.values()}
    if "judge" in given and "samples" in given:
        names.add(f"{given['samples'].partition('@')[0]} {Path(given['judge']).stem}")
    return names


def _relative(path: Path, root: Path) -> str:
    """`path` below `root`, as CI names files; empty where it is not there."""
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except (ValueError, OSError):
        return ""


def _cut(text: str, limit: int = _LIMIT) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
