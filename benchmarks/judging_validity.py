"""Measures, by simulation, what is promised about judges: corrected differences and lower bounds of agreement.

    python -m benchmarks.judging_validity --data FOLDER [--runs 2000] [--seed 0] [--out docs/judging-validity.md]

FOLDER (or $HARNESS_DATA) holds the public PandaLM files, see `benchmarks.pandalm`. Exits with 1 when a promise is
broken by more than three Monte-Carlo errors: in the main settings a false promotion above α or a coverage outside
95 ± 1.5 %, a κ just below 0.4 that is admitted more often than its level.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from benchmarks import pandalm
from benchmarks.validity import Rate, Report, publish, say, table
from harness.records import Estimand
from harness.statistics.agreement import (
    Weights,
    alpha_interval,
    auc_interval,
    cohen_kappa,
    kappa_interval,
    krippendorff_alpha,
)
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
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ALPHA = 0.05
PAIRS = 1000
LABELS = (100, 200, 300)
IDENTICAL = 0.2  # share of pairs whose outputs are the same, and are never judged
COVERAGE, TOLERANCE = 0.95, 0.015
NEEDED_KAPPA = 0.4
SIDES, WEIGHTS = ("human", "judge"), ("none", "quadratic")
GRADES = (0.05, 0.10, 0.25, 0.35, 0.25)  # of the baseline, worst first
POINTWISE_KINDNESS = 0.29  # how often the candidate gets one level more, so that the judge's mean is 0.2 too high
PROSE = Path(__file__).with_name("judging_validity.md.in")

# ---------------------------------------------------------------- what is simulated


@dataclass(frozen=True, slots=True)
class Judged:
    """One set of pairs: humans' and judge's differences, who can be drawn, where the judge is guessed to err."""

    human: Floats
    judge: Floats
    drawable: Bools
    guess: Floats
    clusters: Ints | None = None


@dataclass(frozen=True, slots=True)
class World:
    """A way to make sets of pairs whose true mean difference is as asked; exactly so where the set is frozen."""

    name: str
    span: float
    margin: float
    make: Callable[[float, bool, np.random.Generator], Judged]


def pairwise(difference: float, exact: bool, rng: np.random.Generator) -> Judged:
    """Outcomes −1, 0, 1; the judge repeats the human or follows its own leaning, 5 points kinder to the candidate."""
    drawable = some_differ(exact, rng)
    lean = difference / (1 - IDENTICAL)
    human = np.where(drawable, ternary(0.3, lean, rng), 0.0)
    if exact:
        human = with_sum(human, difference * PAIRS, drawable, rng)
    hard = rng.random(PAIRS) < 0.5
    own = ternary(0.3, lean + 0.05 / (1 - IDENTICAL) / 0.5, rng)
    judge = np.where(rng.random(PAIRS) < np.where(hard, 0.2, 0.8), human, own)
    return Judged(human, np.where(drawable, judge, 0.0), drawable, guessed(hard, rng))


def pointwise(difference: float, exact: bool, rng: np.random.Generator) -> Judged:
    """Differences of two outputs graded alone, 1 to 5; the candidate gets a fifth of a point, 5 % of the span, more."""
    drawable = some_differ(exact, rng)
    baseline, fresh = rng.choice(np.arange(1.0, 6.0), (2, PAIRS), p=GRADES)
    candidate = np.where(rng.random(PAIRS) < 0.5, baseline, fresh)
    # Only a level above 1 can fall.
    candidate -= (rng.random(PAIRS) < -difference / (1 - IDENTICAL) / (1 - GRADES[0])) & (candidate > 1)
    if exact:
        total = difference * PAIRS + float(baseline[drawable].sum())
        candidate[drawable] = with_sum(candidate, total, drawable, rng, bounds=(1.0, 5.0))[drawable]
    hard = rng.random(PAIRS) < 0.5
    kinder = rng.random(PAIRS) < POINTWISE_KINDNESS
    judge = np.minimum(read(candidate, hard, rng) + kinder, 5.0) - read(baseline, hard, rng)
    human = np.where(drawable, candidate - baseline, 0.0)
    return Judged(human, np.where(drawable, judge, 0.0), drawable, guessed(hard, rng))


def some_differ(exact: bool, rng: np.random.Generator) -> Bools:
    """Which pairs have different outputs: a fixed number in a frozen set."""
    return np.arange(PAIRS) >= IDENTICAL * PAIRS if exact else rng.random(PAIRS) >= IDENTICAL


def read(level: Floats, hard: Bools, rng: np.random.Generator) -> Floats:
    """A judge's grade: the human's, with an error of a level or two more often where the sample is hard."""
    noise = rng.normal(0.0, np.where(hard, 1.1, 0.45))
    return np.clip(np.round(level + noise), 1.0, 5.0)


def ternary(ties: float, mean: float, rng: np.random.Generator) -> Floats:
    """Independent outcomes in {−1, 0, 1}."""
    u, down = rng.random(PAIRS), (1 - ties - mean) / 2
    return np.where(u < down, -1.0, np.where(u < down + ties, 0.0, 1.0))


def with_sum(
    values: Floats, total: float, free: Bools, rng: np.random.Generator, *, bounds: tuple[float, float] = (-1.0, 1.0)
) -> Floats:
    """The values, some of the free ones moved by one step so that the free ones have the sum that is asked for."""
    missing = round(total - float(values[free].sum()))
    step = float(np.sign(missing))
    room = free & (values + step >= bounds[0]) & (values + step <= bounds[1])
    moved = values.copy()
    moved[rng.choice(np.flatnonzero(room), abs(missing), replace=False)] += step
    return moved


def guessed(hard: Bools, rng: np.random.Generator) -> Floats:
    """Expected size of the judge's error: hard pairs are recognised in four of five cases."""
    seen = np.where(rng.random(len(hard)) < 0.8, hard, ~hard)
    return np.where(seen, 1.0, 0.4)


