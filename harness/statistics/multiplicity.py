"""Several tests at once."""

from __future__ import annotations

from collections.abc import Sequence


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given; each in [0, 1].

    Anytime-valid p-values (one over the largest e-value so far) may be given at any time: the family-wise error rate
    holds at every stopping time at once.
    """
    if any(not 0.0 <= p <= 1.0 for p in p_values):
        raise ValueError("p-values lie in [0, 1]")
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are rejected with family-wise error rate at most `alpha`."""
    return [p <= alpha for p in holm_adjusted(p_values)]
