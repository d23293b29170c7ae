"""Deterministic checks outrank a judge: what they decide, nobody is asked about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.judging.checks import unasked, unasked_pair
from harness.judging.records import Case, PairCase
from harness.judging.rubric import load_rubric
from harness.records import Sample
from tests.judging_example import case, pair_rubric, rubric

SHORT = {"metric": "regex", "options": {"pattern": r".{1,10}", "mode": "fullmatch"}}


def test_without_checks_the_judge_is_asked(tmp_path: Path) -> None:
    assert unasked(rubric(tmp_path), case()) is None


def test_what_fails_a_check_gets_the_worst_level_and_a_reason(tmp_path: Path) -> None:
    made = rubric(tmp_path, checks=[SHORT])
    found = unasked(made, case("much too long an answer"))
    assert found is not None
    assert (found.state, found.value) == ("scored", 1)
    assert found.reason == "not asked: check regex failed with 0"
    assert found.usage.calls == 0
    assert unasked(made, case("short")) is None


def test_what_passes_a_check_may_get_the_best_level(tmp_path: Path) -> None:
    made = rubric(tmp_path, checks=[{"metric": "exact_match", "if_failed": "ask", "if_passed": "best"}])
    found = unasked(made, case("paris"))
    assert found is not None
    assert found.value == 3
    assert unasked(made, case("Rome")) is None


def test_a_threshold_says_what_passes(tmp_path: Path) -> None:
    made = rubric(tmp_path, checks=[{"metric": "token_f1", "threshold": 0.5}])
    assert unasked(made, case("Paris France")) is None
    assert unasked(made, case("the capital called Paris of France")) is not None


def test_the_first_check_that_decides_does(tmp_path: Path) -> None:
    best = {"metric": "exact_match", "if_failed": "ask", "if_passed": "best"}
    worst = {"metric": "regex", "options": {"pattern": "Rome"}}
    found = [unasked(rubric(tmp_path, checks=order), case("Paris")) for order in ([best, worst], [worst, best])]
    assert [judged and judged.value for judged in found] == [3, 1]


def test_a_check_that_cannot_be_made_is_a_failure_and_no_score(tmp_path: Path) -> None:
    made = rubric(tmp_path, checks=[{"metric": "exact_match"}])
    found = unasked(made, case("Paris", Sample("s", "?", data={"context": "c"})))
    assert found is not None
    assert (found.state, found.value, found.failure) == ("failed", None, "unreadable")
    assert "check exact_match could not be made: sample 's' has no target" in found.reason


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [("short", "also short", None), ("short", "far too long for it", -1), ("far too long for it", "short", 1),
     ("far too long for it", "too long for it as well", 0)],
)  # fmt: skip
def test_of_a_pair_who_fails_alone_loses(first: str, second: str, value: float | None, tmp_path: Path) -> None:
    found = unasked_pair(pair_rubric(tmp_path, checks=[SHORT]), PairCase(case(first), case(second)))
    assert (None if found is None else found.value) == value


def test_a_pair_with_a_check_that_cannot_be_made_is_a_failure(tmp_path: Path) -> None:
    sample = Sample("s", "?")
    pair = PairCase(case("a", sample), case("b", sample))
    found = unasked_pair(pair_rubric(tmp_path, checks=[{"metric": "exact_match"}]), pair)
    assert found is not None
    assert found.state == "failed"


MAIL = {
    "type": "object", "required": ["to", "body"], "additionalProperties": False,
    "properties": {"to": {"type": "string"}, "body": {"type": "string", "x-judged": True}},
}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "send_mail", "parameters": MAIL}}]


def mail(**arguments: Any) -> str:
    return json.dumps({"name": "send_mail", "arguments": arguments})


@pytest.mark.parametrize(
    ("output", "value"),
    [
        (mail(to="ada@example.org", body="We meet at nine."), 2),  # equal: nothing is left to judge
        (mail(to="ada@example.org", body="Let us meet at 9."), None),  # only free text differs: the judge is asked
        (mail(to="bob@example.org", body="We meet at nine."), 0),
        (mail(to="ada@example.org"), 0),
        (mail(to="ada@example.org", body=9), 0),
        ("I have sent the mail.", 0),
        (f"[{mail(to='ada@example.org', body='x')}, {mail(to='ada@example.org', body='y')}]", 0),
    ],
)
def test_tool_correctness_asks_a_judge_only_for_what_a_program_cannot_tell(output: str, value: float | None) -> None:
    judge = load_rubric("tool-correctness", Path(__file__).parents[1] / "judges")
    calls = [{"name": "send_mail", "arguments": {"to": "ada@example.org", "body": "We meet at nine."}}]
    found = unasked(judge, Case(Sample("s", "Tell Ada.", data={"tools": TOOLS, "calls": calls}), output))
    assert (None if found is None else found.value) == value


def test_where_no_call_is_expected_nobody_is_asked() -> None:
    judge = load_rubric("tool-correctness", Path(__file__).parents[1] / "judges")
    sample = Sample("s", "Hello", data={"tools": TOOLS, "calls": []})
    judged = [unasked(judge, Case(sample, output)) for output in ("Hello!", mail(to="a", body="b"))]
    assert [j and j.value for j in judged] == [2, 0]
