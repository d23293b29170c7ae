"""Measures the error rates of the sequential test, and what it saves, on simulated sets; writes docs/validity.md.

    python -m benchmarks.validity [--runs 2000] [--seed 0] [--out docs/validity.md]

Exits with 1 when a rate exceeds its level by more than three of its Monte-Carlo errors, or a clear case uses more than
a tenth of its samples on average.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from harness.records import Estimand
from harness.statistics.power import Outcomes, Setting, decide_sets, draw_sets

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
ACCURACY = 0.6  # of the baseline; only the unpaired test depends on it
GUARDS = 8
CLEAR_SHARE = 0.10
BATCH = 150_000  # draws at a time
MIXED_SIZES = (1, 2, 3, 5, 8, 12, 20, 40)
PROSE = Path(__file__).with_name("validity.md.in")

# ---------------------------------------------------------------- what is simulated


@dataclass(frozen=True, slots=True)
class Case:
    """One row: N samples, a share of which flips, in clusters of one size or of `MIXED_SIZES`."""

    n: int
    flips: float
    margin: float
    estimand: Estimand = "frozen"
    cluster: int = 1
    mixed: bool = False

    def setting(self, block_alpha: float = ALPHA) -> Setting:
        """The guard that decides the case."""
        largest = max(MIXED_SIZES) if self.mixed else self.cluster
        return Setting(self.n, self.flips, self.margin, ALPHA, block_alpha, self.estimand, largest)

    @property
    def clusters(self) -> str:
        """In words."""
        if self.mixed:
            return "of 1–40, large lose" if self.estimand == "frozen" else "of 1–40"
        return "–" if self.cluster == 1 else f"of {self.cluster}"


CASES = (
    Case(200, 0.05, 0.05),
    Case(200, 0.12, 0.05),
    Case(541, 0.05, 0.03),
    Case(541, 0.30, 0.03),
    Case(1319, 0.02, 0.02),
    Case(1319, 0.12, 0.02),
    Case(5000, 0.05, 0.02),
    Case(5000, 0.12, 0.02),
    Case(5000, 0.30, 0.02),
    Case(14042, 0.02, 0.01),
    Case(14042, 0.12, 0.02),
    Case(14042, 0.30, 0.01),
    Case(540, 0.12, 0.05, cluster=5),
    Case(5000, 0.12, 0.02, cluster=20),
    Case(1319, 0.12, 0.03, mixed=True),
    Case(5000, 0.12, 0.02, mixed=True),
    Case(200, 0.12, 0.05, "population"),
    Case(541, 0.12, 0.03, "population"),
    Case(1319, 0.30, 0.03, "population"),
    Case(5000, 0.05, 0.02, "population"),
    Case(5000, 0.12, 0.02, "population"),
    Case(14042, 0.12, 0.02, "population"),
    Case(5000, 0.12, 0.03, "population", cluster=5),
    Case(5000, 0.12, 0.05, "population", mixed=True),
)


def simulated(case: Case, difference: float, runs: int, rng: np.random.Generator) -> Iterator[tuple[Floats, Floats]]:
    """Batches of (sums, sizes), each (R, T) in drawing order, whose true mean difference is as given."""
    most = max(1, BATCH // case.n)
    for done in range(0, runs, most):
        some = min(most, runs - done)
        if not case.mixed:
            yield draw_sets(case.setting(), difference, some, rng)
        elif case.estimand == "frozen":
            yield frozen_mixed(case, difference, some, rng)
        else:
            yield stream_mixed(case, difference, some, rng)


def frozen_mixed(case: Case, difference: float, runs: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """One fixed set whose largest clusters lose and smallest win, in size-biased orders: the hardest set for them.

    A test that drew clusters equally often would see the winners first and pass.
    """
    sizes = np.resize(np.array(MIXED_SIZES, dtype=float), int(case.n / np.mean(MIXED_SIZES)))
    sizes = np.concatenate([sizes, np.ones(int(case.n - sizes.sum()))])
    small, signs = np.argsort(sizes, kind="stable"), np.zeros(len(sizes))
    # The ten smallest are kept back, so that the losers can be filled up to the very number that is asked for.
    won = take(signs, sizes, small[10:], round((case.flips + difference) / 2 * case.n), 1.0)
    net = math.ceil(-difference * case.n - 1e-9)
    assert take(signs, sizes, small[::-1], won + net, -1.0) == won + net, "the set has too few small clusters"
    order = np.argsort(rng.exponential(size=(runs, len(sizes))) / sizes, axis=1)
    return (signs * sizes)[order], sizes[order]


def take(signs: Floats, sizes: Floats, order: npt.NDArray[np.int64], samples: int, sign: float) -> int:
    """Give `sign` to free clusters, in order, that together hold at most `samples` samples; how many they hold."""
    held = 0
    for index in order:
        if signs[index] == 0 and held + sizes[index] <= samples:
            signs[index] = sign
            held += int(sizes[index])
    return held


def stream_mixed(case: Case, difference: float, runs: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Independent clusters of independent sizes, each of which changes as a whole."""
    shape = (runs, int(case.n / np.mean(MIXED_SIZES)))
    sizes = rng.choice(np.array(MIXED_SIZES, dtype=float), shape)
    lost, won = (case.flips - difference) / 2, (case.flips + difference) / 2
    u = rng.random(shape)
    return np.where(u < lost, -sizes, np.where(u < lost + won, sizes, 0.0)), sizes


