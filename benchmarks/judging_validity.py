"""Measures, by simulation, what is promised about judges: corrected differences and lower bounds of agreement.

    python -m benchmarks.judging_validity --data FOLDER [--runs 2000] [--seed 0] [--out docs/judging-validity.md]

FOLDER (or $HARNESS_DATA) holds the public PandaLM files, see `benchmarks.pandalm`. Exits with 1 when a promise is
broken by more than three Monte-Carlo errors: in the main settings a false promotion above α or a coverage outside
95 ± 1.5 %, a κ just below 0.4 that is admitted more often than its level.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import pandalm
from benchmarks.judging_bench.raters import LABELS, admission_table, bounds_table, rate
from benchmarks.judging_bench.worlds import GRADES, HARD, MAIN, PAIRS, Judged, World, pairwise, read, sessions
from benchmarks.validity import ALPHA, Rate, Report, publish, say, table
from harness.records import Estimand
from harness.statistics.agreement import Weights, cohen_kappa
from harness.statistics.paired import paired_interval
from harness.statistics.power import Setting, decide_sets
from harness.statistics.ppi import (
    Corrected,
    LabelDraws,
    committed_draws,
    corrected_difference,
    corrected_outcome,
    draw_probabilities,
)

Floats = npt.NDArray[np.float64]

COVERAGE, TOLERANCE = 0.95, 0.015
SIDES = ("human", "judge")
WEIGHTS: tuple[Weights, ...] = ("none", "quadratic")
PROSE = Path(__file__).with_name("judging_validity.md.in")

# ---------------------------------------------------------------- what is measured


@dataclass(slots=True)
class Tally:
    """What a method said over the runs of one setting."""

    truth: float
    margin: float
    passed: list[bool] = field(default_factory=list)
    regressed: list[bool] = field(default_factory=list)
    low_missed: list[bool] = field(default_factory=list)
    high_missed: list[bool] = field(default_factory=list)
    half_width: list[float] = field(default_factory=list)

    def add(self, found: Corrected) -> None:
        """Count one run."""
        assert found.interval is not None
        outcome = corrected_outcome(found, self.margin, ALPHA, ALPHA)
        self.passed.append(outcome == "pass")
        self.regressed.append(outcome == "regressed")
        self.low_missed.append(found.interval.low > self.truth + 1e-9)
        self.high_missed.append(found.interval.high < self.truth - 1e-9)
        self.half_width.append((found.interval.high - found.interval.low) / 2)

    @property
    def coverage(self) -> Rate:
        """Share of runs whose 95 % interval holds the truth."""
        missed = np.mean(self.low_missed) + np.mean(self.high_missed)
        return Rate(float(1.0 - missed), len(self.low_missed))


@dataclass(slots=True)
class Measured:
    """All methods on the same sets at one true difference; the first three by number of labels."""

    corrected: dict[int, Tally]
    alone: dict[int, Tally]
    plainly: dict[int, list[bool]] = field(default_factory=lambda: {n: [] for n in LABELS})
    judge_passed: list[bool] = field(default_factory=list)
    judge_covered: list[bool] = field(default_factory=list)
    judge_half_width: list[float] = field(default_factory=list)


def measure(
    world: World, difference: float, estimand: Estimand, active: bool, runs: int, rng: np.random.Generator
) -> Measured:
    """Simulate the labelling of `runs` sets, of which the shorter plans are the beginnings of the longest."""
    tallies = [{n: Tally(difference, world.margin) for n in LABELS} for _ in range(2)]
    found, differences = Measured(*tallies), []
    for _ in range(runs):
        made = world.make(difference, estimand == "frozen", rng)
        truth = float(np.mean(made.human)) if estimand == "frozen" else difference
        uniform = draw_probabilities(np.zeros(PAIRS), drawable=made.drawable)
        drawn = draw_probabilities(made.guess, drawable=made.drawable) if active else uniform
        for kind, q, tuning in ((found.corrected, drawn, None), (found.alone, uniform, 0.0)):
            plan = committed_draws(q, LABELS[-1], rng.bytes(32))
            for n, tally in kind.items():
                tally.truth = truth
                draws = LabelDraws(plan[:n], made.human[plan[:n]], q)
                tally.add(correct(world, made, draws, estimand, tuning))
                if kind is found.alone:
                    found.plainly[n].append(plain_t(made, draws) > -world.margin)
        found.judge_covered.append(covers(made.judge, truth))
        found.judge_half_width.append(half_width(made.judge))
        differences.append(made.judge)
    setting = Setting(PAIRS, 0.0, world.margin / world.span, ALPHA, ALPHA, estimand)
    units = np.array(differences) / world.span
    found.judge_passed = decide_sets(setting, units, np.ones(units.shape)).passed.tolist()
    return found


def correct(world: World, made: Judged, draws: LabelDraws, estimand: Estimand, tuning: float | None) -> Corrected:
    """The corrected difference of one run."""
    return corrected_difference(
        made.judge, draws, span=world.span, estimand=estimand, clusters=made.clusters, tuning=tuning
    )


def plain_t(made: Judged, draws: LabelDraws) -> float:
    """Lower end at α of prediction-powered inference as it is found elsewhere: uniform draws, λ = 1, Student's t."""
    share = float(np.mean(made.drawable))
    off = (draws.labels - made.judge[draws.pairs]) * share
    return float(np.mean(made.judge)) + paired_interval(off, confidence=1 - 2 * ALPHA).low


