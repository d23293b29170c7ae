"""Looks at frozen sets as a gate makes them: counted before, noted after, and what they disclose kept on a ladder

`decisions.jsonl` (see `harness.registry.wear`) and `ladder.json` lie in a folder that the runs of one project share.
What a run found there it keeps in its own journal, so that the same run says the same whenever it is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import runs, wear
from harness.config import LoadedConfig
from harness.records import Check, Comparison, Guard, Verdict
from harness.registry.wear import note_decision, read_decisions
from harness.statistics.wear import climb

LADDER = "ladder.json"


class LookBook:
    """What one run knows of the looks before it.

    Raises:
        RecordError: the decisions were changed.
        StorageError: they cannot be read or written.
    """

    def __init__(self, loaded: LoadedConfig, root: Path, run: runs.RunDirectory, manifest: Mapping[str, Any]) -> None:
        """`root` is the folder of the runs; the looks are counted there unless gate.yaml names another."""
        self._settings = loaded.gate.wear
        self._folder = loaded.folder / self._settings.folder if self._settings.folder else root
        self._run, self._manifest, self._stops_early = run, manifest, loaded.stops_early
        # Trials on samples that are held back for choosing are no decisions.
        self._counts = loaded.part == "verdict"

    def before(self, guards: Sequence[Guard]) -> list[Check]:
        """Which look this is, on every set whose α is shared; one that has none left fails, and nothing is asked."""
        inferred = frozenset(guard.suite for guard in guards if wear.may_err(guard, stops_early=self._stops_early))
        return wear.budget(self._looks(), inferred)

    def after(self, verdict: Verdict, checks: Sequence[Check]) -> list[Check]:
        """The warnings of worn sets, once every guard was looked at; the ladder has moved."""
        if not self._counts or not all(check.passed for check in checks):
            return []
        if self._settings.disclose == "ladder":
            self._note({**self._fact(), "rungs": self._rungs(verdict.comparisons)})
        return wear.warnings(verdict, self._looks())

    def note(self, verdict: Verdict) -> None:
        """Count the decision; one whose pre-flight failed asked nothing, and is none."""
        if self._counts and all(check.passed for check in verdict.checks):
            note_decision(self._folder, self._manifest, self._run.path.name, verdict.verdict)

    def _looks(self) -> list[wear.Looks]:
        """As it was when this run first asked: others that were decided meanwhile do not make it another look."""
        if not self._counts:
            return []
        if "looks" not in self._fact():
            self._note({"looks": [asdict(one) for one in self._count()]})
        return [wear.Looks(**one) for one in self._fact()["looks"]]

    def _count(self) -> list[wear.Looks]:
        decided: dict[str, set[str]] = {}
        for look in read_decisions(self._folder):
            decided.setdefault(look.version, set()).add(look.run)
        own = {self._run.path.name}
        return [
            wear.Looks(suite, version, len(decided.get(version, set()) - own) + 1, self._settings.candidates)
            for suite, said in self._manifest["suites"].items()
            for version in [str(said.get("locked", {}).get("set", suite))]
        ]

    def _rungs(self, comparisons: Sequence[Comparison]) -> dict[str, float]:
        """What may be said of each guard now; a step is the guard's own margin, which no sample had a part in."""
        known = self._fact().get("rungs")
        if known is not None:
            return dict(known)
        path = self._folder / LADDER
        ladder: dict[str, float] = runs.read_json(path) if path.exists() else {}
        rungs = {}
        for c in comparisons:
            if c.slice is None or c.required:
                best = ladder.get(self._key(c), 0.0)
                if c.difference is not None:  # what was not measured moves nothing
                    best = climb(best, c.difference, c.must_improve or c.margin)
                rungs[c.label] = ladder[self._key(c)] = best
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_json(path, ladder)
        return rungs

    def _key(self, comparison: Comparison) -> str:
        """A ladder is of one guard on one frozen version against one baseline."""
        digest = self._manifest["suites"][comparison.suite]["digest"]
        return f"{comparison.label} {digest} {self._manifest['baseline'].get('fingerprint', '')}"

    def _fact(self) -> dict[str, Any]:
        return dict(self._run.fact(wear.FACT) or {})

    def _note(self, value: Mapping[str, Any]) -> None:
        if self._fact() != value:
            self._run.note_fact(wear.FACT, dict(value))
