"""A judge end to end with no stub: a model trained here, served by `transformers serve`, applies our rubrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.judging import evaluate
from harness.judging.bias import position_bias
from harness.judging.building import JudgeSection, build_judge
from harness.judging.kinds import JudgeContext
from harness.judging.records import Case, Judge, PairCase
from harness.judging.rubric import load_rubric
from harness.records import Sample
from tests.tiny_judge import WORDS, make_judge_model, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Options of a judge on the server."""
    model = make_judge_model(tmp_path_factory.mktemp("served") / "tiny-judge")
    with serving(model) as api_base:
        yield {
            "model": f"openai/{model.name}",
            "api_base": api_base,
            "timeout": 60,
            "prices": {"input": 1, "output": 2},
        }


def judge(server: dict[str, Any], name: str, store: Path | None = None) -> Judge:
    return build_judge(JudgeSection(**server), load_rubric(name), JudgeContext(store=store), "judge")


def case(word: str, number: int = 0) -> Case:
    return Case(Sample(f"s{number}", f"Question {number}?", data={"context": "c"}), f"An answer that is {word}.")


def test_a_served_model_grades_by_our_rubric_and_is_remembered(server: dict[str, Any], tmp_path: Path) -> None:
    cases = [case(word, number) for number, word in enumerate(WORDS)]
    graded = judge(server, "helpfulness", tmp_path / "replies.sqlite").grade(cases)
    assert [(j.state, j.value) for j in graded] == [("scored", float(level)) for level in WORDS.values()]
    assert {(j.usage.calls, j.usage.repaired) for j in graded} == {(1, 0)}
    assert all(j.usage.cost for j in graded)
    again = judge(server, "helpfulness", tmp_path / "replies.sqlite").grade(cases)
    assert [j.value for j in again] == [j.value for j in graded]
    assert {(j.usage.calls, j.usage.cached, j.usage.cost) for j in again} == {(0, 1, 0)}


def test_it_compares_in_both_orders_and_has_no_position_bias(server: dict[str, Any]) -> None:
    levels = list(WORDS.items())
    pairs = [PairCase(case(a), case(b)) for a, _ in levels for b, _ in levels]
    judged = judge(server, "preference").compare(pairs)
    assert [j.value for j in judged] == [float((b > a) - (b < a)) for _, a in levels for _, b in levels]
    # The same text is never sent; and the turned order of one pair here is the straight order of another.
    assert sum(j.usage.calls for j in judged) == 25 - 5
    assert position_bias(judged).bias == 0


def test_one_call_from_a_notebook(server: dict[str, Any]) -> None:
    given = {"model": server["model"], "api_base": server["api_base"], "options": {"prices": server["prices"]}}
    said = evaluate("faithfulness", output="It is superb.", context="It is.", **given)
    assert (said.state, said.value, said.reason) == ("scored", 5.0, "The answer is worth 5.")
    assert said.cost
    better = evaluate("preference", output="superb", against="lacking", prompt="?", **given)
    assert better.value == 1


def test_a_model_that_the_server_does_not_have_is_a_failure_and_no_score(server: dict[str, Any]) -> None:
    section = JudgeSection(**{**server, "model": "openai/another", "retries": 0})
    (said,) = build_judge(section, load_rubric("helpfulness"), JudgeContext(), "judge").grade([case("superb")])
    assert (said.state, said.value, said.failure) == ("failed", None, "rejected")
