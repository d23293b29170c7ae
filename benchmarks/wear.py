"""Simulates 200 candidates on one set, from people who look and people who do not; writes docs/wear.md.

    python -m benchmarks.wear [--runs 200] [--seed 0] [--out docs/wear.md]

Exits with 1 when false promotions that should be rare are not: more than α by over three Monte-Carlo errors.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.validity import ALPHA, Rate, Report, publish, say, table
from harness.statistics.power import Setting, decide_sets, draw_sets
from harness.statistics.wear import climb, luck, share

Floats = npt.NDArray[np.float64]
Disclosed = Literal["full", "ladder"]

CANDIDATES = 200
FLIPS = 0.12
MARGIN = 0.03
MUTATED = 0.1  # share of the samples whose answers a candidate has otherwise than the one that it was made from
PROSE = Path(__file__).with_name("wear.md.in")


@dataclass(frozen=True, slots=True)
class World:
    """One way of trying: on how many samples, from what people see, at which level.

    Nothing is ever learned: every candidate's true difference is exactly −δ, and a sample's own outcome is drawn anew
    wherever a candidate differs from the one that it was made from. With `learning` it is made from the best that was
    seen so far, else from nothing.
    """

    n: int
    learning: bool
    disclosed: Disclosed = "full"
    candidates: int = 1
    margin: float = MARGIN

    @property
    def setting(self) -> Setting:
        """The population guard that decides."""
        alpha = share(ALPHA, self.candidates)
        return Setting(self.n, FLIPS, self.margin, alpha, alpha, "population")


@dataclass(frozen=True, slots=True)
class Tried:
    """(R,) per run: whether any candidate was promoted, and by how much the best looked better than it is."""

    promoted: npt.NDArray[np.bool_]
    overfit: Floats


def attempt(world: World, runs: int, rng: np.random.Generator, *, decide: bool = True) -> Tried:
    """All candidates of `runs` independent people, each with a set of their own."""
    best = _fresh(world, runs, rng)
    seen, rung = np.full(runs, -np.inf), np.zeros(runs)  # a ladder starts at the baseline
    promoted = np.zeros(runs, dtype=bool)
    top = best.mean(axis=1)
    for number in range(CANDIDATES):
        made = best if number == 0 else _next(world, best, rng)
        observed = made.mean(axis=1)
        top = np.maximum(top, observed)
        rung = _rungs(world, rung, observed)
        told = observed.copy() if world.disclosed == "full" else rung.copy()
        open_ = np.flatnonzero(~promoted) if decide else np.arange(0)  # a promotion ends the search
        if len(open_):
            outcomes = decide_sets(world.setting, made[open_], np.ones_like(made[open_]))
            promoted[open_] = outcomes.passed
            # A BLOCK is shown behind a ladder too, and whoever learns takes it as a sign.
            told[open_] -= outcomes.regressed * (world.disclosed == "ladder")
        elif not decide:  # frozen: the verdict is exact, and half of these candidates are blocked
            told -= (observed <= -world.margin) * (world.disclosed == "ladder")
        better = told > seen
        seen = np.where(better, told, seen)
        best = np.where(better[:, None], made, best)
    return Tried(promoted, top + world.margin)


def _next(world: World, best: Floats, rng: np.random.Generator) -> Floats:
    fresh = _fresh(world, len(best), rng)
    return np.where(rng.random(best.shape) < MUTATED, fresh, best) if world.learning else fresh


def _fresh(world: World, runs: int, rng: np.random.Generator) -> Floats:
    return draw_sets(world.setting, -world.margin, runs, rng)[0]


def _rungs(world: World, rung: Floats, observed: Floats) -> Floats:
    return np.array([climb(float(a), float(b), world.margin) for a, b in zip(rung, observed, strict=True)])


# ---------------------------------------------------------------- the tables


def promotions(report: Report) -> str:
    """How often any of the candidates is promoted although each of them has lost δ."""
    head = ["candidates made", "shown", "level of each", "any of 200 falsely promoted", "best looks better by"]
    base = World(1000, learning=False)
    rows = []
    for learning in (False, True):
        for disclosed, candidates in (("full", 1), ("full", CANDIDATES), ("ladder", CANDIDATES)):
            world = replace(base, learning=learning, disclosed=disclosed, candidates=candidates)  # type: ignore[arg-type]
            tried = attempt(world, report.runs, report.rng)
            rate = Rate(float(tried.promoted.mean()), report.runs)
            if candidates > 1 and (not learning or disclosed == "ladder"):
                report.hold(f"{world}", rate)
            made = "from the best so far" if learning else "without looking"
            level = "α" if candidates == 1 else f"α/{candidates}"
            rows.append(say([made, world.disclosed, level, str(rate), f"{100 * tried.overfit.mean():.1f} pts"]))
    return table(head, rows)


def frozen(report: Report) -> str:
    """By how much a frozen set's own mean comes to lie above what is true of anything else."""
    head = ["N", "made without looking", "`luck` says", "from the best so far, full", "from the best so far, ladder"]
    rows = []
    for n in (200, 1000, 5000):
        base = World(n, learning=False)
        error = float(np.sqrt((FLIPS - MARGIN**2) / n))
        found = [
            100 * attempt(world, min(report.runs, 100), report.rng, decide=False).overfit.mean()
            for world in (base, replace(base, learning=True), replace(base, learning=True, disclosed="ladder"))
        ]
        cells = [
            f"{found[0]:.1f} pts",
            f"{100 * luck(CANDIDATES, error):.1f} pts",
            *(f"{x:.1f} pts" for x in found[1:]),
        ]
        rows.append(say([f"{n:,}", *cells]))
    return table(head, rows)


def price(report: Report) -> str:
    """How often an equal candidate is promoted, by the number of candidates that α is shared over."""
    planned = (1, 10, 50, 200)
    head = ["N", "δ", *("α" if k == 1 else f"α/{k}" for k in planned)]
    rows = []
    for n, margin in ((1000, 0.05), (5000, 0.02), (5000, 0.03), (14042, 0.02)):
        cells = []
        for k in planned:
            setting = World(n, learning=False, candidates=k, margin=margin).setting
            passed = decide_sets(setting, *draw_sets(setting, 0.0, report.runs, report.rng)).passed
            cells.append(f"{passed.mean():.2f}")
        rows.append(say([f"{n:,}", f"{margin:g}", *cells]))
    return table(head, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, write the document, and say which promises were broken."""
    parser = argparse.ArgumentParser(description="Simulate many candidates on one set.")
    parser.add_argument("--runs", type=int, default=200, help="simulated people behind every figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/wear.md"))
    chosen = parser.parse_args(arguments)
    began, report = time.monotonic(), Report(chosen.runs, np.random.default_rng(chosen.seed))
    tables = {"promotions": promotions(report), "frozen": frozen(report), "price": price(report)}
    command = f"python -m benchmarks.wear --runs {chosen.runs} --seed {chosen.seed}"
    publish(PROSE, chosen.out, report, {**tables, "command": command})
    print(f"{chosen.out} written after {time.monotonic() - began:.0f} s")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
