"""What was promoted over what: from a registry's ledger where there is one, else from the runs themselves"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.history.reading import Run
from harness.records import Decision


@dataclass(frozen=True, slots=True)
class Move:
    """An alias came to stand for what a run had evaluated; `by` and `reason` are those of an override, else empty."""

    at: str
    action: str
    alias: str
    run: str
    verdict: str
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One promotion: what stands now, over what, by which run, and what else was tried against the same baseline.

    `run` is None where the ledger names a run that is not in this history. `recorded` says that a ledger told it;
    without one a run with the verdict PROMOTE counts as a promotion, whether anybody acted on it or not.
    """

    at: str
    action: str
    alias: str
    name: str
    over: str
    run: Run | None
    verdict: str
    by: str
    reason: str
    tried: Mapping[Decision, int]
    recorded: bool


def steps(runs: Sequence[Run], moves: Sequence[Move] | None) -> list[Step]:
    """Promotions and rollbacks, the newest first."""
    if moves is None:
        passed = [run for run in runs if run.verdict == "promote"]
        return [_step(runs, run, Move(run.when, "promote", "", run.path.name, run.verdict), False) for run in passed]
    by_name: dict[str, Run] = {run.path.name: run for run in runs}
    return [_step(runs, by_name.get(move.run), move, True) for move in reversed(moves)]


def last_promoted(runs: Sequence[Run], moves: Sequence[Move] | None) -> Run | None:
    """The run whose candidate was promoted last, or came back last; None where none is known."""
    return next((step.run for step in steps(runs, moves) if step.run is not None), None)


def _step(runs: Sequence[Run], run: Run | None, move: Move, recorded: bool) -> Step:
    rivals = [] if run is None else [r for r in runs if r.baseline.fingerprint == run.baseline.fingerprint]
    tried: dict[Decision, int] = {}
    for rival in rivals:
        tried[rival.verdict] = tried.get(rival.verdict, 0) + 1
    return Step(
        at=move.at,
        action=move.action,
        alias=move.alias,
        name=move.run if run is None else run.candidate.name,
        over="" if run is None else run.baseline.name,
        run=run,
        verdict=move.verdict,
        by=move.by,
        reason=move.reason,
        tried=tried,
        recorded=recorded,
    )
