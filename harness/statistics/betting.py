"""Wealth of a bettor who doubts that a mean is at most m: the test martingale behind every decision.

Notation. D is a sample's oriented difference in units of the metric's span, so |D| ≤ 1. Draws are clusters (singletons
when unclustered) in the committed order; draw t has size n_t (samples asked for), k_t ≤ n_t pairs scored on both
sides, and S_t the sum of D over those. N is the number of samples in all clusters, asked or not.

**The null** "the mean of D over the scored pairs is at most m" says Σ_t Z_t ≤ 0 with Z_t = S_t − m·k_t. A pair that
failed adds nothing to Z: it is not imputed but absent, both from the mean and from the null, and so the number of pairs
that will turn out to be scored need not be known beforehand.

*Frozen.* Clusters are drawn by successive sampling in proportion to size (`ordering`). Given the past, the expectation
of Y_t = Z_t / n_t is (Σ of the Z not yet drawn) / (their samples), which under the null is at most
η_t = −(Z_1 + … + Z_{t−1}) / (N − n_1 − … − n_{t−1}), however unequal the clusters are. With singletons this is sampling
without replacement (Waudby-Smith & Ramdas 2020, arXiv 2010.09686, section 5); the weighted form follows Shekhar et al.
2023, arXiv 2305.06884. *Population.* Clusters are independent draws; Y_t = Z_t / cap and η_t = 0, where no cluster is
larger than cap.

Either way K_t = Π_{s ≤ t} (1 + λ_s (Y_s − η_s)) is a non-negative supermartingale under the null when each λ_s ≥ 0 is
chosen before draw s and at most 1 / room_s, where room_s = 1 + m + η_s is how far Y can fall below η; so
P(ever K_t ≥ 1/α) ≤ α (Ville 1939). An average of such products is one too. When even the least values of all that is
left keep Σ Z above 0, the null is impossible and K infinite.

**The stakes** λ approximate Kelly's, which come out well where most D are 0 (ALPHA, arXiv 2201.02707; COBRA, arXiv
2304.01010). They are chosen once, for the null at −δ, and serve every other m after truncation to _BOLDEST / room(m).
That makes K_t(m) fall as m rises: where the truncation does not bind, because Y − η does; where it binds, the factor
is 1 − _BOLDEST + _BOLDEST · (Y + 1 + m) / room, and with y_t = S_t / n_t, κ_t = k_t / n_t and η_t = −p_t + m q_t

    (Y + 1 + m) / room = (1 + y_t + m (1 − κ_t)) / (1 − p_t + m (1 + q_t))

falls because 1 + y_t ≥ 1 − κ_t and 1 − p_t ≤ 1 + q_t (no pair can lose more than 1). So the m that are refuted by some
moment form an interval: its end can be found by bisection, the confidence sequence has its level exactly, and it can
never contradict the test at −δ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BOLDEST = 0.95  # share of the wealth that one draw may at most cost
_ROUNDING = 1e-9  # of N: above the worst rounding, 1.1e-16 · N², of a sum of N < 9 million floats of size ≤ 1
_SMALLEST_GAP, _LARGEST_GAP = 0.005, 0.25

# What the bets believe before they have seen anything, and how many draws that belief weighs. Only speed depends on
# these and on the shares below; they were chosen by simulation over N from 200 to 14,042 and 0 to 30 % flips, where
# the number of draws until a decision changes by no more than 2 % on average if any of them is halved or doubled.
_PRIOR_SQUARE, _PRIOR_SQUARE_DRAWS = 0.06, 20.0  # of D: 6 % of the samples flip
_PRIOR_EDGE_DRAWS = 40.0
_FADING = 2 * math.log(20)
# Wealth that bets on the guessed gap, on three times that gap (clear cases), on the gap seen so far, and by the fading
# stakes of Waudby-Smith & Ramdas, equation 26, which keep the confidence sequence narrowing when no end is near −δ.
_SHARES = (0.6, 0.2, 0.1, 0.1)


@dataclass(frozen=True, slots=True)
class Urn:
    """What is drawn, along one path (T,) or many (R, T); `sizes` may be (T,) for all of them.

    Attributes:
        sums: S_t in units of the span.
        scored: k_t.
        sizes: n_t ≥ 1.
        total: N for a frozen set, None for a population.
        cap: largest size that a cluster can have; used for a population only.
    """

    sums: Floats
    scored: Floats
    sizes: Floats
    total: float | None
    cap: float = 1.0

    @property
    def unit(self) -> Floats | float:
        """What Z is divided by so that it lies within one span of 0."""
        return self.cap if self.total is None else self.sizes

    def mirrored(self) -> Urn:
        """The same draws with the sign of D turned: "mean ≥ −m" becomes "mean ≤ m"."""
        return Urn(-self.sums, self.scored, self.sizes, self.total, self.cap)


@dataclass(frozen=True, slots=True)
class Line:
    """An array that depends on the null's mean: at + m · slope, of shape (…, T)."""

    at: Floats
    slope: Floats

    def __call__(self, m: float) -> Floats:
        """Value at m."""
        value: Floats = self.at + m * self.slope
        return value


