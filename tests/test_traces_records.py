"""Spans and calls as records: JSON and back, hashes, pseudonyms."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.traces._identity import keyed_pseudonyms
from harness.traces.records import (
    Call,
    ChatMessage,
    Failure,
    Feedback,
    Loss,
    Parameters,
    Part,
    Span,
    Tool,
    ToolCall,
    WhyNot,
)

CALL = Call(
    run_id="r",
    trace_id="1" * 32,
    span_id="2" * 16,
    spans=("2" * 16,),
    messages=(
        ChatMessage("user", (Part(text="hi"), Part("image", reference="https://x.example/a.png"))),
        ChatMessage("assistant", tool_calls=(ToolCall("f", '{"a": 1}', "c1"),)),
        ChatMessage("tool", (Part(text="2"),), tool_call_id="c1"),
    ),
    tools=(Tool("f", parameters={"type": "object"}),),
    parameters=Parameters(temperature=0.0, stop=("\n",), stream=False, other={"logit_bias": {"5": -1}}),
    outputs=(ChatMessage("assistant", (Part(text="two"),)),),
    finish_reasons=("stop",),
    error=Failure("Timeout"),
    feedback=(Feedback("thumb", 1.0),),
    lost=(Loss("seed", "unrecorded"),),
    why_not=WhyNot("truncated", "cut", "no limit"),
)


def test_a_call_goes_to_json_and_back() -> None:
    document = json.loads(json.dumps(CALL.as_json()))
    assert Call.from_json(document) == CALL
    assert document["replayable"] is False
    assert document["parameters"]["temperature"] == 0.0  # zero and false are said, absence is not
    assert document["parameters"]["stream"] is False
    assert "seed" not in document["parameters"]


def test_values_that_json_has_no_place_for_come_back_as_they_were() -> None:
    hard = {"b": b"\x00", "inf": float("-inf"), "$float": "x", "deep": [{"$map": {"$bytes": 1}}], "none": None}
    span = Span("1" * 32, "2" * 16, attributes=hard)
    text = json.dumps(span.as_json(), allow_nan=False)
    assert Span.from_json(json.loads(text)) == span


def test_a_foreign_document_is_no_call() -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        Call.from_json({"run_id": "r", "trace_id": "t", "span_id": "s", "surprise": 1})


def test_the_request_hash_knows_what_was_asked_and_nothing_else() -> None:
    answered = replace(CALL, run_id="other", outputs=(), model_asked="m", time_ns=5, user="u")
    assert answered.request_hash == CALL.request_hash
    assert answered.hash != CALL.hash
    for changed in (
        replace(CALL, tools=()),
        replace(CALL, parameters=Parameters()),
        replace(CALL, messages=CALL.messages[:1]),
        replace(CALL, operation="completion"),
    ):
        assert changed.request_hash != CALL.request_hash


def test_a_call_without_a_session_stands_or_falls_with_its_trace() -> None:
    assert CALL.cluster == CALL.trace_id
    assert replace(CALL, session="s").cluster == "s"


def test_one_user_of_two_tenants_has_two_pseudonyms_and_one_of_one_tenant_has_one() -> None:
    key = b"0123456789abcdef"
    acme, other = keyed_pseudonyms(key, "acme"), keyed_pseudonyms(key, "other")
    assert acme("eve@example.com") == keyed_pseudonyms(key, "acme")("eve@example.com")
    assert acme("eve@example.com") != other("eve@example.com")
    assert "eve" not in acme("eve@example.com")
    assert keyed_pseudonyms(key, "a:b")("c") != keyed_pseudonyms(key, "a")("b:c")
    with pytest.raises(ValueError, match="16 bytes"):
        keyed_pseudonyms(b"short", "acme")
