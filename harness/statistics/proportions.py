"""Exact bounds on a proportion."""

from __future__ import annotations


def proportion_lower_bound(successes: int, trials: int, *, confidence: float) -> float:
    """One-sided lower confidence bound on a binomial proportion (Clopper & Pearson 1934), in [0, 1].

    Args:
        successes: events seen, 0 ≤ successes ≤ trials.
        trials: independent observations, ≥ 1.
        confidence: e.g. 0.95; the bound exceeds the true proportion with probability ≤ 1 − confidence.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is not a proportion")
    if successes == 0:
        return 0.0
    from scipy.special import betaincinv  # not at the top: scipy.special is not needed to start the program

    return float(betaincinv(successes, trials - successes + 1, 1 - confidence))
