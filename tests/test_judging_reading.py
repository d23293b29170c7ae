"""Reading a judge's reply: what is a judgement, and what is none however much it looks like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.judging.prompting import question
from harness.judging.reading import read, repair_question
from harness.judging.rubric import Rubric
from tests.judging_example import case, pair_rubric, rubric


@pytest.fixture
def made(tmp_path: Path) -> Rubric:
    return rubric(tmp_path, abstain=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"reason": "ok", "score": 3}', 3), ('  {"score": 1, "reason": "ok"}\n', 1),
        ('```json\n{"reason": "ok", "score": 2}\n```', 2), ('```\n{\n "reason": "ok",\n "score": 2\n}\n```', 2),
        ('<think>The answer says {"score": 3}. No.</think>\n\n{"reason": "ok", "score": 1}', 1),
        ('thinking aloud </think>{"reason": "ok", "score": 1}', 1), ('{"score": 2}', 2),
    ],
)  # fmt: skip
def test_a_verdict_in_the_form_that_was_asked_for_is_read(text: str, value: int, made: Rubric) -> None:
    found = read(made, text)
    assert (found.state, found.value, found.problem, found.failure) == ("scored", value, "", None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"reason": "ok", "score": 4}', "none of"), ('{"reason": "ok", "score": 0}', "none of"),
        ('{"reason": "ok", "score": "3"}', "none of"), ('{"reason": "ok", "score": "3/3"}', "none of"),
        ('{"reason": "ok", "score": 3.0}', "none of"), ('{"reason": "ok", "score": 3.0001}', "none of"),
        ('{"reason": "ok", "score": true}', "none of"), ('{"reason": "ok", "score": null}', "none of"),
        ('{"reason": "ok", "score": [3]}', "none of"), ('{"reason": "ok", "score": {"score": 3}}', "none of"),
        ('{"reason": "ok", "score": NaN}', "not one JSON"), ('{"reason": "ok", "score": 1e0}', "none of"),
        ('{"reason": "ok", "score": ' + "9" * 9000 + "}", "not one JSON"), ('{"score": 1, "score": 3}', "given twice"),
        ('{"reason": "ok"}', '"score" is missing'), ('{"Score": 3}', '"score" is missing'),
        ('{"reason": "ok", "score": 3, "better": "A"}', "keys besides"), ('{"reason": 5, "score": 3}', "is no text"),
        ('I think: {"reason": "ok", "score": 3}', "text around"), ('{"score": 3} is my verdict.', "text around"),
        ('Here:\n```json\n{"score": 3}\n```', "text around"), ('{"score": 1}\n{"score": 3}', "not one JSON"),
        ('```json\n{"score": 1}\n```\n```json\n{"score": 3}\n```', "text around"), ('[{"score": 3}]', "no object"),
        ('"3"', "no object"), ("3", "no object"), ("Score: 3", "not one JSON"), ("3/3", "not one JSON"),
        ("[[3]]", "no object"), ('{"score": 3', "not one JSON"), ("{'score': 3}", "not one JSON"),
        ('</think>{"score": 3}</think>{"score": 1}', "more than once"), ("{" * 100_000, "not one JSON"),
        ('{"a":' * 100_000, "longer than"), ("\x00", "not one JSON"), ("\ud800", "not one JSON"),
    ],
)  # fmt: skip
def test_whatever_else_is_no_score(text: str, problem: str, made: Rubric) -> None:
    found = read(made, text)
    assert (found.state, found.value, found.failure) == ("failed", None, "unreadable")
    assert problem in found.problem


def test_nothing_is_empty_and_what_was_cut_off_does_not_count_even_where_it_is_whole(made: Rubric) -> None:
    assert read(made, " \n").failure == "empty"
    cut = read(made, '{"reason": "ok", "score": 3}', truncated=True)
    assert (cut.state, cut.value, cut.failure) == ("failed", None, "truncated")


def test_a_judge_abstains_only_where_it_may(made: Rubric, tmp_path: Path) -> None:
    text = '{"reason": "It is cut.", "score": "cannot tell"}'
    found = read(made, text)
    assert (found.state, found.value, found.reason) == ("abstained", None, "It is cut.")
    assert read(rubric(tmp_path), text).state == "failed"
    assert read(made, '{"score": "cannot tell"}').reason


@pytest.mark.parametrize(("said", "value"), [("A", -1), ("B", 1), ("tie", 0)])
def test_a_side_is_read_as_its_sign(said: str, value: int, tmp_path: Path) -> None:
    found = read(pair_rubric(tmp_path), f'{{"reason": "ok", "better": "{said}"}}')
    assert (found.state, found.value) == ("scored", value)


@pytest.mark.parametrize("said", ['"a"', '"C"', "1", "0", '"A "', '"Tie"', "null", '"cannot tell"', '["A"]'])
def test_what_is_no_side_is_no_judgement(said: str, tmp_path: Path) -> None:
    assert read(pair_rubric(tmp_path), f'{{"reason": "ok", "better": {said}}}').state == "failed"


def test_a_reason_is_bounded_and_made_visible(made: Rubric) -> None:
    found = read(made, '{"reason": "' + "a" * 50_000 + '", "score": 3}')
    assert len(found.reason) == 4000
    assert read(made, '{"reason": "a\\u202eb\\ud800", "score": 3}').reason == "a⟨U+202E⟩b⟨U+D800⟩"


def test_a_repair_shows_what_was_said_and_asks_for_the_form_alone(made: Rubric) -> None:
    asked = question(made, case())
    repair = repair_question(asked, "I say 3!<|im_end|>", read(made, "I say 3!").problem)
    assert repair.messages[:2] == asked.messages
    assert [m.role for m in repair.messages[2:]] == ["assistant", "user"]
    assert repair.messages[2].content == "I say 3!‹|im_end|>"
    assert "the reply is not one JSON object" in repair.messages[3].content
    assert '"required": ["reason", "score"]' in repair.messages[3].content
    assert (repair.schema, repair.seed, repair.max_tokens) == (asked.schema, asked.seed, asked.max_tokens)


def test_a_repair_of_nothing_or_of_too_much_is_a_question_all_the_same(made: Rubric) -> None:
    asked = question(made, case())
    assert repair_question(asked, "  ", "the reply is empty").messages[2].content == "(nothing)"
    assert len(repair_question(asked, "x" * 10**6, "too long").messages[2].content) < 10_000
