"""What a trial came to, which trials are not outdone by another, and which one is recommended.

A trial's *gain* is the smallest improvement among the guards with `must_improve`, since all of these have to be met, as
a share of the metric's scale. Its *loss* is the worst drop among the other required guards, as a share of the guard's
own margin, so that guards of different margins and metrics can be compared: at 1 the margin is used up, below 0 all of
them got better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.errors import ConfigError, SubjectError
from harness.gate import GateResult
from harness.records import Comparison, Guard
from harness.runs import read_json, write_json

State = Literal["feasible", "regressed", "failed"]
RESULT = "trial.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """A required guard in a trial. Differences, margin and means are in score points; up is better."""

    label: str
    target: bool
    outcome: str
    difference: float
    interval: tuple[float, float] | None
    margin: float
    bounds: tuple[float, float]
    n: int
    lost: int
    won: int

    @property
    def gain(self) -> float:
        """The difference as a share of the metric's scale."""
        return self.difference / (self.bounds[1] - self.bounds[0])

    @property
    def loss(self) -> float:
        """The drop as a share of the margin."""
        return -self.difference / self.margin


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished trial. `folder` holds what was trained and `run` the gate's run; a failed one has a reason instead.

    `same_as` is an earlier trial with the very same settings, whose outcome was taken over.
    """

    number: int
    values: Mapping[str, Any]
    guards: tuple[Measured, ...] = ()
    stages: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    folder: str = ""
    run: str = ""
    reason: str = ""
    same_as: int | None = None

    @property
    def state(self) -> State:
        """Failed, or shown to have regressed where it must not, or feasible."""
        if self.reason:
            return "failed"
        return "regressed" if any(g.outcome == "regressed" for g in self.guards if not g.target) else "feasible"

    @property
    def least(self) -> Measured:
        """The target that gained least; only a measured trial has one."""
        return min((g for g in self.guards if g.target), key=lambda guard: guard.gain)

    @property
    def worst(self) -> Measured:
        """The guard that lost most of its margin."""
        return max((g for g in self.guards if not g.target), key=lambda guard: guard.loss)

    @property
    def values_of(self) -> tuple[float, float]:
        """(gain, loss), see the module."""
        return self.least.gain, self.worst.loss

    @property
    def violation(self) -> float:
        """Optuna's constraint: above 0 where a regression is shown, and the more the larger it is."""
        if self.state != "regressed":
            return min(0.0, self.worst.loss - 1)
        return max(1e-9, *(g.loss - 1 for g in self.guards if not g.target and g.outcome == "regressed"))

    def write(self, folder: Path) -> None:
        """Store it in the trial's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RESULT, asdict(self))


def read_trial(folder: Path) -> Trial | None:
    """What `Trial.write` has stored, if it has."""
    if not (folder / RESULT).is_file():
        return None
    stored = read_json(folder / RESULT)
    guards = tuple(
        Measured(**{**g, "interval": g["interval"] and tuple(g["interval"]), "bounds": tuple(g["bounds"])})
        for g in stored["guards"]
    )
    return Trial(**{**stored, "guards": guards, "stages": tuple(stored["stages"])})


def measured(result: GateResult) -> tuple[Measured, ...]:
    """The required guards of a trial's gate.

    Raises:
        SubjectError: a check of the pre-flight failed, or too many answers did: nothing was measured.
    """
    verdict = result.verdict
    broken = [f"pre-flight check {c.name} failed: {c.detail}" for c in verdict.checks if not c.passed]
    required = [c for c in verdict.comparisons if c.required]
    broken += [f"{c.label}: {c.reason}" for c in required if c.reason]
    if broken:
        raise SubjectError("; ".join(broken))
    return tuple(_measured(comparison) for comparison in required)


def _measured(c: Comparison) -> Measured:
    difference = 0.0 if c.difference is None else c.difference  # None only with a reason, which was refused before
    return Measured(
        c.label, c.must_improve is not None, c.outcome, difference, c.population_interval, c.margin, c.bounds, c.n_used,
        c.lost, c.won,
    )  # fmt: skip


def refuse_one_sided(guards: Sequence[Guard], where: str) -> None:
    """Refuse a gate that cannot tell learning from forgetting.

    Raises:
        ConfigError: no required guard demands an improvement, or all of them do.
    """
    targets = {guard.must_improve is not None for guard in guards if guard.required}
    if True not in targets:
        raise ConfigError(
            f"{where}: no required guard says what is to be learned; give the target's guard must_improve: 0.0 (or the "
            "gain that you need) in place of a margin"
        )
    if False not in targets:
        raise ConfigError(
            f"{where}: every required guard demands an improvement, so nothing can be seen to be forgotten"
        )


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (gain, loss) that no other outdoes, by rising gain; equal ones are all kept.

    A point is outdone by one with no less gain and no more loss that is better in one of them. O(n log n).
    """
    by_gain = sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1]))
    kept: list[int] = []
    for i in by_gain:
        if not kept or points[i][1] < points[kept[-1]][1] or points[i] == points[kept[-1]]:
            kept.append(i)
    return kept[::-1]


def recommended(trials: Sequence[Trial]) -> Trial | None:
    """The feasible trial with the largest gain, if any gained; of equal ones that with less loss, then the first."""
    feasible = [trial for trial in trials if trial.state == "feasible" and trial.values_of[0] > 0]
    return min(feasible, key=lambda t: (-t.values_of[0], t.values_of[1], t.number), default=None)
