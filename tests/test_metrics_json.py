"""The JSON metric: what parses, what a schema says, which fields are right, and what a hostile schema may not do."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.errors import ConfigError
from harness.records import Output, Sample, Score

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def make(**options: Any) -> Any:
    return plugins.load("metrics", "json").build(
        plugins.options("metrics", "json", options, where="card.yaml: metrics")
    )


def score(text: str, *targets: str, data: dict[str, Any] | None = None, **options: Any) -> Score:
    result: Score = make(**options).score(Sample("s", "?", targets, data=data or {}), [Output(text=text)])
    return result


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', 1), ("[]", 1), (" 3 ", 1), ("null", 1), ('"x"', 1), ('```json\n{"a": 1}\n```', 1),
        ("```\n[1]\n```\n", 1), ("", 0), ("{", 0), ("{'a': 1}", 0), ('{"a": 1} and more', 0), ('Sure: {"a": 1}', 0),
        ("NaN", 0), ("[Infinity]", 0), ('{"a": 1,}', 0), ("[" * 100_000, 0), ("9" * 10_000, 0),
    ],
)  # fmt: skip
def test_parses(text: str, value: int) -> None:
    assert score(text) == Score.of(value)


def test_a_fence_can_be_made_to_count() -> None:
    assert score("```json\n1\n```", fence=False) == Score.of(0)


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"name": "Ada", "age": 36}', 1), ('{"name": "Ada"}', 1), ('{"age": 36}', 0), ('{"name": "Ada", "age": -1}', 0),
     ('{"name": "Ada", "x": 1}', 0), ('{"name": "Ada", "age": true}', 0), ("no json", 0)],
)  # fmt: skip
def test_schema(text: str, value: int, tmp_path: Path) -> None:
    file = tmp_path / "person.json"
    file.write_text(json.dumps(PERSON))
    assert score(text, mode="schema", schema=PERSON) == Score.of(value)
    assert score(text, mode="schema", schema_file=file) == Score.of(value)
    assert score(text, mode="schema", data={"schema": PERSON}) == Score.of(value)


@pytest.mark.parametrize("data", [{}, {"schema": "x"}, {"schema": {"type": "nonsense"}}, {"schema": None}])
def test_a_row_without_a_usable_schema_is_a_failure_even_for_bad_output(data: dict[str, Any]) -> None:
    assert score("no json", mode="schema", data=data).state == "failed"


@pytest.mark.parametrize("where", ["http://127.0.0.1:9/schema.json", "file:///etc/passwd", "other.json"])
def test_a_reference_out_of_the_schema_is_never_followed(where: str) -> None:
    result = score("{}", mode="schema", schema={"$ref": where})
    assert result.state == "failed"
    assert "Unresolvable" in result.reason or "Unretrievable" in result.reason


def test_a_reference_inside_the_schema_is_followed() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/n"}}
    assert score("[1, 2]", mode="schema", schema=schema) == Score.of(1)
    assert score('[1, "2"]', mode="schema", schema=schema) == Score.of(0)


@pytest.mark.slow
@pytest.mark.timeout(60)  # two seconds of processor time, where the whole would take days
def test_a_schema_whose_definitions_double_is_given_up() -> None:
    doubled = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    slow = score("1", mode="schema", schema={"$defs": {**doubled, "d40": {}}, "$ref": "#/$defs/d0"})
    assert (slow.state, "took longer" in slow.reason) == ("failed", True)
    assert score("1", mode="schema", schema={"$defs": {**doubled, "d5": {}}, "$ref": "#/$defs/d0"}) == Score.of(1)


@pytest.mark.slow
def test_a_pattern_works_and_is_limited_in_time_and_memory() -> None:
    assert score('"ab12"', mode="schema", schema={"pattern": r"^[a-z]+\d+$"}) == Score.of(1)
    assert score('"ab"', mode="schema", schema={"pattern": r"^[a-z]+\d+$"}) == Score.of(0)
    began = time.monotonic()
    slow = score(json.dumps("x" * 5000), mode="schema", schema={"pattern": "(x+x+)+y"})
    assert (slow.state, "took longer" in slow.reason) == ("failed", True)
    assert time.monotonic() - began < 10
    assert score('"aaa"', mode="schema", schema={"pattern": "(((a{1000}){1000}){1000})"}).state == "failed"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "schema", "schema": {"type": "nonsense"}}, "not a valid JSON schema"),
        ({"mode": "schema", "schema": {"patternProperties": {"a": {}}}}, "patternProperties"),
        ({"schema": PERSON}, "a schema needs mode: schema"),
        ({"mode": "parses", "count_extra": True}, "count_extra needs mode: fields"),
        ({"mode": "schema", "schema": {}, "schema_file": "x.json"}, "not both"),
        ({"mode": "schema", "schema_file": "/nonexistent.json"}, "/nonexistent.json"),
        ({"mode": "parse"}, "mode"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make(**options)


EXPECTED = '{"name": "Ada", "age": 36, "langs": ["en", "fr"], "note": null}'


@pytest.mark.parametrize(
    ("text", "options", "value"),
    [
        (EXPECTED, {}, 1.0),
        ('{"age": 36.0, "langs": ["en", "fr"], "note": null, "name": "Ada"}', {}, 1.0),
        ('{"name": "Ada"}', {}, 0.2),
        ('{"name": "Ada", "langs": ["fr", "en"]}', {}, 0.2),
        ('{"name": "Ada", "langs": ["en"]}', {}, 0.4),
        ('{"name": "Ada", "age": "36"}', {}, 0.2),
        ('{"name": "Ada", "x": 1}', {}, 0.2),
        ('{"name": "Ada", "x": 1}', {"count_extra": True}, 1 / 6),
        ("no json", {}, 0.0),
        ("[]", {}, 0.0),
        ("36", {}, 0.0),
    ],
)
def test_fields(text: str, options: dict[str, Any], value: float) -> None:
    assert score(text, EXPECTED, mode="fields", **options).value == pytest.approx(value)


def test_true_is_not_one_and_an_empty_list_is_a_field() -> None:
    assert score('{"a": 1}', '{"a": true}', mode="fields") == Score.of(0)
    assert score('{"a": []}', '{"a": []}', mode="fields") == Score.of(1)
    assert score('{"a": [1]}', '{"a": []}', mode="fields") == Score.of(0)
    assert score('{"a/b": 1}', '{"a": {"b": 1}}', mode="fields") == Score.of(0)


@pytest.mark.parametrize("target", ["text", "3", "{}", "[]", "{"])
def test_a_target_without_fields_is_a_fault_of_the_set(target: str) -> None:
    assert score("{}", target, mode="fields").state == "failed"
