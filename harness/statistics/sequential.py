"""The decision for one guard: has the mean difference been shown to lie above −δ, or at or below it?

Both sides bet against each other's null with the martingale of `betting`; the first to reach its threshold decides,
at whatever draw, so looking after every chunk is free. When a frozen set is complete its mean is known and decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.records import Estimand, Outcome
from harness.statistics.betting import guessed_gap, log_wealth

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BISECTIONS = 22  # the width of the scale over 2²² is far below what a report shows


@dataclass(frozen=True, slots=True)
class Draws:
    """T clusters in the committed order: (T,) sums of D over scored pairs (score points), their counts, the sizes."""

    sums: Floats
    scored: Ints
    sizes: Ints


@dataclass(frozen=True, slots=True)
class Design:
    """What is fixed before the first draw.

    `margin` is δ in score points (negative for a demanded improvement), `span` the width of the metric's scale,
    `total` the samples in all clusters, `cluster_cap` the largest cluster that the stream can hold (population only;
    an assumption about the stream, which a cap applied when it was sampled makes true).
    """

    margin: float
    span: float
    estimand: Estimand
    total: int
    cluster_cap: int = 1


@dataclass(frozen=True, slots=True)
class SequentialResult:
    """`log_e_pass` and `log_e_block` are the running maxima of log K against "mean D ≤ −δ" and "mean D > −δ".

    `decided_at` counts the draws until the first threshold was crossed (None: never). `interval` is the confidence
    sequence in score points: its ends come from the same two tests, each at level α, so it has level 1 − 2α.
    """

    outcome: Outcome
    decided_at: int | None
    log_e_pass: float
    log_e_block: float
    interval: tuple[float, float]


def sequential_test(
    draws: Draws, design: Design, *, alpha: float, block_alpha: float, complete: bool = False
) -> SequentialResult:
    """Test one guard on the draws so far.

    Args:
        draws: whole clusters only, in the committed order; may be empty.
        design: see `Design`.
        alpha: level of "pass", in (0, 1).
        block_alpha: level of "regressed", already corrected for the number of guards.
        complete: every cluster was asked. A frozen guard is then decided by its mean, which is known, and a mean of
            exactly −δ (to 1e-12 of the span) has regressed; a population guard is left as the bets have it.

    Raises:
        ValueError: a difference is larger than the span or not a number, the draws exceed the design, or a level is
            not in (0, 1).
    """
    _validate(draws, design, (alpha, block_alpha))
    if not draws.scored.any():
        return SequentialResult("undecided", None, 0.0, 0.0, (-design.span, design.span))
    rising = running_log_e(draws, design, side=1)
    falling = running_log_e(draws, design, side=-1)
    first = [_first(rising, alpha), _first(falling, block_alpha)]
    outcome, decided_at = _earlier(*first)
    log_e = (_last(rising), _last(falling))
    if complete and design.estimand == "frozen":
        mean = math.fsum(draws.sums) / float(draws.scored.sum())
        above = mean > -design.margin + 1e-12 * design.span
        return SequentialResult("pass" if above else "regressed", decided_at, *log_e, (mean, mean))
    return SequentialResult(outcome, decided_at, *log_e, _interval(draws, design, alpha, outcome))


def running_log_e(draws: Draws, design: Design, *, side: int, m: float | None = None) -> Floats:
    """(T,) running maximum of log K. `side` 1 doubts "mean D ≤ m", −1 doubts "mean D ≥ m"; m is −δ when None."""
    null = (-design.margin if m is None else m) / design.span
    path = log_wealth(
        side * draws.sums / design.span,
        draws.scored.astype(float),
        draws.sizes.astype(float),
        side * null,
        gap=guessed_gap(design.margin / design.span),
        total=float(design.total) if design.estimand == "frozen" else None,
        cap=float(design.cluster_cap),
    )
    return np.maximum.accumulate(path, axis=-1)


def _validate(draws: Draws, design: Design, levels: tuple[float, float]) -> None:
    if not all(0.0 < level < 1.0 for level in levels):
        raise ValueError(f"levels {levels} must lie in (0, 1)")
    # Written so that NaN, which compares false, is refused too.
    if not np.all(np.abs(draws.sums) <= design.span * draws.scored * (1 + 1e-9)) or np.any(draws.scored > draws.sizes):
        raise ValueError("a difference exceeds the span of its metric, or more pairs are scored than were asked")
    if design.estimand == "frozen" and draws.sizes.sum() > design.total:
        raise ValueError(f"more samples were drawn than the {design.total} of the frozen set")
    if design.estimand == "population" and draws.sizes.max(initial=0) > design.cluster_cap:
        raise ValueError(f"a cluster is larger than the cap of {design.cluster_cap}")


def _first(path: Floats, level: float) -> int | None:
    """Draws until the path reaches its threshold log(1/level)."""
    crossed = path >= -math.log(level)
    return int(np.argmax(crossed)) + 1 if crossed.any() else None


def _earlier(passed: int | None, regressed: int | None) -> tuple[Outcome, int | None]:
    if passed is None and regressed is None:
        return "undecided", None
    if regressed is None or (passed is not None and passed < regressed):
        return "pass", passed
    return "regressed", regressed  # a tie can only come from contradictory data; the safe side wins


def _last(path: Floats) -> float:
    return max(float(path[-1]), 0.0) if len(path) else 0.0  # K starts at 1


def _interval(draws: Draws, design: Design, alpha: float, outcome: Outcome) -> tuple[float, float]:
    span = design.span
    mean = math.fsum(draws.sums) / float(draws.scored.sum())
    threshold = -math.log(alpha)
    # A bound that the outcome has already settled is where the search starts, so that the two never contradict.
    settled = -design.margin
    low = settled if outcome == "pass" and settled < mean else -span
    high = settled if outcome == "regressed" and settled > mean else span
    return _bound(draws, design, 1, low, mean, threshold), _bound(draws, design, -1, high, mean, threshold)


def _bound(draws: Draws, design: Design, side: int, outer: float, inner: float, threshold: float) -> float:
    """End of the set of means that the bets on one side have not ruled out, between `outer` and the mean seen."""
    for _ in range(_BISECTIONS):
        middle = (outer + inner) / 2
        ruled_out = bool(running_log_e(draws, design, side=side, m=middle)[-1] >= threshold)
        outer, inner = (middle, inner) if ruled_out else (outer, middle)
    return outer