# ---------------------------------------------------------------- what is measured


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of runs with its Monte-Carlo standard error."""

    value: float
    runs: int

    @property
    def error(self) -> float:
        """Standard error of the share."""
        return math.sqrt(self.value * (1 - self.value) / self.runs)

    def exceeds(self, level: float) -> bool:
        """Whether it lies above `level` by more than chance explains."""
        return self.value > level + 3 * self.error

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"


@dataclass(slots=True)
class Tally:
    """Outcomes of all methods over the runs of one case at one true difference."""

    passed: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    regressed: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    share: list[Floats] = field(default_factory=list)
    others: dict[str, list[npt.NDArray[np.bool_]]] = field(default_factory=dict)

    def add(self, outcomes: Outcomes, others: dict[str, npt.NDArray[np.bool_]]) -> None:
        """Count one batch."""
        self.passed.append(outcomes.passed)
        self.regressed.append(outcomes.regressed)
        self.share.append(outcomes.share)
        for name, passes in others.items():
            self.others.setdefault(name, []).append(passes)

    def rate(self, parts: Sequence[npt.NDArray[np.bool_]]) -> Rate:
        """Share of the runs of which `parts` say yes."""
        whole = np.concatenate(parts)
        return Rate(float(whole.mean()), len(whole))

    @property
    def mean_share(self) -> float:
        """Samples used, as a share of N, averaged over runs."""
        return float(np.concatenate(self.share).mean())


def measure(case: Case, difference: float, runs: int, rng: np.random.Generator) -> Tally:
    """Run the sequential test and its alternatives on the same sets."""
    tally = Tally()
    for sums, sizes in simulated(case, difference, runs, rng):
        tally.add(decide_sets(case.setting(), sums, sizes), alternatives(case, sums, sizes, rng))
    return tally


def alternatives(case: Case, sums: Floats, sizes: Floats, rng: np.random.Generator) -> dict[str, npt.NDArray[np.bool_]]:
    """Which runs pass by what is done elsewhere with all N samples."""
    n = sizes.sum(axis=1)
    mean = sums.sum(axis=1) / n
    return {
        "paired t": mean - paired_reach(sums, sizes, mean) > -case.margin,
        "unpaired z": mean - unpaired_reach(case, sums, n, rng) > -case.margin,
        "point": mean > -case.margin + 1e-12,
    }


def paired_reach(sums: Floats, sizes: Floats, mean: Floats) -> Floats:
    """From the mean down to the one-sided Student bound, with cluster-robust error where there are clusters."""
    groups = sums.shape[1]
    spread = ((sums - mean[:, None] * sizes) ** 2).sum(axis=1) * groups / (groups - 1)
    reach: Floats = np.sqrt(spread) / sizes.sum(axis=1) * float(stdtrit(groups - 1, 1 - ALPHA))
    return reach


def unpaired_reach(case: Case, sums: Floats, n: Floats, rng: np.random.Generator) -> Floats:
    """From the difference of two proportions down to the bound of the two-sample z-test, which ignores the pairs."""
    lost, won = -np.minimum(sums, 0).sum(axis=1), np.maximum(sums, 0).sum(axis=1)
    still_right = (ACCURACY - case.flips / 2) / (1 - case.flips)
    kept = rng.binomial((n - lost - won).astype(np.int64), still_right)
    baseline, candidate = (kept + lost) / n, (kept + won) / n
    variance = (baseline * (1 - baseline) + candidate * (1 - candidate)) / n
    reach: Floats = np.sqrt(variance) * float(ndtri(1 - ALPHA))
    return reach


# ---------------------------------------------------------------- the tables


@dataclass(slots=True)
class Report:
    """Tables under construction, and every promise that was found broken."""

    runs: int
    rng: np.random.Generator
    broken: list[str] = field(default_factory=list)

    def hold(self, what: str, rate: Rate, level: float = ALPHA) -> Rate:
        """`rate`, noted as broken if it exceeds its level."""
        if rate.exceeds(level):
            self.broken.append(f"{what}: {rate} exceeds {level:g}")
        return rate


def main_table(report: Report) -> str:
    """Error rates and power by case, and beside them the alternatives on the same sets."""
    head = ["estimand", "N", "clusters", "flips", "δ", "false promotion", "A/A block", "power", "share used"]
    head += [f"{name}, {where}" for name in ("paired t", "unpaired z", "point") for where in ("at −δ", "at 0")]
    return table(head, [say(main_row(case, report)) for case in CASES])


def main_row(case: Case, report: Report) -> list[str]:
    """One case at a true difference of −δ and of 0."""
    at, equal = (measure(case, d, report.runs, report.rng) for d in (-case.margin, 0.0))
    name = f"{case}"
    row = [case.estimand, f"{case.n:,}", case.clusters, f"{case.flips:.0%}", f"{case.margin:g}"]
    row.append(str(report.hold(f"false promotion, {name}", at.rate(at.passed))))
    row.append(str(report.hold(f"A/A block, {name}", equal.rate(equal.regressed))))
    row += [str(equal.rate(equal.passed)), f"{equal.mean_share:.0%}"]
    for other in at.others:
        row += [f"{at.rate(at.others[other]).value:.3f}", f"{equal.rate(equal.others[other]).value:.3f}"]
    return row


def clear_table(report: Report) -> str:
    """Cases that nobody would argue about: how soon they are over."""
    head = ["estimand", "N", "true difference", "side", "distance from −δ", "right", "mean share used"]
    rows = []
    kinds: tuple[Estimand, ...] = ("frozen", "population")
    for estimand, n in itertools.product(kinds, (5000, 14042)):
        for distance in (0.05, 0.08, -0.05, -0.08):
            rows.append(say(clear_row(Case(n, 0.12, 0.02, estimand), distance, report)))
    return table(head, rows)


def clear_row(case: Case, distance: float, report: Report) -> list[str]:
    """One clear case."""
    difference = distance - case.margin
    tally = measure(case, difference, report.runs, report.rng)
    right = tally.rate(tally.passed if distance > 0 else tally.regressed)
    if tally.mean_share > CLEAR_SHARE:
        report.broken.append(f"clear case {case} at {difference:+g} uses {tally.mean_share:.1%}")
    side = "pass" if distance > 0 else "block"
    points = f"{100 * abs(distance):.0f} points"
    return [case.estimand, f"{case.n:,}", f"{difference:+.2f}", side, points, str(right), f"{tally.mean_share:.1%}"]


def family_table(report: Report) -> str:
    """Eight required guards at once: how often any blocks although none should."""
    head = ["estimand", "N of each", "flips", "δ", "every guard's true difference", "any of 8 blocks"]
    rows = []
    for case in (Case(541, 0.12, 0.03), Case(1319, 0.12, 0.02), Case(1319, 0.12, 0.03, "population")):
        just_above = -(math.ceil(case.margin * case.n) - 2) / case.n if case.estimand == "frozen" else -case.margin
        for name, difference in (("0 (A/A)", 0.0), (difference_name(case), just_above)):
            rate = report.hold(f"eight guards, {case}, {name}", family_rate(case, difference, report))
            rows.append(say([case.estimand, f"{case.n:,}", f"{case.flips:.0%}", f"{case.margin:g}", name, str(rate)]))
    return table(head, rows)


def difference_name(case: Case) -> str:
    """The hardest true difference at which a block is still wrong."""
    return "two flips above −δ" if case.estimand == "frozen" else "at −δ"


def family_rate(case: Case, difference: float, report: Report) -> Rate:
    """Share of gates with a block, each guard tested at α/8 on a set of its own."""
    setting = case.setting(ALPHA / GUARDS)
    parts = [
        decide_sets(setting, *batch).regressed
        for batch in simulated(case, difference, report.runs * GUARDS, report.rng)
    ]
    return Rate(float(np.concatenate(parts).reshape(-1, GUARDS).any(axis=1).mean()), report.runs)


def redrawn_table(report: Report) -> str:
    """What a frozen verdict does not promise: two equal models whose flips are luck, drawn anew in every run."""
    head = ["N", "flips", "δ", "frozen guard blocks", "population guard blocks"]
    rows = []
    for case in (Case(200, 0.12, 0.05), Case(541, 0.12, 0.03), Case(1319, 0.12, 0.02), Case(5000, 0.12, 0.02)):
        stream = replace(case, estimand="population")
        batches = list(simulated(stream, 0.0, report.runs, report.rng))
        rates = [
            Rate(float(np.mean(np.concatenate([decide_sets(c.setting(), *b).regressed for b in batches]))), report.runs)
            for c in (case, stream)
        ]
        report.hold(f"redrawn A/A, {stream}", rates[1])
        rows.append(say([f"{case.n:,}", f"{case.flips:.0%}", f"{case.margin:g}", *map(str, rates)]))
    return table(head, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def say(row: list[str]) -> list[str]:
    """Show a finished row to whoever waits."""
    print(" | ".join(row), flush=True)
    return row


# ---------------------------------------------------------------- the program

TABLES: dict[str, Callable[[Report], str]] = {
    "main": main_table,
    "clear": clear_table,
    "family": family_table,
    "redrawn": redrawn_table,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, write the document, and say which promises were broken."""
    parser = argparse.ArgumentParser(description="Measure the error rates of the gate's test.")
    parser.add_argument("--runs", type=int, default=2000, help="simulated runs behind every figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/validity.md"))
    chosen = parser.parse_args(arguments)
    began, report = time.monotonic(), Report(chosen.runs, np.random.default_rng(chosen.seed))
    tables = {name: make(report) for name, make in TABLES.items()}
    command = f"python -m benchmarks.validity --runs {chosen.runs} --seed {chosen.seed}"
    publish(PROSE, chosen.out, report, {**tables, "command": command})
    print(f"{chosen.out} written after {time.monotonic() - began:.0f} s")
    return 1 if report.broken else 0


def publish(prose: Path, out: Path, report: Report, said: Mapping[str, str]) -> None:
    """Fill what was measured into the document's prose, and say which promises were broken."""
    text = Template(prose.read_text(encoding="utf-8")).substitute(said, runs=f"{report.runs:,}")
    out.write_text(text, encoding="utf-8")
    for promise in report.broken:
        print(f"BROKEN {promise}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
