"""Every text of a span is redacted before it is kept, JSON stays JSON, and what cannot be redacted is not kept."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import StorageError
from harness.redaction import Span
from harness.traces._identity import USER
from harness.traces.redaction import Bounds, Pseudonyms, Redactor, is_pseudonym, store_key
from harness.traces.redaction._fields import role
from tests.fuzzing import examples
from tests.trace_requests import attributes, chat, logs, traces

NAMES = Pseudonyms(b"k" * 32, "acme")
EMAIL, TOKEN, CARD = "jane.doe@example.org", "ghp_" + "aB3" * 12, "4111 1111 1111 1111"


def redact(request: Any, **options: Any) -> Any:
    redactor = Redactor(NAMES, **options)
    counts = redactor.logs(request) if hasattr(request, "resource_logs") else redactor.traces(request)
    assert not counts
    return request


def test_no_text_of_a_span_keeps_what_is_personal() -> None:
    request = traces({"_name": f"mail to {EMAIL}", "note": EMAIL, "list": [EMAIL, {"deep": [EMAIL], EMAIL: 1}]},
                     resource={"host.owner": EMAIL})  # fmt: skip
    span = request.resource_spans[0].scope_spans[0].spans[0]
    request.resource_spans[0].schema_url = request.resource_spans[0].scope_spans[0].schema_url = f"http://{EMAIL}"
    request.resource_spans[0].scope_spans[0].scope.name = EMAIL
    request.resource_spans[0].resource.entity_refs.add().type = EMAIL
    span.status.message, span.trace_state = f"no such user {EMAIL}", f"k={EMAIL}"
    event = span.events.add(name=EMAIL)
    pair = event.attributes.add(key="exception.message")
    pair.value.bytes_value = EMAIL.encode()
    span.links.add(trace_state=EMAIL).attributes.add(key="why").value.string_value = EMAIL
    assert EMAIL.encode() not in redact(request).SerializeToString()
    assert NAMES.value("email", EMAIL).encode() in request.SerializeToString()
    assert [p.key for p in span.attributes] == ["note", "list"]


def test_a_log_record_is_redacted_with_its_structured_body() -> None:
    request = redact(logs({"gen_ai.input.messages": [{"content": EMAIL}]}, f"plain {TOKEN}"))
    assert EMAIL.encode() not in request.SerializeToString()
    assert TOKEN.encode() not in request.SerializeToString()


def test_unknown_fields_are_not_kept_because_nobody_looks_into_them() -> None:
    request = traces({"a": "b"})
    body = request.SerializeToString()
    unknown = bytes([(99 << 3 | 2) & 0x7F | 0x80, 99 << 3 >> 7, len(EMAIL)]) + EMAIL.encode()
    request.ParseFromString(body + unknown)
    assert EMAIL.encode() in request.SerializeToString()
    assert EMAIL.encode() not in redact(request).SerializeToString()


@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_stays_json_and_differs_only_where_something_was_found(ascii_only: bool) -> None:
    arguments = json.dumps({"to": EMAIL, "n": 1, "note": 'line\nline\t"quoted" \\ é'})
    document = [{"role": "user", "content": f"hi\n{EMAIL}\nghp é \U0001f600", "n": [1, 2.5, None, True]},
                {"tool_calls": [{"function": {"name": "send", "arguments": arguments}}]}]  # fmt: skip
    request = redact(traces({"messages": json.dumps(document, ensure_ascii=ascii_only)}))
    found = json.loads(attributes(request)["messages"])
    name = NAMES.value("email", EMAIL)
    assert json.loads(found[1]["tool_calls"][0]["function"].pop("arguments")) == {**json.loads(arguments), "to": name}
    document[1]["tool_calls"][0]["function"].pop("arguments")  # type: ignore[index]
    document[0]["content"] = document[0]["content"].replace(EMAIL, name)  # type: ignore[attr-defined]
    assert found == document


def test_json_without_a_find_is_kept_byte_for_byte() -> None:
    text = '{"a":  1.50, "b": "caf\\u00e9\\n", "a": 2}'
    assert attributes(redact(traces({"x": text})))["x"] == text


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "jane\\u002edoe\\u0040example.org"}',
        '{"card": 4111111111111111}',
        '{"jane.doe@example.org": 1}',
        '{"outer": "{\\"inner\\": \\"line\\\\njane.doe@example.org\\"}"}',
        '"jane.doe@example.org"',
        '[{"cut off": "here\\njane.doe@example.org',
        "repr: 'line\\njane.doe@example.org\\n'",
    ],
)
def test_escapes_numbers_keys_and_broken_json_hide_nothing(text: str) -> None:
    changed = attributes(redact(traces({"x": text})))["x"]
    assert "doe" not in changed
    assert "4111" not in changed


def test_an_escape_before_a_token_is_no_letter_of_it() -> None:
    text = json.dumps({"content": f"key:\n{TOKEN}"})
    assert TOKEN not in attributes(redact(traces({"x": text})))["x"]


def test_a_secret_is_known_by_the_name_of_its_field() -> None:
    request = redact(traces({"db.password": "hunter2hunter3", "x": json.dumps({"api_key": "zx81qp42ns77"})}))
    assert attributes(request)["db.password"].startswith("<SECRET_")
    assert json.loads(attributes(request)["x"])["api_key"].startswith("<SECRET_")


def test_a_card_number_that_is_a_number_becomes_a_placeholder() -> None:
    request = redact(traces({"paid.with": 4111111111111111, "tokens": 4111111111111112}))
    assert attributes(request)["paid.with"] == NAMES.value("credit_card", CARD)
    assert attributes(request)["tokens"].int_value == 4111111111111112


# ---------------------------------------------------------------- names


def test_a_value_has_one_name_within_a_tenant_and_another_in_the_next() -> None:
    other = Pseudonyms(b"k" * 32, "other")
    assert NAMES.value("email", EMAIL) == NAMES.value("email", EMAIL.upper()) != other.value("email", EMAIL)
    assert NAMES.value("credit_card", CARD) == NAMES.value("credit_card", CARD.replace(" ", "-"))
    assert NAMES.user("u-1") != other.user("u-1")
    assert NAMES.user("u-1") != Pseudonyms(b"l" * 32, "acme").user("u-1")


def test_naming_twice_changes_nothing() -> None:
    assert NAMES.user(NAMES.user("u-1")) == NAMES.user("u-1")
    once = redact(traces(chat(f"{EMAIL} {CARD} {TOKEN} +49 30 1234567", **{"user.id": "user-77"})))
    first = once.SerializeToString()
    assert redact(once).SerializeToString() == first


@pytest.mark.parametrize("key", [*USER, "metadata.user_api_key_user_email"])
def test_every_attribute_in_which_a_dialect_finds_a_user_holds_a_pseudonym(key: str) -> None:
    assert attributes(redact(traces({key: "u-42"})))[key] == NAMES.user("u-42")
    assert is_pseudonym(NAMES.user("u-42"))


def test_a_user_is_replaced_in_the_texts_of_the_span_and_in_its_settings() -> None:
    span = chat("orders of user-77, not of user-771", **{
        "user.id": "user-77", "metadata": json.dumps({"user_id": "u9", "team": "x"}),
        "llm.invocation_parameters": json.dumps({"user": "bob", "temperature": 0}),
    })  # fmt: skip
    found = attributes(redact(traces(span)))
    assert f"orders of {NAMES.user('user-77')}, not of user-771" in found["gen_ai.input.messages"]
    assert json.loads(found["metadata"]) == {"user_id": NAMES.user("u9"), "team": "x"}
    assert json.loads(found["llm.invocation_parameters"])["user"] == NAMES.user("bob")


def test_a_role_of_a_message_is_no_user() -> None:
    text = json.dumps([{"role": "user", "content": "hi", "user": "stays: this is content"}])
    assert attributes(redact(traces({"gen_ai.input.messages": text})))["gen_ai.input.messages"] == text
    assert role("gen_ai.request.model") == "text"


def test_the_key_of_a_store_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    key = store_key(tmp_path)
    assert store_key(tmp_path) == key
    assert len(key) == 32
    path = tmp_path / "redaction.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["redaction.key"]
    path.chmod(0o644)
    with pytest.raises(StorageError, match="others may read"):
        store_key(tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(StorageError, match="not a key of 32 bytes"):
        store_key(tmp_path)


# ---------------------------------------------------------------- closed


def nested(levels: int) -> Any:
    value: Any = EMAIL
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("span", "bounds", "reason"),
    [
        ({"x": "a" * 2000}, Bounds(characters=1000), "redaction-too-large"),
        ({str(i): "x" for i in range(20)}, Bounds(values=10), "redaction-too-large"),
        ({"x": nested(20)}, Bounds(depth=10), "redaction-too-deep"),
        ({"x": "[" * 200 + f'"{EMAIL}"' + "]" * 200}, Bounds(), "redaction-too-deep"),
        ({"x": "[" * 90_000 + f'"{EMAIL}"'}, Bounds(), "redaction-too-deep"),
        ({"x": "4111 " * 20_000}, Bounds(seconds=0.0), "redaction-too-slow"),
    ],
)
def test_a_span_that_cannot_be_redacted_is_removed_and_counted(
    span: dict[str, Any], bounds: Bounds, reason: str
) -> None:
    good = {"note": "clean"}
    request = traces(good, span, good)
    assert Redactor(NAMES, bounds).traces(request) == {reason: 1}
    assert len(request.resource_spans[0].scope_spans[0].spans) == 2
    assert EMAIL.encode() not in request.SerializeToString()


def test_spans_of_a_resource_that_cannot_be_redacted_go_with_it() -> None:
    request = traces({"a": "b"}, {"c": "d"}, resource={"x": nested(40), "owner": EMAIL})
    assert Redactor(NAMES).traces(request) == {"redaction-too-deep": 2}
    assert not request.resource_spans


def test_a_finder_that_fails_fails_closed() -> None:
    def broken(text: str) -> list[Span]:
        if "poison" in text:
            raise RuntimeError("recogniser")
        return [Span(0, 4, "person")] if text.startswith("Jane") else []

    request = traces({"x": "Jane spoke"}, {"x": "poison"})
    assert Redactor(NAMES, finders=[broken]).traces(request) == {"redaction-failed": 1}
    assert attributes(request)["x"] == f"{NAMES.value('person', 'Jane')} spoke"


PLAIN = st.recursive(
    st.one_of(st.text(max_size=30), st.integers(-(2**53), 2**53), st.booleans(), st.none(),
              st.sampled_from([EMAIL, TOKEN])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=examples(50), deadline=None)
@given(PLAIN, st.booleans())
def test_any_json_comes_out_as_json_without_the_personal(value: Any, ascii_only: bool) -> None:
    text = json.dumps({"v": value, "again": json.dumps(value)}, ensure_ascii=ascii_only)
    try:
        request = traces({"x": text})
    except UnicodeEncodeError:
        return
    changed = attributes(redact(request))["x"]
    assert EMAIL not in changed
    assert TOKEN not in changed
    json.loads(json.loads(changed)["again"])
