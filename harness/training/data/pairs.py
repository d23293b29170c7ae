"""Preference pairs whose two answers are nearly the same: there is little to prefer, and DPO is known to suffer.

The similarity is Dice's coefficient over the runs of three characters, counted with repetition: twice the shared runs
by all runs, between 0 and 1, in time linear in the texts. One word of five letters changed in an answer of 200
characters leaves it at about 0.96.
"""

from __future__ import annotations

from collections import Counter

from harness.training.data.rows import normalised, strings
from harness.training.objectives import Row

ALIKE = 0.95
_RUN = 3


def similarity(first: str, second: str) -> float:
    """Dice's coefficient of two texts; 1 exactly for texts that are equal up to white space."""
    first, second = normalised(first), normalised(second)
    if first == second:
        return 1.0
    one, other = _runs(first), _runs(second)
    # Texts that differ can consist of the same runs in another order, and are not equal for that.
    return min(2 * (one & other).total() / (one.total() + other.total()), 1.0 - 1e-9)


def answers_alike(row: Row) -> float:
    """How alike `chosen` and `rejected` of a normal preference row are."""
    return similarity("\n".join(strings(row["chosen"])), "\n".join(strings(row["rejected"])))


def _runs(text: str) -> Counter[str]:
    return Counter(text[i : i + _RUN] for i in range(max(1, len(text) - _RUN + 1)))