def covers(differences: Floats, truth: float) -> bool:
    """Whether the paired interval of the judge's own differences holds the humans' mean."""
    interval = paired_interval(differences, confidence=COVERAGE)
    return interval.low <= truth <= interval.high


def half_width(differences: Floats) -> float:
    """Of the judge's own paired interval."""
    interval = paired_interval(differences, confidence=COVERAGE)
    return (interval.high - interval.low) / 2


# ---------------------------------------------------------------- the tables


@dataclass(slots=True)
class Pages:
    """Tables under way."""

    promotion: list[list[str]] = field(default_factory=list)
    coverage: list[list[str]] = field(default_factory=list)
    width: list[list[str]] = field(default_factory=list)
    hard: list[list[str]] = field(default_factory=list)


def corrected_tables(report: Report) -> dict[str, str]:
    """Tables about the corrected difference, from the same runs."""
    pages = Pages()
    kinds: tuple[Estimand, ...] = ("frozen", "population")
    for world in MAIN:
        for estimand in kinds:
            for active in (False, True):
                add_main(pages, world, estimand, active, report)
    for world in HARD:
        for active in (False, True):
            add_hard(pages, world, active, report)
    return {
        "promotion": table(PROMOTION_HEAD, pages.promotion),
        "coverage": table(COVERAGE_HEAD, pages.coverage),
        "width": table(WIDTH_HEAD, pages.width),
        "hard": table(HARD_HEAD, pages.hard),
    }


PROMOTION_HEAD = ["scale", "estimand", "draws", "labels", "uncorrected, at −δ", "corrected, at −δ"]
PROMOTION_HEAD += ["labels alone, at −δ", "corrected passes at 0", "labels alone pass at 0", "corrected blocks at 0"]
COVERAGE_HEAD = ["scale", "estimand", "draws", "labels", "corrected", "low end above", "high end below"]
COVERAGE_HEAD += ["labels alone", "judge alone"]
WIDTH_HEAD = ["scale", "estimand", "draws", "labels", "corrected", "labels alone", "judge alone"]
WIDTH_HEAD += ["labels alone for the same width"]
HARD_HEAD = ["setting", "estimand", "draws", "labels", "coverage", "within 95 ± 1.5 %", "promoted at −δ"]
HARD_HEAD += ["blocked at −δ", "plain t promotes at −δ", "half-width", "labels alone"]


def add_main(pages: Pages, world: World, estimand: Estimand, active: bool, report: Report) -> None:
    """Rows of one main setting."""
    at, equal = (measure(world, d, estimand, active, report.runs, report.rng) for d in (-world.margin, 0.0))
    for n in LABELS:
        row = [world.name, estimand, "active" if active else "uniform", str(n)]
        name = ", ".join(row)
        corrected, alone = at.corrected[n], at.alone[n]
        promoted = report.hold(f"false promotion, {name}", rate(corrected.passed))
        blocked = report.hold(f"A/A block, {name}", rate(equal.corrected[n].regressed))
        passes = [rate(equal.corrected[n].passed), rate(equal.alone[n].passed)]
        said = [rate(at.judge_passed), promoted, rate(alone.passed), *passes, blocked]
        pages.promotion.append(say([*row, *map(str, said)]))
        hold_coverage(name, corrected.coverage, report)
        misses = [f"{np.mean(missed):.3f}" for missed in (corrected.low_missed, corrected.high_missed)]
        others = [f"{alone.coverage.value:.3f}", f"{np.mean(at.judge_covered):.3f}"]
        pages.coverage.append([*row, str(corrected.coverage), *misses, *others])
        widths = [float(np.mean(w)) for w in (corrected.half_width, alone.half_width, at.judge_half_width)]
        saved = n * (widths[1] / widths[0]) ** 2
        pages.width.append([*row, *(f"± {w:.3f}" for w in widths), f"{saved:.0f}" if estimand == "frozen" else "–"])


