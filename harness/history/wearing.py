"""How often each frozen set of a history was decided on, and whether it is worn"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness import wear, words
from harness.history.reading import Run
from harness.wear import Looks


@dataclass(frozen=True, slots=True)
class Wearing:
    """One suite in one frozen form: how many looks, the luck of the best of so many in words, and the warning."""

    version: str
    digest: str
    looks: int
    luck: str
    warning: str


def worn_sets(runs: Sequence[Run]) -> list[Wearing]:
    """One record a suite and digest, most looked at first; `runs` are the newest first.

    A look is a candidate that was decided on. The number is the larger of those in this history and what the runs
    themselves were told, since a history need not hold all runs.
    """
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.part == "verdict":
            for suite, digest in run.suites.items():
                found.setdefault((suite, digest), []).append(run)
    made = [_wearing(suite, digest, inside) for (suite, digest), inside in found.items()]
    return sorted(made, key=lambda one: -one.looks)


def _wearing(suite: str, digest: str, runs: Sequence[Run]) -> Wearing:
    seen = len({run.candidate.fingerprint for run in runs})
    version = runs[0].versions.get(suite, suite)
    looks = Looks(suite, version, max(seen, *(run.looks.get(suite, 0) for run in runs)))
    latest = [c for c in runs[0].comparisons if c.suite == suite and c.slice is None]
    told = [(said, c) for c in latest if (said := wear.worn(c, looks)) is not None]
    if not told:
        return Wearing(version, digest, looks.number, words.MISSING, "")
    worst, comparison = max(told, key=lambda pair: (bool(pair[0].warning), pair[0].lucky))
    size = words.signed(worst.lucky, comparison).lstrip("+") + words.unit(comparison.bounds)
    return Wearing(version, digest, looks.number, size, worst.warning)