@dataclass(frozen=True, slots=True)
class Game:
    """A path with its stakes; `log_wealth` can then be asked for any m.

    Attributes:
        excess: Y − η.
        room: how far Y can fall below η.
        surplus: Σ Z after the draw if all that is left takes its least value; above 0 the null is impossible.
        doubt: rooms up to this size may be rounding errors of 0.
        slack: the same for the surplus.
        stakes: one λ for each of the shares of the wealth, before truncation.
    """

    excess: Line
    room: Line
    surplus: Line
    doubt: Floats
    slack: float
    stakes: tuple[Floats, ...]

    def log_wealth(self, m: float) -> Floats:
        """Log K_t after each draw, (…, T), against "the mean of D is at most m"; +inf once that is impossible."""
        return np.where(self._impossible(m), np.inf, _log_sum(list(self._pots(m))))

    def refutes(self, m: float, alpha: float) -> bool:
        """Whether K_t against "the mean of D is at most m" has reached 1/α on this path, (T,)."""
        threshold = -math.log(alpha)
        if self._impossible(m).any():
            return True
        pots = []
        for pot in self._pots(m):
            if pot.max() >= threshold:  # one pot alone suffices, which saves most of the work of a search over m
                return True
            pots.append(pot)
        # The sum is at most its number of terms times the largest.
        if max(pot.max() for pot in pots) + math.log(len(pots)) < threshold:
            return False
        return bool(_log_sum(pots).max() >= threshold)

    def _impossible(self, m: float) -> npt.NDArray[np.bool_]:
        return self.surplus(m) > self.slack

    def _pots(self, m: float) -> Iterator[Floats]:
        """Log wealth of each pot after each draw, the logarithm of its share included."""
        excess, room = self.excess(m), self.room(m)
        # Where there may be no room nothing is staked: whether the null is still possible decides there.
        most = np.where(room > self.doubt, _BOLDEST / np.maximum(room, self.doubt), 0.0)
        for stake, share in zip(self.stakes, _SHARES, strict=True):
            yield np.cumsum(np.log1p(np.minimum(stake, most) * excess), axis=-1) + math.log(share)


def guessed_gap(margin: float) -> float:
    """How far above the null −δ the bets expect the mean to lie: δ itself, within reason. Units of the span."""
    return min(max(abs(margin), _SMALLEST_GAP), _LARGEST_GAP)


