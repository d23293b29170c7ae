"""Wealth of a bettor who doubts that a mean is at most m: the test martingale behind every decision.

Notation. D is a sample's oriented difference in units of the metric's span, so |D| ≤ 1. Draws are clusters (singletons
when unclustered) in the committed order; draw t has size n_t (samples asked for), k_t ≤ n_t pairs scored on both
sides, and S_t the sum of D over those. N is the number of samples in all clusters, asked or not.

The null "the mean of D over the scored pairs is at most m" says Σ_t Z_t ≤ 0 with Z_t = S_t − m·k_t. A pair that failed
adds nothing to Z: it is not imputed but absent, both from the mean and from the null, and so the number of pairs that
will turn out to be scored need not be known beforehand.

*Frozen.* Clusters are drawn by successive sampling in proportion to size (`ordering`). Given the past, the expectation
of Y_t = Z_t / n_t is (Σ of the Z not yet drawn) / (their samples), which under the null is at most
η_t = −(Z_1 + … + Z_{t−1}) / (N − n_1 − … − n_{t−1}). With singletons this is sampling without replacement (Waudby-Smith
& Ramdas 2020, arXiv 2010.09686, section 5); the weighted form follows Shekhar et al. 2023, arXiv 2305.06884.
*Population.* Clusters are independent draws; Y_t = Z_t / cap and η_t = 0, where no cluster is larger than cap.

Either way K_t = Π_{s ≤ t} (1 + λ_s (Y_s − η_s)) is a non-negative supermartingale under the null when each λ_s ≥ 0 is
chosen before draw s, and P(ever K_t ≥ 1/α) ≤ α (Ville 1939). The null is impossible, K infinite, once η_t falls below
the least value that Y can take.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BOLDEST = 0.95  # share of the wealth that one draw may at most cost
_PRIOR_VARIANCE = 0.08  # of D: 8 % of the samples flip; only the first dozens of bets feel it
_PRIOR_VARIANCE_DRAWS = 6.0
_PRIOR_MEAN_DRAWS = 12.0
_SMALLEST_GAP, _LARGEST_GAP = 0.005, 0.25
_ROUNDING = 1e-9  # of N: above the worst rounding, 1.1e-16 · N², of a sum of N < 9 million floats of size ≤ 1


def guessed_gap(margin: float) -> float:
    """How far above the null −δ the bets expect the mean to lie: δ itself, within reason. Units of the span."""
    return min(max(abs(margin), _SMALLEST_GAP), _LARGEST_GAP)


def log_wealth(
    sums: Floats, scored: Floats, sizes: Floats, m: float, *, gap: float, total: float | None, cap: float
) -> Floats:
    """Log K_t after each draw, shape (…, T) like its inputs, against the null that the mean of D is at most `m`.

    Half of the wealth bets as Kelly would on a mean of m + `gap` (for a margin: on "nothing changed"), half on the
    mean seen so far, both with the variance seen so far: λ = g / (v + g²) for an expected gain g, the maximiser of
    the second-order growth rate. An average of martingales is one, and costs at most log 2 against its better half.

    Args:
        sums: S_t in units of the span.
        scored: k_t.
        sizes: n_t.
        m: the null's mean, in [−1, 1].
        gap: a guess at how far the mean lies above m, > 0; it steers the bets and cannot harm validity.
        total: N for a frozen set, None for a population.
        cap: largest size a cluster can have; used for a population only.
    """
    gains = sums - m * scored
    if total is None:
        y, eta, doubt = gains / cap, np.zeros_like(gains), np.full_like(gains, _ROUNDING)
    else:
        left = total - _before(sizes)
        y, eta, doubt = gains / sizes, -_before(gains) / left, _ROUNDING * total / left
    room = eta + (1.0 + m)  # from the least value that Y can take up to its expectation
    safe = np.where(room > doubt, _BOLDEST / np.maximum(room, doubt), 0.0)
    draws = np.arange(y.shape[-1], dtype=float)
    seen = _before(y)
    variance = _running_variance(y, seen, draws)
    expected = (seen + _PRIOR_MEAN_DRAWS * gap) / (draws + _PRIOR_MEAN_DRAWS)
    halves = [_log_growth(y - eta, level - eta, variance, safe) for level in (gap, expected)]
    wealth = np.logaddexp(*halves) - math.log(2.0)
    impossible = np.maximum.accumulate(room < -doubt, axis=-1)
    return np.where(impossible, np.inf, wealth)


def _before(values: Floats) -> Floats:
    """Sum of everything before each draw: what a bet may know."""
    return np.cumsum(values, axis=-1) - values


def _running_variance(y: Floats, seen: Floats, draws: Floats) -> Floats:
    squares = _before(y * y) - seen * seen / np.maximum(draws, 1.0)
    return (np.maximum(squares, 0.0) + _PRIOR_VARIANCE_DRAWS * _PRIOR_VARIANCE) / (draws + _PRIOR_VARIANCE_DRAWS)


def _log_growth(excess: Floats, expected: Floats, variance: Floats, safe: Floats) -> Floats:
    bets = np.clip(expected / (variance + expected * expected), 0.0, safe)
    return np.cumsum(np.log1p(bets * excess), axis=-1)
