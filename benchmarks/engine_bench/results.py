"""What is made of the measurements: ratios, disagreements with lm-eval, shares of what could be had. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: an alternative on a workload with one candidate, both subjects together."""

    alternative: str
    seconds: float | None = None
    base_seconds: float | None = None
    candidate_seconds: float | None = None
    tokens: int = 0
    flops: int = 0
    peak_bytes: int = 0
    loaded_bytes: int = 0
    import_seconds: float = 0.0
    load_seconds: float = 0.0
    disagreement: Disagreement | None = None
    ratio: float | None = None
    share: float | None = None
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


def row_of(name: str, results: Sequence[Result], base: str, candidate: str, note: str = "") -> Row:
    """A line without comparison; several results (lm-eval's two runs) are added, their memory is not."""
    failures = [result.failure for result in results if result.failure]
    if failures:
        return Row(name, note=failures[0])
    arms: dict[str, Arm] = {key: arm for result in results for key, arm in result.arms.items()}
    pair = [arms[key] for key in dict.fromkeys((base, candidate)) if key in arms]
    return Row(
        name,
        seconds=sum(median(arm.seconds) for arm in pair),
        base_seconds=median(arms[base].seconds) if base in arms else None,
        candidate_seconds=median(arms[candidate].seconds) if candidate in arms else None,
        tokens=sum(arm.work.tokens for arm in pair),
        flops=sum(flops(arm.size, arm.work) for arm in pair),
        peak_bytes=max(result.peak_bytes for result in results),
        loaded_bytes=max(result.loaded_bytes for result in results),
        import_seconds=sum(result.import_seconds for result in results),
        load_seconds=sum(result.load_seconds for result in results),
        note=note,
    )


def share_of_allowed(ratio: float | None, allowed: float | None) -> float | None:
    """The measured ratio as a share of the one that the saved tokens allow."""
    return None if ratio is None or allowed is None or not math.isfinite(allowed) else ratio / allowed


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