def add_hard(pages: Pages, world: World, active: bool, report: Report) -> None:
    """Rows of one hard setting."""
    estimand: Estimand = "population" if world.make is sessions else "frozen"
    found = measure(world, -world.margin, estimand, active, report.runs, report.rng)
    for n in LABELS:
        tally = found.corrected[n]
        inside = abs(tally.coverage.value - COVERAGE) <= TOLERANCE
        row = [world.name, estimand, "active" if active else "uniform", str(n), str(tally.coverage)]
        said = [rate(tally.passed), rate(tally.regressed), rate(found.plainly[n]) if not active else "–"]
        widths = [f"± {np.mean(t.half_width):.3f}" for t in (tally, found.alone[n])]
        pages.hard.append(say([*row, "yes" if inside else "**no**", *map(str, said), *widths]))


def hold_coverage(name: str, found: Rate, report: Report) -> None:
    """Note the coverage if it lies outside its band by more than chance explains."""
    if abs(found.value - COVERAGE) > TOLERANCE + 3 * found.error:
        report.broken.append(f"coverage, {name}: {found}")


def judges_table(report: Report) -> str:
    """What the simulated judges of the main settings are like: κ of what is judged, pairs or single outputs."""
    head = ["scale", "δ", "judge's mean less humans'", "of the span", "κ", "quadratic κ"]
    return table(head, [say(judge_row(world, report.rng)) for world in MAIN])


def judge_row(world: World, rng: np.random.Generator) -> list[str]:
    """One main setting, over 200 sets."""
    sets = [world.make(-world.margin, True, rng) for _ in range(200)]
    bias = float(np.mean([s.judge.mean() - s.human.mean() for s in sets]))
    if world.make is pairwise:
        levels, human, judge = 3, *(np.concatenate([getattr(s, k)[s.drawable] for s in sets]) + 1 for k in SIDES)
    else:
        levels, human = 5, rng.choice(np.arange(1.0, 6.0), 100_000, p=GRADES)
        judge, human = read(human, rng.random(len(human)) < 0.5, rng) - 1, human - 1
    pair = human.astype(np.int64), judge.astype(np.int64)
    kappas = [f"{cohen_kappa(*pair, levels=levels, weights=w):.2f}" for w in WEIGHTS]
    return [world.name, f"{world.margin:g}", f"{bias:+.3f}", f"{bias / world.span:+.1%}", *kappas]


# ---------------------------------------------------------------- the program


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, write the document, and say which promises were broken."""
    parser = argparse.ArgumentParser(description="Measure the error rates of what is said about judges.")
    parser.add_argument("--runs", type=int, default=2000, help="simulated runs behind every figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=os.environ.get("HARNESS_DATA"), help="default: $HARNESS_DATA")
    parser.add_argument("--out", type=Path, default=Path("docs/judging-validity.md"))
    chosen = parser.parse_args(arguments)
    if chosen.data is None:
        parser.error("--data or $HARNESS_DATA must name the folder that holds judging/pandalm")
    began, report = time.monotonic(), Report(chosen.runs, np.random.default_rng(chosen.seed))
    tables = {
        "judges": judges_table(report),
        **corrected_tables(report),
        "admission": admission_table(report),
        "bounds": bounds_table(report),
        **pandalm.tables(pandalm.read(chosen.data), report),
    }
    command = f"python -m benchmarks.judging_validity --runs {chosen.runs} --seed {chosen.seed}"
    publish(PROSE, chosen.out, report, {**tables, "command": command})
    print(f"{chosen.out} written after {time.monotonic() - began:.0f} s")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