def lenient(difference: float, exact: bool, rng: np.random.Generator) -> Judged:
    """A judge that is right but for one pair in 25, where it calls a loss or a tie a win."""
    human = outcomes(0.3, difference, exact, rng)
    return plain(human, np.where((human < 1) & (rng.random(PAIRS) < 0.06), 1.0, human), rng)


def nearly_perfect(difference: float, exact: bool, rng: np.random.Generator) -> Judged:
    """A judge that is wrong in one pair of 30, to either side."""
    human = outcomes(0.3, difference, exact, rng)
    return plain(human, np.where(rng.random(PAIRS) < 0.05, ternary(0.3, 0.0, rng), human), rng)


def few_changes(difference: float, exact: bool, rng: np.random.Generator) -> Judged:
    """Outputs that are mostly equally good: nine ties of ten, of which the judge breaks some."""
    human = outcomes(0.9, difference, exact, rng)
    return plain(human, np.where(rng.random(PAIRS) < 0.3, ternary(0.9, 0.0, rng), human), rng)


def ignorant(difference: float, exact: bool, rng: np.random.Generator) -> Judged:
    """A judge that knows nothing."""
    return plain(outcomes(0.3, difference, exact, rng), ternary(0.3, 0.2, rng), rng)


def sessions(difference: float, exact: bool, rng: np.random.Generator) -> Judged:
    """Clusters of five that share most of what makes them good or bad, to the humans and to the judge."""
    clusters = np.repeat(np.arange(PAIRS // 5), 5)
    shared = ternary(0.3, difference, rng)[clusters]
    human = np.where(rng.random(PAIRS) < 0.6, shared, ternary(0.3, difference, rng))
    judge = np.where(rng.random(PAIRS) < 0.5, human, ternary(0.3, difference + 0.1, rng))
    return replace(plain(human, judge, rng), clusters=clusters)


def outcomes(ties: float, difference: float, exact: bool, rng: np.random.Generator) -> Floats:
    """Human outcomes, of exactly the mean that is asked for where the set is frozen."""
    human = ternary(ties, difference, rng)
    return with_sum(human, difference * PAIRS, np.ones(PAIRS, dtype=bool), rng) if exact else human


def plain(human: Floats, judge: Floats, rng: np.random.Generator) -> Judged:
    """All pairs can be drawn, and the guess where the judge errs is right in half of the cases."""
    wrong = np.where(rng.random(PAIRS) < 0.5, human != judge, rng.random(PAIRS) < 0.5)
    return Judged(human, judge, np.ones(PAIRS, dtype=bool), np.where(wrong, 1.0, 0.3))


MAIN = (World("pairwise −1, 0, 1", 1.0, 0.10, pairwise), World("pointwise 1 to 5", 4.0, 0.20, pointwise))
HARD = (
    World("right but for 4 % kind mistakes", 1.0, 0.10, lenient),
    World("wrong in 3 %, to either side", 1.0, 0.10, nearly_perfect),
    World("nine ties of ten", 1.0, 0.05, few_changes),
    World("judge knows nothing", 1.0, 0.10, ignorant),
    World("clusters of 5", 1.0, 0.10, sessions),
)

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


def rate(said: Sequence[bool]) -> Rate:
    """Share of runs."""
    return Rate(float(np.mean(said)), len(said))


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


# ---------------------------------------------------------------- agreement


@dataclass(frozen=True, slots=True)
class Raters:
    """A judge and a human of whom the true κ can be set; clusters copy a common pair of ratings in 3 of 5 members."""

    name: str
    share: tuple[float, ...]
    weights: Weights = "none"
    cluster: int = 1

    @property
    def cost(self) -> Floats:
        """(levels, levels) weight of each disagreement."""
        places = np.arange(len(self.share))
        apart = np.abs(places[:, None] - places)
        return (apart > 0).astype(float) if self.weights == "none" else apart**2 / (len(self.share) - 1) ** 2

    def joint(self, kappa: float) -> Floats:
        """(levels, levels) probabilities of human and judge, found by bisection over how well the judge sees."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self._kappa(self._seen(middle)) < kappa else (low, middle)
        return self._seen(low)

    def _seen(self, sight: float) -> Floats:
        share, places = np.array(self.share), np.arange(len(self.share))
        if self.weights == "none":
            return sight * np.diag(share) + (1 - sight) * np.outer(share, share)
        near = np.exp(-4 * sight * np.abs(places[:, None] - places)) * share
        return share[:, None] * near / near.sum(axis=1, keepdims=True)

    def _kappa(self, joint: Floats) -> float:
        return float(1 - np.sum(self.cost * joint) / (joint.sum(axis=1) @ self.cost @ joint.sum(axis=0)))

    def draw(self, joint: Floats, n: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints | None]:
        """n items: human, judge, clusters."""
        levels, flat = len(self.share), joint.ravel() / joint.sum()
        both = rng.choice(levels**2, n, p=flat)
        if self.cluster == 1:
            return both // levels, both % levels, None
        clusters = np.arange(n) // self.cluster
        common = rng.choice(levels**2, n, p=flat)[clusters]
        both = np.where(rng.random(n) < 0.6, common, both)
        return both // levels, both % levels, clusters


RATERS = (
    Raters("κ, three outcomes", (0.35, 0.3, 0.35)),
    Raters("κ, one in ten bad", (0.9, 0.1)),
    Raters("quadratic κ, five levels", GRADES, "quadratic"),
    Raters("κ, three outcomes, clusters of 5", (0.35, 0.3, 0.35), cluster=5),
)


def admission_table(report: Report) -> str:
    """How often "κ's lower bound is at least 0.4" admits a judge, just below the line and above it."""
    head = ["raters", "labels", "true κ 0.39: admitted", "the same at a one-sided 95 %"]
    head += [f"true κ {kappa}: admitted" for kappa in (0.5, 0.6, 0.7)]
    rows = []
    for raters in RATERS:
        for n in LABELS:
            false, loose = (admitted(raters, 0.39, n, level, report) for level in (0.95, 0.90))
            report.hold(f"admission, {raters.name}, {n}", false)
            right = [admitted(raters, kappa, n, 0.95, report) for kappa in (0.5, 0.6, 0.7)]
            rows.append(say([raters.name, str(n), str(false), str(loose), *(f"{r.value:.2f}" for r in right)]))
    return table(head, rows)


def admitted(raters: Raters, kappa: float, n: int, confidence: float, report: Report) -> Rate:
    """Share of runs whose lower end is at least what the policy asks for by default."""
    joint, levels, lows = raters.joint(kappa), len(raters.share), []
    for _ in range(report.runs):
        human, judge, clusters = raters.draw(joint, n, report.rng)
        found = kappa_interval(
            human, judge, levels=levels, weights=raters.weights, confidence=confidence, clusters=clusters
        )
        lows.append(found.low >= NEEDED_KAPPA)
    return rate(lows)


def bounds_table(report: Report) -> str:
    """How often the lower bound at 95 % lies above the truth: it should in 5 % of runs, or less."""
    rows = []
    for raters in RATERS:
        for kappa in (0.4, 0.6, 0.8):
            rows.append(
                say([raters.name, f"{kappa:.1f}", *(str(above_kappa(raters, kappa, n, report)) for n in LABELS)])
            )
    for share, truth in itertools.product((0.3, 0.1), (0.7, 0.8, 0.9)):
        cells = [str(above_auc(share, truth, n, report)) for n in LABELS]
        rows.append(say([f"AUC, {share:.0%} positive", f"{truth}", *cells]))
    for skill in (0.65, 0.8):
        rows.append(say(alpha_row(skill, report)))
    return table(["coefficient", "truth", *(f"{n} items" for n in LABELS)], rows)


def above_kappa(raters: Raters, kappa: float, n: int, report: Report) -> Rate:
    """Of κ."""
    joint, levels, missed = raters.joint(kappa), len(raters.share), []
    for _ in range(report.runs):
        human, judge, clusters = raters.draw(joint, n, report.rng)
        found = kappa_interval(human, judge, levels=levels, weights=raters.weights, confidence=0.9, clusters=clusters)
        missed.append(found.low > kappa)
    return rate(missed)


def above_auc(share: float, truth: float, n: int, report: Report) -> Rate:
    """Of the AUC of two normal distributions."""
    apart, missed = float(ndtri(truth)) * 2**0.5, []
    for _ in range(report.runs):
        positive = np.arange(n) < share * n
        scores = report.rng.normal(np.where(positive, apart, 0.0))
        missed.append(auc_interval(scores, positive, confidence=0.9).low > truth)
    return rate(missed)


def alpha_row(skill: float, report: Report) -> list[str]:
    """Of ordinal α for three jurors, one rating of six missing; the truth is that of a very long table."""
    truth = krippendorff_alpha(jury(skill, 100_000, report.rng), level="ordinal")
    runs, cells = max(report.runs // 4, 1), []
    for n in LABELS:
        tables = (jury(skill, n, report.rng) for _ in range(runs))
        cells.append(str(rate([alpha_interval(t, level="ordinal", confidence=0.9).low > truth for t in tables])))
    return ["ordinal α, three jurors", f"{truth:.2f}", *cells]


def jury(skill: float, n: int, rng: np.random.Generator) -> Floats:
    """(3, n) grades."""
    levels = np.arange(1.0, 6.0)
    truth = rng.choice(levels, n, p=GRADES)
    ratings = np.where(rng.random((3, n)) < skill, truth, rng.choice(levels, (3, n), p=GRADES))
    return np.where(rng.random((3, n)) < 1 / 6, np.nan, ratings)


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
