"""Drift: positions by hand, the divergence against the full one, and nothing infinite at the ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import drift
from harness.drift import AnswerDrift
from harness.records import Output


def said(*ids: int, p: float = 0.5, ties: int = 0) -> Output:
    return Output(text="x", ids=ids, logprobs=(math.log(p),) * len(ids), near_ties=ties)


@pytest.mark.parametrize(
    ("ours", "theirs", "divergence", "agreed", "compared"),
    [
        ((1, 2, 3), (1, 2, 3), None, 3, 3),
        ((1, 2, 3), (1, 2, 4), 2, 2, 3),
        ((9, 2, 3), (1, 2, 3), 0, 0, 1),
        ((1, 2), (1, 2, 3), 2, 2, 3),
        ((1, 2, 3), (1, 2), 2, 2, 3),
    ],
)
def test_the_first_difference_is_found(
    ours: tuple[int, ...], theirs: tuple[int, ...], divergence: int | None, agreed: int, compared: int
) -> None:
    found = drift.compare(said(*ours), said(*theirs))
    assert found is not None
    assert (found.divergence, found.agreed, found.compared) == (divergence, agreed, compared)
    assert found.generated == len(theirs)
    assert found.kl == 0.0


def test_without_tokens_nothing_is_compared() -> None:
    assert drift.compare(Output(failure="too long"), said(1)) is None
    assert drift.compare(said(1), Output(text="x")) is None
    known = drift.compare(Output(text="x", ids=(1, 2)), said(1, 2))
    assert known is not None
    assert known.kl is None


def test_a_near_tie_is_possible_only_where_the_answers_differ() -> None:
    same, other = drift.compare(said(1, ties=1), said(1)), drift.compare(said(1), said(2, ties=1))
    assert same is not None
    assert other is not None
    assert (same.near_ties, same.maybe_tie) == (1, False)
    assert (other.near_ties, other.maybe_tie) == (1, True)


def test_the_divergence_is_summed_over_what_agrees() -> None:
    ours = Output(text="x", ids=(1, 2, 3), logprobs=(math.log(0.9), math.log(0.8), math.log(0.7)))
    theirs = Output(text="x", ids=(1, 2, 4), logprobs=(math.log(0.6), math.log(0.8), math.log(0.1)))
    found = drift.compare(ours, theirs)
    assert found is not None
    assert found.kl == pytest.approx(0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4), rel=1e-12)


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=8), st.lists(st.floats(1e-6, 1), min_size=8, max_size=8))
def test_it_is_never_more_than_the_divergence_of_the_whole_vocabulary(one: list[float], two: list[float]) -> None:
    p, q = np.array(one) / sum(one), np.array(two[: len(one)]) / sum(two[: len(one)])
    whole = float(np.sum(p * np.log(p / q)))
    for a, b in zip(p, q, strict=True):
        assert drift.partition_kl(math.log(a), math.log(b)) <= whole + 1e-9


ENDS = (0.0, -1e-300, -1e-9, -1e-7, -0.1, -math.log(2), -20.0, -1e4, -math.inf)


@pytest.mark.parametrize("ours", ENDS)
@pytest.mark.parametrize("theirs", ENDS)
def test_certainty_and_impossibility_give_a_finite_number(ours: float, theirs: float) -> None:
    found = drift.partition_kl(ours, theirs)
    assert math.isfinite(found)
    assert found >= 0
    if ours == theirs:
        assert found == 0
    p, q = math.exp(ours), math.exp(theirs)
    if 0 < p < 1 and 0 < q < 1:  # moving the ends must not raise it
        exact = p * (ours - theirs) + -math.expm1(ours) * math.log(math.expm1(ours) / math.expm1(theirs))
        assert found <= exact + 1e-9


def test_a_suite_is_summed_up() -> None:
    answers = [
        AnswerDrift(None, 10, 10, 0.5, 1),
        AnswerDrift(2, 2, 8, 0.1, 0),
        AnswerDrift(4, 4, 9, None, 2),
        AnswerDrift(8, 8, 9, 0.0, 0),
    ]
    found = drift.summarise("sums", answers)
    assert (found.answers, found.identical) == (4, 1)
    assert found.divergence == (3.0, 4.0, 6.0)
    assert (found.agreed, found.generated) == (24, 36)
    assert found.kl == pytest.approx(0.6 / 20)
    assert (found.near_ties, found.maybe_ties) == (3, 1)
    alike = drift.summarise("sums", answers[:1])
    assert alike.divergence is None
    assert drift.summarise("sums", [AnswerDrift(0, 0, 3, 0.0, 0)]).kl is None
