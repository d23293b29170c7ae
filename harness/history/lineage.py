"""What was promoted over what: from a registry's ledger where there is one, else from the runs themselves"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.history.reading import Run
from harness.records import Decision

_CHAMPION = "champion"


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


def standing(found: Sequence[Step]) -> Step | None:
    """Of the steps of a history, the one that says what stands now; None where nothing was promoted.

    Of several aliases `champion` is meant, where there is one. Its run may be absent from this history (`run` is None);
    an older one would not do in its place, since it does not stand any more.
    """
    champions = [step for step in found if step.alias == _CHAMPION]
    return next(iter(champions or found), None)


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
