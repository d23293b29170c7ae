"""What is reported beside a decision: fixed-sample paired interval, flips, McNemar, chance-centred forgetting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_EQUAL = 1e-12  # scores closer than this did not change


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence limits, in score points."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Flips:
    """How many pairs got worse (1→0 for a binary metric) and better (0→1)."""

    lost: int
    won: int


def paired_interval(differences: Floats, *, confidence: float) -> Interval:
    """Student's t interval for the mean of independent paired differences, (n,) with n ≥ 2.

    Miller 2024, arXiv 2411.00640, section 4. Valid at a fixed n only, not under repeated looks.
    """
    n = len(differences)
    if n < 2:
        raise ValueError(f"an interval needs at least two differences, not {n}")
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    return t_interval(float(np.mean(differences)), error, n - 1, confidence)


def t_interval(estimate: float, error: float, freedom: int, confidence: float) -> Interval:
    """Two-sided interval from a standard error with `freedom` degrees of freedom."""
    from scipy.special import stdtrit  # not at the top: it is not needed to start the program

    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return Interval(estimate, estimate - half, estimate + half)


def flips(change: Floats) -> Flips:
    """Counts of pairs whose difference, oriented so that higher is better, is below or above 0."""
    return Flips(int(np.sum(change < -_EQUAL)), int(np.sum(change > _EQUAL)))


def mcnemar_exact(lost: int, won: int) -> float:
    """Two-sided exact McNemar p-value: a flip goes either way with equal chance (McNemar 1947); 1 without flips."""
    from scipy.special import bdtr

    flipped = lost + won
    return min(1.0, 2.0 * float(bdtr(min(lost, won), flipped, 0.5))) if flipped else 1.0


def chance_centred_forgetting(lost: int, won: int, n: int, chance: float) -> float:
    """Share of samples whose answer is no longer known, net of those newly known, guessing taken out; at least 0.

    A model that knows nothing and guesses twice loses chance·(1−chance) of the samples by luck. When the guessing
    part of both answers is independent, luck adds as much to the lost as to the won and cancels in their difference;
    a known answer shows with probability 1 and an unknown one with probability `chance`, so dividing by 1 − chance
    gives (forgotten − learnt) on the scale of knowledge (after arXiv 2510.17776).

    Args:
        lost: pairs 1→0.
        won: pairs 0→1.
        n: pairs, > 0.
        chance: score of a guesser, in [0, 1).
    """
    if n < 1 or not 0.0 <= chance < 1.0:
        raise ValueError(f"n = {n}, chance = {chance}")
    return max(0.0, (lost - won) / n / (1.0 - chance))
