"""What many candidates on one set cost: a level for each, how lucky the best of them looks, and what may be disclosed

    share    Bonferroni over the candidates that a set is planned for: the errors of all of them together stay below α
    luck     by how much the best of several equal candidates looks better than it is, on average
    climb    the Ladder (Blum and Hardt 2015, arXiv 1502.04585, algorithm 1): what is said of a number moves only when
             it has risen by more than a step, and then only to a multiple of the step

Why not online control of the false discovery rate, by alpha-investing (Foster and Stine 2008) or LORD (Javanmard and
Montanari 2018, arXiv 1603.09000): both win level back with every promotion, and are proved for p-values that are
independent, or valid given the decisions before. Candidates that were tried on one and the same set give p-values that
are neither. The sum of their levels bounds the error whatever their dependence. And what is to be controlled is the
chance that any wrong candidate goes live, not a share of wrong ones among all that ever did.
"""

from __future__ import annotations

import math
from statistics import NormalDist

_NORMAL = NormalDist()  # of the standard library, so that a report needs no scipy


def share(alpha: float, candidates: int) -> float:
    """The level of one of `candidates` (at least 1) that together err with probability at most `alpha` in (0, 1)."""
    if candidates < 1:
        raise ValueError(f"candidates is {candidates}; at least 1 can be planned for")
    return alpha / candidates


def luck(looks: int, error: float) -> float:
    """Mean of the largest of `looks` independent normal deviations of standard error `error`, in its unit.

    By Blom's (1958) approximation Φ⁻¹((n − 3/8) / (n + 1/4)). It is for candidates that did not learn from each
    other's numbers; one that did can be luckier, up to about √looks errors.
    """
    return 0.0 if looks < 2 else _NORMAL.inv_cdf((looks - 0.375) / (looks + 0.25)) * error


def standard_error(interval: tuple[float, float], confidence: float) -> float:
    """The standard error behind a normal interval of level `confidence`; a t interval of many samples is nearly one."""
    return (interval[1] - interval[0]) / 2 / _NORMAL.inv_cdf((1 + confidence) / 2)


def climb(best: float, observed: float, step: float) -> float:
    """The next rung: `observed` to the nearest multiple of `step` where it lies above `best` by more than `step`."""
    if not observed > best + step:
        return best
    return round(math.floor(observed / step + 0.5) * step, 12)
