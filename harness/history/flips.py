"""Which samples turned between two runs: the same frozen sample, the candidate of one run against that of the other"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness import runs
from harness.history.reading import Run
from harness.records import PairedScore, Score


@dataclass(frozen=True, slots=True)
class Flip:
    """One sample of one guard that scored otherwise; `worse` by the metric's own direction."""

    guard: str
    sample_id: str
    before: float
    after: float
    worse: bool


@dataclass(frozen=True, slots=True)
class Turned:
    """A guard that both runs asked: how many samples both scored, and which of them turned."""

    guard: str
    common: int
    flips: tuple[Flip, ...]

    @property
    def worse(self) -> int:
        """How many got worse."""
        return sum(flip.worse for flip in self.flips)


def turned(before: Run, after: Run) -> tuple[list[Turned], list[str]]:
    """What turned, guard by guard, and the guards that cannot be compared, each with why.

    Only samples that both candidates were scored on count, and only where the suite's frozen content is the same.
    """
    if before.withheld or after.withheld:
        return [], ["what samples came to is withheld (wear.disclose: ladder)"]
    old, new = _scores(before), _scores(after)
    found, apart = [], []
    for key in sorted(old.keys() & new.keys()):
        suite, metric = key
        if before.suites.get(suite) != after.suites.get(suite):
            apart.append(f"{suite}/{metric}: the suite is not the same in both runs")
            continue
        found.append(_turned(f"{suite}/{metric}", old[key], new[key]))
    return found, apart


_Scores = tuple[bool, dict[str, float]]


def _turned(guard: str, old: _Scores, new: _Scores) -> Turned:
    higher, before = old
    common = [sample for sample in before if sample in new[1]]
    flips = [_flip(guard, s, before[s], new[1][s], higher) for s in common if before[s] != new[1][s]]
    return Turned(guard, len(common), tuple(sorted(flips, key=lambda flip: not flip.worse)))


def _flip(guard: str, sample: str, before: float, after: float, higher: bool) -> Flip:
    return Flip(guard, sample, before, after, (after < before) == higher)


def _scores(run: Run) -> dict[tuple[str, str], _Scores]:
    return {
        (e.suite, e.metric.name): (e.metric.higher_is_better, dict(_known(e.pairs)))
        for e in runs.read_evidence(run.path / runs.EVIDENCE)
    }


def _known(pairs: tuple[PairedScore, ...]) -> Iterator[tuple[str, float]]:
    for pair in pairs:
        score: Score | None = pair.candidate
        if score is not None and score.value is not None:
            yield pair.sample_id, score.value
