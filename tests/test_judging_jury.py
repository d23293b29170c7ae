"""Juries: every combination of votes against the rule written out, failures, escalation, agreement."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from statistics import mean, median
from typing import Any

import krippendorff
import numpy as np
import pytest

from harness.errors import ConfigError
from harness.judging.bias import agreement
from harness.judging.criteria import by_criterion
from harness.judging.kinds import JudgeContext
from harness.judging.kinds.jury import Jury, Options, build
from harness.judging.records import Case, Judgement, PairCase, Usage
from harness.records import Sample

RUBRIC, PAIRWISE = by_criterion(), by_criterion(pairwise=True)
Vote = float | str
"""A value, `abstained` or `failed`."""


class Juror:
    """Says what it is told, case by case, and remembers which cases it was asked about."""

    def __init__(self, name: str, votes: Sequence[Vote], *, pairwise: bool = False) -> None:
        self.name = self.fingerprint = name
        self.votes, self.pairwise, self.asked = votes, pairwise, list[int]()
        self.bounds = PAIRWISE.bounds if pairwise else RUBRIC.bounds
        self.closed = False

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        numbers = [int(case.output) for case in cases]
        self.asked += numbers
        return [self._said(self.votes[n]) for n in numbers]

    def compare(self, pairs: Sequence[PairCase]) -> list[Judgement]:
        return self.grade([pair.first for pair in pairs])

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def close(self) -> None:
        self.closed = True

    def _said(self, vote: Vote) -> Judgement:
        usage = Usage(calls=1, cost=0.5)
        if vote == "failed":
            return Judgement("failed", None, f"{self.name} broke", "timeout", usage)
        if vote == "abstained":
            return Judgement("abstained", None, f"{self.name} cannot tell", None, usage)
        return Judgement("scored", float(vote), f"{self.name} says {vote}", None, usage)


def jury(rows: Sequence[Sequence[Vote]], *, pairwise: bool = False, **options: Any) -> tuple[Jury, list[Juror]]:
    """`rows[case][juror]`."""
    jurors = [Juror(f"j{n}", votes, pairwise=pairwise) for n, votes in enumerate(zip(*rows, strict=True))]
    sections = [{"kind": "served", "model": f"openai/{j.name}"} for j in jurors]
    chosen = Options.model_validate({"judges": sections, **options})
    return Jury(chosen, PAIRWISE if pairwise else RUBRIC, jurors), jurors


def cases(count: int) -> list[Case]:
    return [Case(Sample(str(n), "?"), str(n)) for n in range(count)]


def pairs(count: int) -> list[PairCase]:
    return [PairCase(case, case) for case in cases(count)]


def expected(votes: Sequence[Vote], rule: str, pairwise: bool) -> tuple[str, float | None]:
    """The rule, written out once more."""
    values = [float(v) for v in votes if not isinstance(v, str)]
    quorum = len(votes) // 2 + 1
    if len(values) < quorum:
        return ("failed" if len(values) + votes.count("failed") >= quorum else "abstained"), None
    if rule == "mean":
        return "scored", mean(values)
    if rule == "median":
        return "scored", float(median(values))
    for value, count in Counter(values).items():
        if count > len(values) / 2:
            return "scored", value
    return ("scored", 0.0) if pairwise else ("abstained", None)


@pytest.mark.parametrize("rule", ["majority", "median", "mean"])
def test_every_combination_of_three_votes_on_levels(rule: str) -> None:
    rows = list(itertools.product([0, 1, 4, "abstained", "failed"], repeat=3))
    made, _ = jury(rows, rule=rule)
    found = [(j.state, j.value) for j in made.grade(cases(len(rows)))]
    assert found == [expected(row, rule, False) for row in rows]


@pytest.mark.parametrize("jurors", [2, 3, 4])
def test_every_combination_of_votes_on_pairs(jurors: int) -> None:
    rows = list(itertools.product([-1, 0, 1, "abstained", "failed"], repeat=jurors))
    made, _ = jury(rows, pairwise=True)
    found = [(j.state, j.value) for j in made.compare(pairs(len(rows)))]
    assert found == [expected(row, "majority", True) for row in rows]


def test_a_failure_is_no_vote_for_the_worst_level_and_keeps_its_kind() -> None:
    made, _ = jury([[4, 4, "failed"], [4, "failed", "failed"]], rule="mean")
    first, second = made.grade(cases(2))
    assert first.value == 4
    assert (second.state, second.failure) == ("failed", "timeout")
    assert "1 of 3 judges gave a value, and 2 must; j1 broke" in second.reason
    assert first.usage == Usage(calls=3, cost=1.5)
    assert [j["state"] for j in first.details["jurors"]] == ["scored", "scored", "failed"]


def test_the_last_judge_is_asked_only_where_the_others_do_not_agree() -> None:
    rows: list[list[Vote]] = [
        [3, 3, 0], [3, 4, 1], [3, "abstained", 2], ["failed", 3, "failed"], [2, 3, "abstained"], [0, 0, "failed"],
    ]  # fmt: skip
    made, jurors = jury(rows, escalate=True)
    judged = made.grade(cases(len(rows)))
    assert jurors[2].asked == [1, 2, 3, 4]
    assert [(j.state, j.value) for j in judged] == [
        ("scored", 3), ("scored", 1), ("scored", 2), ("failed", None), ("abstained", None), ("scored", 0),
    ]  # fmt: skip
    assert [j.usage.calls for j in judged] == [2, 3, 3, 3, 3, 2]


def test_a_tolerance_says_what_agreement_is() -> None:
    made, jurors = jury([[3, 4, 0], [2, 4, 0]], escalate=True, tolerance=1)
    assert [j.value for j in made.grade(cases(2))] == [3.5, 0]
    assert jurors[2].asked == [1]


def test_one_cheap_judge_escalates_where_it_has_no_value() -> None:
    made, jurors = jury([[3, 0], ["abstained", 2], ["failed", 1]], escalate=True)
    assert [j.value for j in made.grade(cases(3))] == [3, 2, 1]
    assert jurors[1].asked == [1, 2]


@pytest.mark.parametrize("pairwise", [False, True])
def test_agreement_is_krippendorffs_alpha(pairwise: bool) -> None:
    rng = np.random.default_rng(0)
    values = [-1.0, 0.0, 1.0] if pairwise else [0.0, 1.0, 2.0, 3.0, 4.0]
    rows = []
    for _ in range(60):
        truth = rng.integers(len(values))
        row = [values[int(truth if rng.random() < 0.6 else rng.integers(len(values)))] for _ in range(3)]
        rows.append([v if rng.random() < 0.9 else "failed" for v in row])
    made, _ = jury(rows, pairwise=pairwise)
    judged = made.compare(pairs(60)) if pairwise else made.grade(cases(60))
    ratings = np.array([[np.nan if isinstance(v, str) else v for v in row] for row in rows]).T
    level = "ordinal" if pairwise else "interval"
    reference = krippendorff.alpha(reliability_data=ratings, level_of_measurement=level)
    assert agreement(judged, pairwise=pairwise) == pytest.approx(reference, abs=1e-9)


def test_no_agreement_is_told_where_no_two_judges_spoke() -> None:
    made, _ = jury([[1, "failed"], ["failed", 2]])
    assert agreement(made.grade(cases(2)), pairwise=False) is None
    assert agreement([Judgement("scored", 1.0)], pairwise=False) is None
    alike, _ = jury([[1, 1], [1, 1]])
    assert agreement(alike.grade(cases(2)), pairwise=False) is None


def test_a_jury_is_another_judge_by_its_rule_and_its_judges() -> None:
    rows = [[1, 1, 1]]
    prints = {jury(rows, **o)[0].fingerprint for o in ({}, {"rule": "mean"}, {"quorum": 1}, {"escalate": True})}
    assert len(prints | {jury([[1, 1]])[0].fingerprint}) == 5


def test_closing_closes_every_judge() -> None:
    made, jurors = jury([[1, 1]])
    made.close()
    assert all(juror.closed for juror in jurors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judges": [{"model": "openai/a"}]}, "at least 2"),
        ({"quorum": 3}, "quorum 3 is more than the 2 judges"),
        ({"quorum": 1, "escalate": True}, "quorum says nothing"),
        ({"tolerance": 1}, "set escalate"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    two = [{"model": "openai/a", "api_base": "http://127.0.0.1:9/v1"}, {"model": "openai/b"}]
    with pytest.raises(ValueError, match=message):
        Options.model_validate({"judges": two, **options})


def test_the_same_judge_twice_and_a_mean_of_comparisons_are_refused() -> None:
    one = {"model": "openai/a", "api_base": "http://127.0.0.1:9/v1"}
    with pytest.raises(ConfigError, match=r"judges\.1 is the same judge as judges\.0"):
        build(Options.model_validate({"judges": [one, one]}), RUBRIC, JudgeContext())
    with pytest.raises(ConfigError, match="a comparison has no mean"):
        build(Options.model_validate({"judges": [one, one], "rule": "mean"}), PAIRWISE, JudgeContext())
    with pytest.raises(ConfigError, match=r"judges\.1: unknown key 'modle'"):
        build(Options.model_validate({"judges": [one, {"modle": "x"}]}), RUBRIC, JudgeContext())
