"""Where a report can be logged besides: experiment trackers, one module each, found by their names

A log plugin holds `Options` and `build(options) -> Log`. It takes the numbers, the verdict and the reports of a run,
and none of its journal: prompts and answers go nowhere but into the reports. Where to log is said by the environment
variables of the tracker's own library. Logging a run again changes what is there instead of adding to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from harness.records import Comparison
from harness.report import Document
from harness.report._facts import facts

REPORTS = ("report.html", "report.md", "junit.xml")
_NAME = re.compile(r"[^\w\-./ ]+")
_NUMBERS = ("difference", "baseline_mean", "candidate_mean", "n_used", "n_failed", "lost", "won")


class Log(Protocol):
    """Keeps one run at a tracker."""

    def log(self, run: Path, document: Document) -> str:
        """Log a run directory and its document; where it can be seen.

        Raises:
            StorageError: the tracker cannot be reached or refuses.
        """
        ...


def metrics(document: Document) -> dict[str, float]:
    """Every number of every guard that was measured and may be shown, in score points, by `guard/number`."""
    return {name: value for c in document.verdict.comparisons for name, value in _metrics(c)}


def params(document: Document) -> dict[str, str]:
    """What was compared, as reports say it: names and shortened hashes."""
    return {fact.label: f"{fact.name} {fact.short}".strip() for fact in facts(document.manifest)}


def summary(document: Document) -> Mapping[str, Any]:
    """The verdict as it may be shown, as JSON."""
    return document.verdict.as_json()


def _metrics(comparison: Comparison) -> Iterator[tuple[str, float]]:
    label = _NAME.sub("_", comparison.label)
    hidden = {"lost", "won"} if comparison.withheld else set()
    for name in _NUMBERS:
        value = getattr(comparison, name)
        if value is not None and name not in hidden:
            yield f"{label}/{name}", float(value)
    if comparison.interval is not None:
        yield f"{label}/low", comparison.interval[0]
        yield f"{label}/high", comparison.interval[1]
