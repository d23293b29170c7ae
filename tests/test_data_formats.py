"""Each format is told by its columns, converted, and held to; what is wrong is said with its line."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from harness.errors import DataError
from harness.training.data.formats import EmptyRow, Normaliser
from harness.training.data.reading import Origin
from harness.training.objectives import RowKind

ALL: frozenset[RowKind] = frozenset(get_args(RowKind))
USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
OTHER = {"role": "assistant", "content": "B"}


def normalise(*rows: dict[str, Any], accepted: frozenset[RowKind] = ALL, chat: bool = True) -> Any:
    normaliser = Normaliser(accepted, chat)
    found = [normaliser.row(Origin("f.jsonl", number), row) for number, row in enumerate(rows, 1)]
    assert normaliser.shape is not None
    return normaliser.shape, found[-1]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"text": "x"}, "text"),
        ({"messages": [USER, ANSWER]}, "messages"),
        ({"prompt": "Q", "completion": "A"}, "completion"),
        ({"prompt": [USER], "completion": [ANSWER]}, "completion"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "preference"),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}, "preference"),
        ({"prompt": "Q", "completion": "A", "label": True}, "labelled"),
        ({"prompt": "Q", "solution": "42"}, "prompt"),
        ({"text": "x", "label": "good"}, "class"),
    ],
)
def test_a_native_row_stays_as_it_is(row: dict[str, Any], kind: RowKind) -> None:
    shape, found = normalise(row)
    assert (shape.kind, shape.foreign, found) == (kind, False, row)


CHAT = {"prompt": [USER], "completion": [ANSWER]}
PLAIN = {"prompt": "Q", "completion": "A"}


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Q", "input": "", "output": "A"},
        {"instruction": "Q", "response": "A", "context": None},
        {"question": "Q", "answer": "A"},
        {"question": "Q", "response": "A"},
        {"prompt": "Q", "response": "A"},
        {"query": "Q", "answer": "A"},
        {"input": "Q", "target": "A"},
        {"input": "Q", "output": "A"},
        {"source": "Q", "target": "A"},
        {"inputs": "Q", "targets": "A"},
    ],
)
def test_a_question_and_its_answer_become_turns_or_texts(row: dict[str, Any]) -> None:
    shape, found = normalise(row)
    assert (shape.kind, shape.foreign, found) == ("completion", True, CHAT)
    assert normalise(row, chat=False)[1] == PLAIN


def test_input_and_system_of_an_instruction_are_kept() -> None:
    row = {"instruction": "Sum up.", "input": "A story.", "output": "S", "system": "Be brief."}
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sum up.\n\nA story."}]
    assert normalise(row)[1]["prompt"] == turns
    assert normalise(row, chat=False)[1]["prompt"] == "Be brief.\n\nSum up.\n\nA story."


def test_sharegpt_becomes_messages() -> None:
    said = [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    shape, found = normalise({"conversations": said})
    assert (shape.name, shape.foreign) == ("ShareGPT", True)
    assert found == {"messages": [{"role": "system", "content": "S"}, USER, ANSWER]}


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"prompt": "Q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"prompt": "Q", "chosen": [ANSWER], "rejected": [OTHER]},
        {"prompt": [USER], "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"question": "Q", "chosen": "A", "rejected": "B"},
        {"conversations": [{"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "A"},
         "rejected": {"from": "gpt", "value": "B"}},
    ],
)  # fmt: skip
def test_preferences_lose_the_prompt_that_the_answers_repeat(row: dict[str, Any]) -> None:
    assert normalise(row)[1] == {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}


def test_a_system_turn_that_only_the_answers_have_goes_to_the_prompt() -> None:
    system = {"role": "system", "content": "S"}
    row = {"prompt": "Q", "chosen": [system, USER, ANSWER], "rejected": [system, USER, OTHER]}
    assert normalise(row)[1]["prompt"] == [system, USER]


def test_equal_answers_keep_their_last_turn() -> None:
    found = normalise({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]})[1]
    assert found == {"prompt": [USER], "chosen": [ANSWER], "rejected": [ANSWER]}


def test_a_dialogue_written_as_text_is_split_at_the_last_answer() -> None:
    start = "\n\nHuman: Q\n\nAssistant:"
    found = normalise({"chosen": f"{start} A", "rejected": f"{start} B"})[1]
    assert found == {"prompt": start, "chosen": " A", "rejected": " B"}


def test_what_the_objective_accepts_decides_between_readings() -> None:
    row = {"text": "x", "label": "good"}
    assert normalise(row, accepted=frozenset({"text"}))[0].kind == "text"
    assert normalise(row, accepted=frozenset({"class"}))[0].kind == "class"
    assert normalise(PLAIN, accepted=frozenset({"prompt"}))[1] == PLAIN


def test_unused_columns_are_known() -> None:
    normaliser = Normaliser(ALL, True)
    normaliser.row(Origin("f", 1), {"text": "x", "id": 3})
    assert normaliser.unused == {"id"}


def test_a_content_in_parts_is_joined_and_tool_calls_are_kept() -> None:
    calls = [{"function": {"name": "f", "arguments": "{}"}}]
    said = [{"role": "user", "content": [{"type": "text", "text": "Q"}]},
            {"role": "assistant", "content": None, "tool_calls": calls}]  # fmt: skip
    expected = [USER, {"role": "assistant", "content": "", "tool_calls": calls}]
    assert normalise({"messages": said})[1]["messages"] == expected


@pytest.mark.parametrize(("given", "flag"), [(0, False), (1, True), (True, True)])
def test_a_label_of_a_completion_is_true_or_false(given: Any, flag: bool) -> None:
    assert normalise({**PLAIN, "label": given})[1]["label"] is flag


def test_a_whole_number_is_the_name_of_a_class() -> None:
    assert normalise({"text": "x", "label": 3})[1]["label"] == "3"


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"a": "x"}], r"f\.jsonl:1: no known format has the columns a; .*\{prompt: a\}.*preference \("),
        ([PLAIN, {"prompt": "Q"}], r"f\.jsonl:2: column completion is missing; f\.jsonl:1 is of format completion"),
        ([PLAIN, {"a": "Q"}], r"f\.jsonl:2: column completion, prompt is missing"),
        (
            [PLAIN, {"messages": [USER, ANSWER]}],
            r"mixed formats: f\.jsonl:2 is of format messages .* f\.jsonl:1 of format completion",
        ),
        ([PLAIN, {**PLAIN, "label": True}], r"mixed formats: f\.jsonl:2 is of format labelled"),
        ([PLAIN, CHAT], r"mixed formats: f\.jsonl:2 has lists of messages where f\.jsonl:1 has texts"),
        ([{"text": 3}], r"f\.jsonl:1: text must be a text, not int 3"),
        ([{"text": "\ud800"}], "surrogate"),
        ([{"messages": "x"}], "messages must be a list of messages, not str"),
        ([{"messages": [3]}], r"messages\[0\] must hold role and content"),
        ([{"messages": [{"content": "x"}]}], r"messages\[0\] has no role"),
        ([{"messages": [{"role": "asistant", "content": "x"}]}], "did you mean 'assistant'"),
        ([{"messages": [{"role": "user", "content": [{"type": "image"}]}]}], "part of type 'image'"),
        ([{"messages": [USER]}], "no turn of the assistant"),
        ([{"prompt": "Q", "completion": [ANSWER]}], "one of prompt and completion is a text"),
        ([{"prompt": "Q", "chosen": "A", "rejected": [OTHER]}], "one of chosen and rejected is a text"),
        ([{"prompt": [USER], "chosen": "A", "rejected": "B"}], "prompt is a list of messages"),
        ([{"chosen": "A", "rejected": "B"}], "column prompt is missing"),
        ([{"chosen": [ANSWER], "rejected": [OTHER]}], "there is no prompt"),
        ([{"chosen": [USER, ANSWER], "rejected": [USER, ANSWER, OTHER]}], "only the beginning of the other"),
        ([{**PLAIN, "label": "yes"}], "label must be true or false"),
        ([{**PLAIN, "label": 0.0}], "label must be true or false"),
        ([{"text": "x", "label": 0.5}], "label must be the name of a class"),
    ],
)
def test_a_wrong_row_is_an_error_with_its_line(rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(DataError, match=says):
        normalise(*rows)


def test_rows_of_a_kind_that_the_objective_does_not_read_are_refused() -> None:
    with pytest.raises(DataError, match=r"f\.jsonl:1: these are class rows .* learns from preference rows"):
        normalise({"text": "x", "label": "y"}, accepted=frozenset({"preference"}))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": None}, "text is null"),
        ({"text": " \n"}, "text is empty"),
        ({"prompt": "Q", "completion": ""}, "completion is empty"),
        ({"messages": []}, "messages holds no message"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, r"messages\[1\]\.content is empty"),
        ({"text": "x", "label": None}, "label is null"),
        ({**PLAIN, "label": None}, "label is null"),
    ],
)
def test_an_empty_row_is_told_from_a_wrong_one(row: dict[str, Any], says: str) -> None:
    with pytest.raises(EmptyRow, match=says):
        normalise(row)
