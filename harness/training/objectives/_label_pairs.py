"""Preference rows from answers that nobody has compared: a pairwise judge compares them, in both orders.

A judge that prefers whichever answer comes first says nothing about the answers. A pair is labelled where both orders
name the same answer; the rest is counted by why it is not. How often the judge contradicts itself towards the first or
the second place is its position bias.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import ConfigError, DataError, SubjectError
from harness.judging.records import Case, Judge, Judgement, PairCase
from harness.records import Message, Sample
from harness.training.objectives import Row
from harness.training.objectives._rewards import plain

Outcome = Literal["first", "second", "tie", "prefers_first_place", "prefers_second_place", "half_a_tie", "failed"]

_AT_ONCE = 256  # pairs between two words on how far it is


@dataclass(frozen=True, slots=True)
class Labelled:
    """Rows of kind preference, and how the judge came to them.

    `outcomes[i]` is what was found for the i-th pair given: an answer that is better in both orders, a tie in both, a
    choice by place (the same place twice), a tie in one order only, or no judgement (it failed, or the judge cannot
    tell).
    """

    rows: tuple[dict[str, Any], ...]
    outcomes: tuple[Outcome, ...]

    def count(self, outcome: Outcome) -> int:
        """How often."""
        return self.outcomes.count(outcome)

    @property
    def position_bias(self) -> float:
        """Choices of the first place less those of the second, as a share of pairs judged in both orders; −1 to 1."""
        judged = len(self.outcomes) - self.count("failed")
        return (self.count("prefers_first_place") - self.count("prefers_second_place")) / judged if judged else 0.0

    @property
    def consistent(self) -> float:
        """Share of pairs judged in both orders that were judged alike."""
        judged = len(self.outcomes) - self.count("failed")
        return sum(o in ("first", "second", "tie") for o in self.outcomes) / judged if judged else 0.0


def labelled(
    rows: Sequence[Row], judge: Judge, max_failures: float = 0.05, told: Callable[[int, int], None] | None = None
) -> Labelled:
    """Compare `answers`, two in each row, to its `prompt`; texts, or lists of messages throughout.

    `told` is called with the number of pairs judged so far, and of all.

    Raises:
        ConfigError: the judge does not compare.
        DataError: a row without two different answers, or no pair that the judge decided.
        SubjectError: a greater share of judgements than `max_failures` could not be had.
    """
    if not judge.pairwise:
        raise ConfigError(f"judge {judge.name!r} grades one answer; pairs are labelled by one that compares two")
    pairs = [_pair(number, row) for number, row in enumerate(rows)]
    cases = [_case(number, row, pair) for number, (row, pair) in enumerate(zip(rows, pairs, strict=True))]
    judged: list[Judgement] = []
    for start in range(0, len(cases), _AT_ONCE):
        judged += judge.compare(cases[start : start + _AT_ONCE])
        if told is not None:
            told(len(judged), len(cases))
    outcomes = tuple(_outcome(judgement) for judgement in judged)
    failed = outcomes.count("failed")
    if failed > max_failures * len(rows):
        why = Counter(judgement.reason for judgement in judged if judgement.value is None).most_common(1)[0]
        raise SubjectError(
            f"the judge gave no judgement on {failed} of {len(rows)} pairs ({why[1]} times: {why[0]}). What it has "
            "judged is remembered; mend it and label again"
        )
    made = [_row(row, pair, outcome) for row, pair, outcome in zip(rows, pairs, outcomes, strict=True)]
    decided = tuple(row for row in made if row is not None)
    if not decided:
        raise DataError(f"of {len(rows)} pairs the judge decided none the same way in both orders")
    return Labelled(decided, outcomes)


def _pair(number: int, row: Row) -> tuple[Any, Any]:
    answers = row.get("answers")
    if not row.get("prompt") or not isinstance(answers, list | tuple) or len(answers) != 2:
        raise DataError(f"row {number} needs a prompt and two answers")
    if answers[0] == answers[1]:
        raise DataError(f"row {number}: its two answers are the same, so there is nothing to prefer")
    return answers[0], answers[1]


def _case(number: int, row: Row, pair: tuple[Any, Any]) -> PairCase:
    prompt = row["prompt"]
    spoken = () if isinstance(prompt, str) else tuple(Message(m["role"], m["content"]) for m in prompt)
    sample = Sample(f"row {number}", plain(prompt), messages=spoken)
    return PairCase(Case(sample, plain(pair[0])), Case(sample, plain(pair[1])))


def _outcome(judgement: Judgement) -> Outcome:
    if judgement.value is None:
        return "failed"
    if judgement.value:
        return "first" if judgement.value < 0 else "second"
    orders = judgement.details.get("orders")
    if orders is None:  # a judge without orders, such as a reward model
        return "tie"
    straight, turned = orders["straight"]["value"], orders["turned"]["value"]
    if straight == turned:
        return "tie"
    if 0 in (straight, turned):
        return "half_a_tie"
    return "prefers_first_place" if straight < 0 else "prefers_second_place"


def _row(row: Row, pair: tuple[Any, Any], outcome: Outcome) -> dict[str, Any] | None:
    if outcome not in ("first", "second"):
        return None
    chosen, rejected = pair if outcome == "first" else pair[::-1]
    return {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}
