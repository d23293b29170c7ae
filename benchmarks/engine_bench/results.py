"""What is made of the measurements: ratios, disagreements with lm-eval, shares of what could be had. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import median
from typing import Any

from benchmarks.engine_bench.counting import flops
from benchmarks.engine_bench.jobs import Arm, Result
from benchmarks.engine_bench.workloads import Ask

TIE = 1e-4  # nats; log-likelihoods closer than this rank as float noise has it


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How an arm's answers differ from lm-eval's, item by item.

    `logprob` is the largest difference in nats. `picks` counts the questions whose likeliest choice differs, `ties`
    those of them at which lm-eval itself has the two choices within `TIE`; `texts` counts greedy texts that differ.
    """

    logprob: float = 0.0
    picks: int = 0
    ties: int = 0
    texts: int = 0

    def __or__(self, other: Disagreement) -> Disagreement:
        """Over several arms: the largest, and the sums."""
        return Disagreement(
            max(self.logprob, other.logprob),
            self.picks + other.picks,
            self.ties + other.ties,
            self.texts + other.texts,
        )

    def worst(self, other: Disagreement) -> Disagreement:
        """Of the same arms in two rounds: the larger of every figure."""
        return Disagreement(*map(max, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure of every round, in their order, none where the round has none; shown as the median and the range."""

    values: tuple[float | None, ...]

    @property
    def known(self) -> list[float]:
        """Without the rounds that have none."""
        return [value for value in self.values if value is not None]

    @property
    def median(self) -> float:
        """Of the rounds that have one."""
        return median(self.known)

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.known)

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.known)


def spread(values: Iterable[float | None]) -> Spread | None:
    """The figures of all rounds, or none where no round has one."""
    found = Spread(tuple(values))
    return found if found.known else None


def per_round(above: Spread | None, below: Spread | None, unit: float | None = 1.0) -> Spread | None:
    """`above` / `below` / `unit`, each round by itself, so that a machine's drift between rounds cancels.

    None without a unit that is a finite number, and a round in which either is missing has none.
    """
    if above is None or below is None or unit is None or not math.isfinite(unit):
        return None
    pairs = zip(above.values, below.values, strict=True)
    return spread(None if a is None or b is None else a / b / unit for a, b in pairs)


@dataclass(frozen=True, slots=True)
class Round:
    """What one alternative's processes measured in one round: arms by name, the most memory, or a failure."""

    arms: Mapping[str, Arm]
    peak_bytes: int = 0
    loaded_bytes: int = 0
    failure: str = ""

    @classmethod
    def of(cls, results: Sequence[Result]) -> Round:
        """Of one process for all arms, or of one for each, as lm-eval's."""
        failure = next((result.failure for result in results if result.failure), "")
        arms = {} if failure else {name: arm for result in results for name, arm in result.arms.items()}
        peak, loaded = max(r.peak_bytes for r in results), max(r.loaded_bytes for r in results)
        return cls(arms, peak, loaded, failure)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: an alternative on a workload with one candidate, both subjects together.

    `drafting` is how many times quicker the candidate is than the same engine without drafts.
    """

    alternative: str
    seconds: Spread | None = None
    cpu_seconds: Spread | None = None
    candidate_seconds: Spread | None = None
    tokens: int = 0
    flops: int = 0
    peak_bytes: int = 0
    loaded_bytes: int = 0
    disagreement: Disagreement | None = None
    ratio: Spread | None = None
    cpu_ratio: Spread | None = None
    share: Spread | None = None
    drafting: Spread | None = None
    note: str = ""


def disagreement(asks: Sequence[Ask], reference: Sequence[Any], answers: Sequence[Any]) -> Disagreement:
    """Of one arm's answers against lm-eval's, both in the order of `asks`."""
    texts = sum(a != b for a, b in zip(reference, answers, strict=True) if isinstance(a, str))
    scored = [i for i, answer in enumerate(reference) if not isinstance(answer, str)]
    gap = max((abs(reference[i][0] - answers[i][0]) for i in scored), default=0.0)
    samples: dict[str, list[int]] = {}
    for i in scored:
        samples.setdefault(asks[i].sample, []).append(i)
    picks = ties = 0
    for choices in samples.values():
        theirs, mine = pick([reference[i] for i in choices]), pick([answers[i] for i in choices])
        if theirs != mine:
            picks += 1
            ties += abs(reference[choices[theirs]][0] - reference[choices[mine]][0]) <= TIE
    return Disagreement(gap, picks, ties, texts)


def pick(choices: Sequence[tuple[float, bool]]) -> int:
    """Which choice is likeliest; the first of equal ones, as lm-eval has it."""
    return max(range(len(choices)), key=lambda i: (choices[i][0], -i))


def row_of(name: str, rounds: Sequence[Round], base: str, candidate: str) -> Row:
    """A line without comparison; a round that failed is named in the note. Memory is the most of all rounds."""
    pairs = [[one.arms[base], one.arms[candidate]] if one.arms else [] for one in rounds]
    failures = [f"round {n}: {one.failure}" for n, one in enumerate(rounds, start=1) if one.failure]
    shown = next((pair for pair in pairs if pair), [])
    return Row(
        name,
        seconds=spread(sum(arm.seconds for arm in pair) if pair else None for pair in pairs),
        cpu_seconds=spread(sum(arm.cpu_seconds for arm in pair) if pair else None for pair in pairs),
        candidate_seconds=spread(pair[-1].seconds if pair else None for pair in pairs),
        tokens=sum(arm.work.tokens for arm in shown),
        flops=sum(flops(arm.size, arm.work) for arm in shown),
        peak_bytes=max(one.peak_bytes for one in rounds),
        loaded_bytes=max(one.loaded_bytes for one in rounds),
        note="; ".join(failures),
    )


def order(names: Sequence[str], turn: int) -> list[str]:
    """In which order the alternatives run in a round: the first, lm-eval, in the middle, every second round backwards.

    So none is far in time from the one it is compared with, nor always before or always after it.
    """
    first, *rest = names
    half = len(rest) // 2
    row = [*rest[:half], first, *rest[half:]]
    return row[::-1] if turn % 2 else row


def costs(seconds: Mapping[str, float], base: str) -> list[tuple[int, float]]:
    """(k, cost of the base and its first k candidates in units of the base alone)."""
    candidates = [name for name in seconds if name != base]
    spent, listed = seconds[base], []
    for k, name in enumerate(candidates, start=1):
        spent += seconds[name]
        listed.append((k, spent / seconds[base]))
    return listed


def agreement(ours: Sequence[Sequence[Any]], theirs: Sequence[Sequence[Any]]) -> float:
    """Share of positions at which two sets of token lists are equal; a position that only one has is not."""
    same = sum(x == y for a, b in zip(ours, theirs, strict=True) for x, y in zip(a, b, strict=False))
    return same / max(1, sum(max(len(a), len(b)) for a, b in zip(ours, theirs, strict=True)))
