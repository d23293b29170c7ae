"""Simulated sets of pairs, with the humans' differences, a judge's, and a guess where the judge errs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PAIRS = 1000
IDENTICAL = 0.2  # share of pairs whose outputs are the same, and are never judged
GRADES = (0.05, 0.10, 0.25, 0.35, 0.25)  # of the baseline, worst first
POINTWISE_KINDNESS = 0.29  # how often the candidate gets one level more, so that the judge's mean is 0.2 too high


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
