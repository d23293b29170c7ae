"""The metric of tool calls: what counts as a call, as the same call, and as a fault of the sample."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest

from harness import plugins
from harness.metrics._calls import written
from harness.records import Output, Sample, Score

WEATHER = {
    "type": "object", "required": ["city"], "additionalProperties": False,
    "properties": {
        "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1},
        "unit": {"enum": ["C", "F"], "default": "C"},
        "note": {"type": "string", "x-judged": True},
    },
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "time", "description": "no arguments"}},
]
PARIS = {"name": "weather", "arguments": {"city": "Paris", "days": 2}}
ROME = {"name": "weather", "arguments": {"city": "Rome"}}
TIME: dict[str, Any] = {"name": "time", "arguments": {}}


def score(text: str, calls: Any = (PARIS,), tools: Any = TOOLS, **options: Any) -> Score:
    metric = plugins.load("metrics", "tool_calls").build(
        plugins.options("metrics", "tool_calls", options, where="card.yaml: metrics")
    )
    data = {"calls": list(calls) if isinstance(calls, tuple) else calls, "tools": tools}
    result: Score = metric.score(
        Sample("s", "?", data={k: v for k, v in data.items() if v is not ...}), [Output(text=text)]
    )
    return result


def openai(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": "call_1", "type": "function", "function": function}


ASKED = '{"name": "weather", "arguments": {"city": "Paris", "days": 2}}'


@pytest.mark.parametrize(
    "text",
    [
        ASKED, f"[{ASKED}]", f"```json\n{ASKED}\n```", f"<tool_call>\n{ASKED}\n</tool_call>",
        f"Let me look.\n<tool_call>{ASKED}</tool_call>\nOne moment.", f"<think>Not Rome.</think>\n{ASKED}",
        json.dumps([openai("weather", city="Paris", days=2)]),
        json.dumps({"role": "assistant", "content": None, "tool_calls": [openai("weather", days=2, city="Paris")]}),
        '{"name": "weather", "parameters": {"city": "Paris", "days": 2}}',
        '{"name": "weather", "arguments": {"days": 2.0, "city": "Paris"}}',
        '{"name": "weather", "arguments": {"city": "Paris", "days": 2, "unit": "C"}}',
        '{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\", \\"days\\": 2}"}',
    ],
)  # fmt: skip
def test_a_call_is_read_in_every_usual_spelling(text: str) -> None:
    assert score(text).value == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "weather", "arguments": {"city": "Rome", "days": 2}}', "0 right, 1 missing, 1 extra"),
        ('{"name": "weather", "arguments": {"city": "Paris"}}', "0 right"),
        ('{"name": "weather", "arguments": {"city": "Paris", "days": "2"}}', "do not fit the schema"),
        ('{"name": "weather", "arguments": {"city": "Paris", "days": 2, "x": 1}}', "do not fit the schema"),
        ('{"name": "wether", "arguments": {"city": "Paris", "days": 2}}', "there is no tool 'wether'"),
        ('{"name": "weather", "arguments": {"city": "Paris", "days": 2, "unit": "F"}}', "0 right"),
        ('{"name": "weather", "arguments": ["Paris", 2]}', "cannot be read"),
        ('<tool_call>{"name": "weather", "arguments": {"city"</tool_call>', "cannot be read"),
        ('<tool_call>{"name": "weather", "arguments": {"city": "Paris",', "cannot be read"),
        ('{"name": "weather", "arguments": {"city": "Paris", "da', "cannot be read"),
        ("It is sunny in Paris.", "0 right, 1 missing, 0 extra"), ("", "1 missing, 0 extra"), ("{}", "0 extra"),
        (f"I would call {ASKED}", "0 right, 1 missing, 0 extra"),
    ],
)  # fmt: skip
def test_any_other_call_is_wrong_and_it_is_said_why(text: str, reason: str) -> None:
    found = score(text)
    assert (found.state, found.value) == ("scored", 0)
    assert reason in found.reason


def blocks(*calls: dict[str, Any]) -> str:
    return "".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls)


@pytest.mark.parametrize(
    ("given", "wanted", "options", "value"),
    [
        ((PARIS, ROME), (PARIS, ROME), {}, 1), ((ROME, PARIS), (PARIS, ROME), {}, 1),
        ((ROME, PARIS), (PARIS, ROME), {"order": True}, 1 / 2), ((PARIS,), (PARIS, ROME), {}, 1 / 2),
        ((PARIS, ROME, TIME), (PARIS, ROME), {}, 2 / 3), ((PARIS, PARIS), (PARIS,), {}, 1 / 2),
        ((PARIS,), (PARIS, PARIS), {}, 1 / 2), ((PARIS, PARIS), (PARIS, PARIS), {"order": True}, 1),
        ((PARIS, TIME, ROME), (PARIS, ROME, TIME), {"order": True}, 2 / 3),
        ((PARIS,), (PARIS, ROME), {"mode": "all"}, 0),
        ((ROME, PARIS), (PARIS, ROME), {"mode": "all"}, 1), ((), (), {}, 1), ((TIME,), (), {}, 0), ((), (TIME,), {}, 0),
    ],
)  # fmt: skip
def test_missing_and_extra_calls_cost_and_order_counts_where_it_should(
    given: tuple[dict[str, Any], ...], wanted: tuple[dict[str, Any], ...], options: dict[str, Any], value: float
) -> None:
    assert score(blocks(*given), wanted, **options).value == pytest.approx(value)


def test_the_counts_are_those_of_the_best_matching_there_is() -> None:
    """Against brute force over all matchings, in any order and in order."""
    draw = random.Random(5)
    pool = [PARIS, ROME, TIME, {"name": "weather", "arguments": {"city": "Rome", "unit": "C"}}]

    def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
        full = [{"unit": "C", **c["arguments"]} if c["name"] == "weather" else {} for c in (a, b)]
        return a["name"] == b["name"] and full[0] == full[1]

    for _ in range(60):
        given = [draw.choice(pool) for _ in range(draw.randrange(1, 5))]
        wanted = [draw.choice(pool) for _ in range(draw.randrange(1, 5))]
        size = max(len(given), len(wanted))
        padded = [*wanted, *([None] * size)]
        any_order = max(
            sum(b is not None and same(a, b) for a, b in zip(given, chosen, strict=False))
            for chosen in itertools.permutations(padded, len(given))
        )
        in_order = max(
            len(i)
            for n in range(min(len(given), len(wanted)) + 1)
            for i in itertools.combinations(range(len(given)), n)
            for j in itertools.combinations(range(len(wanted)), n)
            if all(same(given[a], wanted[b]) for a, b in zip(i, j, strict=True))
        )
        assert score(blocks(*given), tuple(wanted)).value == pytest.approx(any_order / size)
        assert score(blocks(*given), tuple(wanted), order=True).value == pytest.approx(in_order / size)


def test_free_text_is_left_to_a_judge_where_it_is_marked_or_named() -> None:
    wanted = {"name": "weather", "arguments": {"city": "Paris", "note": "for the trip"}}
    other = blocks({"name": "weather", "arguments": {"city": "Paris", "note": "since they travel"}})
    assert score(other, (wanted,)).value == 1
    assert score(other, (wanted,), judged_from_schema=False).value == 0
    assert score(other, (wanted,), judged_from_schema=False, judged_arguments=["note"]).value == 1
    assert score(other, (wanted,), judged_from_schema=False, judged_arguments=["weather.note"]).value == 1
    assert score(other, (wanted,), judged_from_schema=False, judged_arguments=["time.note"]).value == 0
    assert score(blocks({"name": "weather", "arguments": {"city": "Paris", "note": 7}}), (wanted,)).value == 0
    assert score(blocks({"name": "weather", "arguments": {"city": "Paris"}}), (wanted,)).value == 0


def test_true_is_not_one_however_deep() -> None:
    wanted = {"name": "f", "arguments": {"a": [{"b": 1}]}}
    assert score(blocks({"name": "f", "arguments": {"a": [{"b": 1.0}]}}), (wanted,), ...).value == 1
    assert score(blocks({"name": "f", "arguments": {"a": [{"b": True}]}}), (wanted,), ...).value == 0


def test_without_definitions_only_the_expected_calls_count() -> None:
    assert score(ASKED, tools=...).value == 1
    assert score('{"name": "other", "arguments": {}}', tools=...).value == 0


@pytest.mark.parametrize(
    ("calls", "tools", "says"),
    [
        (..., TOOLS, "has no `calls`"), ({"name": "f"}, TOOLS, "calls must be a list"),
        ([{"arguments": {}}], TOOLS, r"calls\[0\] must hold a name"),
        ([{"name": "nope", "arguments": {}}], TOOLS, r"calls\[0\]: there is no tool 'nope'"),
        ([{"name": "weather", "arguments": {}}], TOOLS, r"calls\[0\]: the arguments do not fit"),
        ([PARIS], {"name": "f"}, "tools must be a list"), ([PARIS], [TOOLS[0], TOOLS[0]], "'weather' is there twice"),
        ([PARIS], [{"type": "function"}], r"tools\[0\] must be a function"),
        ([PARIS], [{"name": "weather", "parameters": {"type": "strange"}}], "not a valid JSON schema"),
        ([PARIS], [{"name": "weather", "parameters": {"$ref": "http://127.0.0.1:9/x"}}], "cannot be applied"),
        ([PARIS] * 300, TOOLS, "more than 256"),
    ],
)  # fmt: skip
def test_a_wrong_sample_is_a_failure_and_no_score(calls: Any, tools: Any, says: str) -> None:
    import re

    found = score(ASKED, calls, tools)
    assert found.state == "failed"
    assert re.search(says, found.reason), found.reason


@pytest.mark.parametrize(
    "text",
    ["<tool_call>" * 5000, '{"name": "weather", "arguments": ' + "[" * 50_000, "[" * 50_000,
     blocks(*([TIME] * 3000)),
     '{"name": "f", "arguments": {"a": ' + '{"a": ' * 800 + "1" + "}" * 802, "</tool_call><tool_call>", "null",
     "\ud800"],
    ids=lambda t: t[:20],
)  # fmt: skip
def test_no_output_breaks_it(text: str) -> None:
    for tools in (TOOLS, ...):
        found = score(text, tools=tools)
        assert found.value == 0 or found.state == "failed"


@pytest.mark.parametrize(
    "text", ["[1] According to the source, it is.", '{"name": "Ada", "age": 36}', '["a", "b"]', '{"answer": 42}', "42"]
)
def test_what_only_looks_like_json_is_no_call(text: str) -> None:
    assert written(text) == []
    assert score(text, ()).value == 1