def open_game(urn: Urn, at: float, *, gap: float) -> Game:
    """The game with stakes chosen for the null "mean ≤ at", in [−1, 1], guessing that the mean is at + gap, gap > 0."""
    zeros = np.zeros(urn.sums.shape)
    if urn.total is None:
        # Nothing that is drawn settles what a stream's mean is; only a mean off the scale is impossible.
        pull, rise, surplus = Line(zeros, zeros), np.ones(1), Line(zeros - 1.0, zeros - 1.0)
        doubt, slack = np.full(1, _ROUNDING), _ROUNDING
    else:
        left = urn.total - _before(urn.sizes)
        sums, scored, after = _before(urn.sums), _before(urn.scored), left - urn.sizes
        pull = Line(sums / left, -scored / left)
        surplus = Line(sums + urn.sums - after, -(scored + urn.scored + after))
        # If Z has mean g over the whole urn, then what is left of it lies g·N / left above η.
        rise, doubt, slack = urn.total / left, _ROUNDING * urn.total / left, _ROUNDING * urn.total
    room = Line(1.0 - pull.at, 1.0 - pull.slope)
    excess = Line(urn.sums / urn.unit + pull.at, -urn.scored / urn.unit + pull.slope)
    return Game(excess, room, surplus, doubt, slack, _stakes(urn, at, gap, rise, room(at)))


def log_wealth(
    sums: Floats,
    scored: Floats,
    sizes: Floats,
    m: float,
    *,
    gap: float,
    total: float | None,
    cap: float,
    at: float | None = None,
) -> Floats:
    """Log K_t after each draw, shape (…, T), against the null that the mean of D is at most `m`.

    Args:
        sums: S_t in units of the span.
        scored: k_t.
        sizes: n_t.
        m: the null's mean, in [−1, 1].
        gap: a guess at how far the mean lies above the null, > 0; it steers the bets and cannot harm validity.
        total: N for a frozen set, None for a population.
        cap: largest size that a cluster can have; used for a population only.
        at: the null that the stakes are chosen for; `m` itself when None.
    """
    game = open_game(Urn(sums, scored, sizes, total, cap), m if at is None else at, gap=gap)
    return game.log_wealth(m)


def _stakes(urn: Urn, at: float, gap: float, rise: Floats, room: Floats) -> tuple[Floats, ...]:
    """λ before truncation for each share of the wealth, (…, T); each a function of earlier draws only."""
    gains, shares = urn.sums / urn.unit, urn.scored / urn.unit
    draws = np.arange(gains.shape[-1], dtype=float)
    weight = _before(shares)
    # A population's unit is its largest cluster, not a typical one: half of it to begin with.
    typical = (weight + 0.5) / (draws + 1.0)
    square = _before(gains**2) + _PRIOR_SQUARE * _PRIOR_SQUARE_DRAWS * typical
    square /= draws + _PRIOR_SQUARE_DRAWS
    guess = gap * typical
    seen = (_before(gains) - at * weight + _PRIOR_EDGE_DRAWS * guess) / (draws + _PRIOR_EDGE_DRAWS)
    fading = np.sqrt(_FADING / (square * (draws + 1.0) * np.log(draws + 2.0)))
    edges = (guess, 3.0 * guess, np.maximum(seen, 0.0))
    return (*(_kelly(edge * rise, square, room) for edge in edges), fading)


def _kelly(edge: Floats, square: Floats, room: Floats) -> Floats:
    """Nearly the stake of fastest growth for an expected gain `edge` of Y − η, given the second moment of D.

    The second-order optimum, edge / (square + edge²), stakes too much where few draws lose but a loss takes the whole
    room. For two outcomes, −room and g, the optimum is edge / (square + edge · (room − g)), the second moment being
    that of Y − η; half of the room stands for room − g here.
    """
    stake: Floats = edge / (square + edge * edge + 0.5 * edge * np.maximum(room, 0.0))
    return stake


def _before(values: Floats) -> Floats:
    """Sum of everything before each draw: what a bet may know."""
    sums = np.zeros(values.shape)
    np.cumsum(values[..., :-1], axis=-1, out=sums[..., 1:])
    return sums


def _log_sum(terms: list[Floats]) -> Floats:
    """log Σ exp(term), element by element."""
    top = np.maximum.reduce(terms)
    scaled = np.add.reduce([np.exp(term - top) for term in terms])
    total: Floats = top + np.log(scaled)
    return total
