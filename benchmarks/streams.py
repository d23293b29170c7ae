"""Measures the sequential test on streams of production calls, looked at after every session.

    python benchmarks/streams.py [--streams 2000] [--sessions 3000] [--seed 0] [--out FILE.md]

A stream is a series of sessions of one to ten calls; half of the sessions give all calls the same difference, so that
calls of a session are far from independent. In an A/A stream candidate and baseline are equally good and differ by
chance alone. Five guards watch each stream, and a stream is blocked when any of them is shown to have regressed, at a
fifth of the level each, as the policy does it. Prints a table; exits with 1 when a rate exceeds its level by more than
three of its Monte-Carlo errors.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.statistics.sequential import Design, Draws, running_log_e, sequential_test

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
GUARDS = 5
LARGEST = 10  # calls of a session; freezing caps them, as the live comparison does
TOGETHER = 0.5  # share of the sessions whose calls all have the same difference
BATCH = 100  # streams at a time


@dataclass(frozen=True, slots=True)
class Case:
    """What is true of a stream: the share of calls that differ, the margin of every guard, and the mean of the first.

    Under all other guards the candidate is as good as the baseline.
    """

    name: str
    flips: float
    mean: float
    margin: float
    guards: int = GUARDS


CASES = (
    Case("A/A", 0.02, 0.0, 0.02),
    Case("A/A", 0.10, 0.0, 0.02),
    Case("A/A", 0.40, 0.0, 0.02),
    Case("exactly at the margin, one guard", 0.10, -0.02, 0.02, guards=1),
    Case("5 points worse", 0.10, -0.05, 0.01),
    Case("5 points worse", 0.10, -0.05, 0.02),
    Case("5 points worse", 0.20, -0.05, 0.02),
    Case("10 points worse", 0.20, -0.10, 0.02),
)


@dataclass(frozen=True, slots=True)
class Found:
    """Rates of streams, and calls until the block (NaN where there was none)."""

    blocked: float
    passed: float
    calls: Floats

    def quantile(self, share: float) -> str:
        """So many calls were enough for this share of all streams."""
        ordered = np.sort(np.where(np.isnan(self.calls), np.inf, self.calls))
        value = ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
        return "–" if math.isinf(value) else f"{value:,.0f}"


def main() -> None:
    """Simulate, print, check."""
    options = _options()
    check_against_the_test()
    lines = [
        "| Stream | Calls that differ | δ | Blocked | Promoted | Calls until the block: median | 9 of 10 |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    wrong = []
    for number, case in enumerate(CASES):
        found = simulate(case, options.streams, options.sessions, options.seed + number)
        delay = (found.quantile(0.5), found.quantile(0.9)) if case.mean < -case.margin else ("", "")
        lines.append(
            f"| {case.name} | {case.flips:.0%} | {case.margin:g} | {found.blocked:.2%} | {found.passed:.2%} | "
            f"{delay[0]} | {delay[1]} |"
        )
        print(lines[-1], flush=True)
        error = math.sqrt(ALPHA * (1 - ALPHA) / options.streams)
        if case.mean >= -case.margin and found.blocked > ALPHA + 3 * error:
            wrong.append(case)
        if case.mean <= -case.margin and found.passed > ALPHA + 3 * error:
            wrong.append(case)
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(f"a rate exceeds its level: {wrong}" if wrong else 0)


def simulate(case: Case, streams: int, sessions: int, seed: int) -> Found:
    """So many streams of a case."""
    source = np.random.default_rng(seed)
    blocked, passed, calls = 0, 0, []
    for start in range(0, streams, BATCH):
        size = min(BATCH, streams - start)
        sizes = source.integers(1, LARGEST + 1, (size, sessions))
        at, promoted = np.full(size, sessions), np.full(size, -1)
        for guard in range(case.guards):
            true = case if guard == 0 else replace(case, mean=0.0)
            draws = Draws(differences(source, sizes, true), sizes, sizes)
            design = Design(case.margin, 1.0, "population", int(sizes.sum(axis=1).max()), LARGEST)
            at = np.minimum(at, _first(running_log_e(draws, design, side=-1), ALPHA / case.guards))
            promoted = np.maximum(promoted, _first(running_log_e(draws, design, side=1), ALPHA))
        reached = np.cumsum(sizes, axis=1)
        fell = at < sessions
        # A run ends with its first verdict; once all guards have passed it is promoted and nobody looks any more.
        fell &= at < promoted
        blocked += int(fell.sum())
        passed += int(((promoted < sessions) & ~fell).sum())
        calls.append(np.where(fell, reached[np.arange(size), np.minimum(at, sessions - 1)], np.nan))
    return Found(blocked / streams, passed / streams, np.concatenate(calls))


def differences(source: np.random.Generator, sizes: npt.NDArray[np.int64], case: Case) -> Floats:
    """(streams, sessions) sums of differences: each −1, 0 or 1, with the mean and share of the case."""
    down, up = (case.flips - case.mean) / 2, (case.flips + case.mean) / 2
    alone = source.multinomial(sizes, [down, 1 - case.flips, up])
    separate = (alone[..., 2] - alone[..., 0]).astype(float)
    one = source.choice([-1.0, 0.0, 1.0], p=[down, 1 - case.flips, up], size=sizes.shape)
    return np.where(source.random(sizes.shape) < TOGETHER, one * sizes, separate)


def check_against_the_test() -> None:
    """The table's decisions are those of the very test that a gate makes."""
    source = np.random.default_rng(1)
    case = Case("", 0.3, -0.15, 0.02)
    for _ in range(20):
        sizes = source.integers(1, LARGEST + 1, (1, 300))
        sums = differences(source, sizes, case)
        design = Design(case.margin, 1.0, "population", int(sizes.sum()), LARGEST)
        made = sequential_test(Draws(sums[0], sizes[0], sizes[0]), design, alpha=ALPHA, block_alpha=ALPHA)
        first = _first(running_log_e(Draws(sums, sizes, sizes), design, side=-1), ALPHA)[0]
        assert (made.outcome == "regressed") == (first < 300)
        assert made.decided_at is None or made.decided_at == first + 1


def _first(log_e: Floats, alpha: float) -> npt.NDArray[np.int64]:
    """(R,) the first place at which a side has shown its case; T where it never has."""
    crossed = log_e >= -math.log(alpha)
    return np.where(crossed.any(axis=-1), crossed.argmax(axis=-1), log_e.shape[-1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2_000)
    parser.add_argument("--sessions", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
