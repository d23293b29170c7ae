"""Every single measurement of a run in one JSON file, written after each, so that an interrupted run goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.engine_bench.jobs import Job, Result, run, say


class Ledger:
    """Measurements by name. What is there already is not measured again.

    `key` is everything that a measurement depends on beside its name: a file of another key belongs to another run.
    """

    def __init__(self, path: Path | None = None, key: Mapping[str, str] | None = None) -> None:
        """Take up the run in `path`, or begin one there; without a path nothing is written.

        Raises:
            SystemExit: the file holds another run.
        """
        self.path = path
        self.key = dict(key or {})
        self.measurements: dict[str, Any] = {}
        self.report: Mapping[str, Any] = {}
        if path is not None and path.exists():
            self.measurements = self._stored(path)

    def _stored(self, path: Path) -> dict[str, Any]:
        stored = json.loads(path.read_text(encoding="utf-8"))
        theirs = stored.get("key", {})
        differ = sorted(name for name in {*theirs, *self.key} if theirs.get(name) != self.key.get(name))
        if differ or "measurements" not in stored:
            why = ", ".join(differ) or "form"
            raise SystemExit(f"{path} holds another run (it differs in {why}): remove it, or name another --out")
        found: dict[str, Any] = stored["measurements"]
        say(f"{path}: {len(found)} measurements were made before")
        return found

    @property
    def began(self) -> str:
        """When the first measurement began; nothing before it."""
        return min((one["began"] for one in self.measurements.values()), default="")

    def once(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """What `measure` gives, in a form that JSON keeps, or gave when it was first asked for this name."""
        if name not in self.measurements:
            say(name)
            began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            found = dict(measure())
            self.measurements[name] = {"began": began, **found}
            self.save()
        measured: Mapping[str, Any] = self.measurements[name]
        return {key: value for key, value in measured.items() if key != "began"}

    def run(self, name: str, job: Job, limit: float | None = None) -> Result:
        """`job` in a process of its own, once; a failure is a measurement too."""
        # Through JSON at once, so that a measurement of this process is what a later one reads.
        return Result.of(self.once(name, lambda: json.loads(json.dumps(asdict(run(job, limit))))))

    def save(self) -> None:
        """Write everything; a file that was there stays whole until the new one is."""
        if self.path is None:
            return
        text = json.dumps({"key": self.key, "report": self.report, "measurements": self.measurements})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.part")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, self.path)
