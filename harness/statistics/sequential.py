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
from harness.statistics.betting import Game, Urn, guessed_gap, open_game

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_RESOLUTION = 5e-5  # of the span: how far outside its exact place an end of the interval may lie
_TIE = 1e-12  # a mean this close to −δ, relative to the sums involved, is on it


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
    passing, blocking = (Side.of(draws, design, sign) for sign in (1, -1))
    rising, falling = passing.running_log_e(), blocking.running_log_e()
    outcome, decided_at = _earlier(_first(rising, alpha), _first(falling, block_alpha))
    log_e = (_last(rising), _last(falling))
    if complete and design.estimand == "frozen":
        mean, truth = _known(draws, design)
        when = decided_at if outcome == truth else len(draws.sums)
        return SequentialResult(truth, when, *log_e, (mean, mean))
    # The running sequence may have left the present mean behind; widening it to the mean costs no coverage.
    mean = math.fsum(draws.sums) / int(draws.scored.sum())
    interval = (min(passing.bound(alpha), mean), max(blocking.bound(alpha), mean))
    return SequentialResult(outcome, decided_at, *log_e, interval)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two bettors: sign 1 doubts "mean D ≤ m", sign −1 doubts "mean D ≥ m", in the first place for m = −δ.

    `null` is sign · m in units of the span, so that both doubt "mean ≤ null" of the turned differences.
    """

    game: Game
    null: float
    sign: int
    span: float

    @classmethod
    def of(cls, draws: Draws, design: Design, sign: int) -> Side:
        """The bettor on `draws`, whose arrays may also be (R, T)."""
        null = -sign * design.margin / design.span
        total = float(design.total) if design.estimand == "frozen" else None
        sums, scored, sizes = sign * draws.sums / design.span, draws.scored.astype(float), draws.sizes.astype(float)
        urn = Urn(sums, scored, sizes, total, float(design.cluster_cap))
        return cls(open_game(urn, null, gap=guessed_gap(null)), null, sign, design.span)

    def running_log_e(self, m: float | None = None) -> Floats:
        """(…, T) running maximum of log K against the null at m score points; at −δ when None."""
        null = self.null if m is None else self.sign * m / self.span
        return np.maximum.accumulate(self.game.log_wealth(null), axis=-1)

    def bound(self, alpha: float) -> float:
        """End of the confidence sequence in score points: the last m that is refuted at level `alpha`.

        Wealth falls as m rises (see `betting`), so bisection finds it. The null at −δ is the first one asked, which
        keeps the bound and the outcome on the same side of −δ to the last digit.
        """
        refutes = self.game.refutes
        null = min(max(self.null, -1.0), 1.0)
        low, high = (null, 1.0) if refutes(null, alpha) else (-1.0, null)
        while high - low > _RESOLUTION:
            middle = (low + high) / 2
            low, high = (middle, high) if refutes(middle, alpha) else (low, middle)
        return self.sign * self.span * low


def running_log_e(draws: Draws, design: Design, *, side: int, m: float | None = None) -> Floats:
    """(…, T) running maximum of log K. `side` 1 doubts "mean D ≤ m", −1 doubts "mean D ≥ m"; m is −δ when None."""
    return Side.of(draws, design, side).running_log_e(m)


def _known(draws: Draws, design: Design) -> tuple[float, Outcome]:
    """Mean and outcome of a frozen set of which every pair was seen."""
    allowed = design.margin * int(draws.scored.sum())
    sums = draws.sums.tolist()
    scale = math.fsum(abs(value) for value in sums) + abs(allowed)
    above = math.fsum([*sums, allowed]) > _TIE * scale
    return math.fsum(sums) / int(draws.scored.sum()), "pass" if above else "regressed"


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
