"""Every dialect against what was really asked: `record.py` knows the requests that the fixtures were recorded from."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from harness import plugins
from harness.traces.normal import dialects
from harness.traces.records import PARAMETERS, Call, LogEvent, Part, SpanEvent
from tests.trace_examples import ANSWER, FIXTURES, TRACE, USER, calls, fixture, genai, span

_spec = importlib.util.spec_from_file_location("record", FIXTURES / "record.py")
assert _spec is not None
assert _spec.loader is not None
record = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(record)

FORMS = {
    "otel_genai/span-": "otel_genai", "otel_genai/event-": "otel_genai", "otel_genai/messages-": "otel_genai",
    "openllmetry/json-": "openllmetry", "openllmetry/indexed-": "openllmetry", "openinference/": "openinference",
    "traceai/": "traceai", "litellm/v1-": "litellm", "litellm/genai-": "litellm",
}  # fmt: skip
WITHOUT_TOOLS = ("otel_genai/messages-",)  # this form has no place for them
RECORDED = [
    (form, scenario)
    for form in FORMS
    for scenario in record.SCENARIOS
    if (FIXTURES / f"{form}{scenario}.json").exists()
]
NAMES = {"n": "choices"}


def recorded(name: str) -> Call:
    spans, events = fixture(name)
    (call,) = calls(*spans, events=events).calls
    return call


@pytest.mark.parametrize(("form", "scenario"), RECORDED)
def test_messages_and_tools_are_those_that_were_sent(form: str, scenario: str) -> None:
    asked = record.SCENARIOS[scenario]
    call = recorded(form + scenario)
    assert call.dialect == FORMS[form]
    assert [m.role for m in call.messages] == [m["role"] for m in asked["messages"]]
    for message, sent in zip(call.messages, asked["messages"], strict=True):
        content = sent["content"]
        texts = [content] if isinstance(content, str) else [p.get("text") for p in content or () if p["type"] == "text"]
        assert [p.text for p in message.parts if p.kind == "text"] == texts
        assert [c.name for c in message.tool_calls] == [c["function"]["name"] for c in sent.get("tool_calls", ())]
        assert all(json.loads(c.arguments) == {"order": "A-17"} for c in message.tool_calls)
        assert message.tool_call_id == sent.get("tool_call_id", "")
    if form in WITHOUT_TOOLS:
        assert "tools" in {loss.field for loss in call.lost}
    else:
        wanted = [tool["function"] for tool in asked.get("tools", ())]
        found = [{"name": t.name, "description": t.description, "parameters": t.parameters} for t in call.tools]
        assert found == wanted


@pytest.mark.parametrize(("form", "scenario"), RECORDED)
def test_every_parameter_is_restored_or_named_as_lost(form: str, scenario: str) -> None:
    asked = {NAMES.get(key, key): value for key, value in record.SCENARIOS[scenario].items()}
    call = recorded(form + scenario)
    lost = {loss.field for loss in call.lost}
    for name in PARAMETERS:
        found = getattr(call.parameters, name)
        if name in asked and name not in lost:
            wanted = tuple(asked[name]) if name == "stop" else asked[name]
            assert found == wanted or (name, form) in SCHEMA_ONLY, f"{name}: {found!r}"
        elif name != "stream":  # several instrumentations say "false" where nothing was asked for
            assert found in (None, ()) or name in asked


SCHEMA_ONLY = {("response_format", "openllmetry/json-")}  # the schema is kept, its name is not


@pytest.mark.parametrize(("form", "scenario"), RECORDED)
def test_the_answer_is_the_one_that_came(form: str, scenario: str) -> None:
    call = recorded(form + scenario)
    if scenario == "error":
        assert call.error is not None
        assert call.error.type.endswith(("BadRequestError", "error"))  # the oldest recorded no type
        assert "no such luck" in call.error.message
        assert call.outputs == ()
        return
    assert call.error is None
    if scenario == "tools":
        (called,) = call.outputs[0].tool_calls
        assert (called.name, json.loads(called.arguments)) == ("order_status", {"order": "A-17"})
        assert set(call.finish_reasons) <= {"tool_calls"}
    else:
        text = "It was shipped" if scenario == "stream" else "It was shipped on Monday."
        assert [m.text for m in call.outputs] == [text] * (2 if scenario == "choices" else 1)
        assert set(call.finish_reasons) <= {"stop"}
    assert call.model_asked == "gpt-4o-mini"
    assert call.provider == "openai"
    if scenario != "stream":
        assert (call.input_tokens, call.output_tokens) == (21, 8)
    assert call.latency is not None
    assert 0 < call.latency < 60


@pytest.mark.parametrize(("form", "scenario"), RECORDED)
def test_what_was_recorded_with_its_content_can_be_asked_again(form: str, scenario: str) -> None:
    call = recorded(form + scenario)
    if form in WITHOUT_TOOLS and scenario.startswith("tool"):
        assert call.why_not is not None
        assert call.why_not.reason == "tools-missing"
    else:
        assert call.why_not is None


@pytest.mark.parametrize("form", FORMS)
def test_pictures_stay_references(form: str) -> None:
    if not (FIXTURES / f"{form}picture.json").exists():
        pytest.skip(f"no picture was recorded for {form}")
    (message,) = recorded(f"{form}picture").messages
    assert message.parts[1] == Part("image", reference="https://shop.example/returns/17.png")


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*/*embedding.json")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_embeddings_are_no_calls(path: Any) -> None:
    spans, events = fixture(f"{path.parent.name}/{path.stem}")
    found = calls(*spans, events=events)
    assert found.calls == ()
    assert found.counts.others == len(spans)


@pytest.mark.parametrize(
    ("name", "reason", "setting"),
    [
        ("otel_genai/without-chat", "no-content", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"),
        ("openllmetry/without-tools", "no-content", "TRACELOOP_TRACE_CONTENT=true"),
        ("openinference/hidden-chat", "hidden", "OPENINFERENCE_HIDE_INPUTS"),
        ("openinference/hidden-text-chat", "hidden", "_HIDE_INPUT_TEXT"),
        ("vllm/llm_request", "no-content", "instrument the client"),
        ("otel_genai/messages-tools", "tools-missing", "OTEL_SEMCONV_STABILITY_OPT_IN"),
    ],
)
def test_what_cannot_be_asked_again_says_why_and_what_to_set(name: str, reason: str, setting: str) -> None:
    spans, events = fixture(name)
    found = calls(*spans, events=events)
    (call,) = found.calls
    assert call.why_not is not None
    assert call.why_not.reason == reason
    assert setting in call.why_not.setting
    assert found.counts.not_replayable == {reason: 1}
    assert found.counts.settings[reason] == (call.why_not.setting,)  # type: ignore[index]


def test_hidden_messages_are_not_taken_from_the_raw_request() -> None:
    call = recorded("openinference/hidden-text-chat")
    assert {m.text for m in call.messages} == {"__REDACTED__"}


def test_every_dialect_has_a_recording_a_name_and_a_version() -> None:
    assert sorted(d.name for d in dialects()) == plugins.names("traces.dialects")
    folders = {path.name for path in FIXTURES.iterdir() if path.is_dir()}
    for dialect in dialects():
        assert dialect.version
        assert dialect.carries <= set(PARAMETERS)
        assert dialect.settings.get("no-content")
        assert dialect.name in folders or dialect.name == "request_log"  # that one is written by importing alone


# ---------------------------------------------------------------- forms that no instrumentation at hand still writes


def test_structured_values_are_read_like_their_json() -> None:
    structured = genai(input__messages=[USER], output__messages=[ANSWER])
    (one,) = calls(span(structured)).calls
    (other,) = calls(span(genai())).calls
    assert (one.messages, one.outputs, one.finish_reasons) == (other.messages, other.outputs, other.finish_reasons)


def test_system_instructions_come_first_and_only_once() -> None:
    parts = [{"type": "text", "content": "Be kind."}]
    (call,) = calls(span(genai(system_instructions=json.dumps(parts)))).calls
    assert [m.role for m in call.messages] == ["system", "user"]
    said = [{"role": "system", "parts": parts}, USER]
    (call,) = calls(span(genai(system_instructions=parts, input__messages=said))).calls
    assert [m.role for m in call.messages] == ["system", "user"]


def test_one_span_event_a_message_is_read_in_order() -> None:
    attributes = {"gen_ai.system": "az.ai.inference", "gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    events = (
        SpanEvent("gen_ai.user.message", 2, {"gen_ai.event.content": '{"role": "user", "content": "Hi"}'}),
        SpanEvent("gen_ai.system.message", 1, {"content": "Be kind."}),
        SpanEvent("gen_ai.choice", 4, {"index": 1, "message": "Second", "finish_reason": "length"}),
        SpanEvent("gen_ai.choice", 5, {"index": 0, "message": '{"content": "First"}', "finish_reason": "stop"}),
    )
    (call,) = calls(span(attributes, events=events)).calls
    assert [(m.role, m.text) for m in call.messages] == [("system", "Be kind."), ("user", "Hi")]
    assert [m.text for m in call.outputs] == ["First", "Second"]
    assert call.finish_reasons == ("stop", "length")


def test_the_oldest_events_and_attributes_are_read_too() -> None:
    attributes = {"gen_ai.system": "openai", "gen_ai.request.model": "m"}
    events = (
        SpanEvent("gen_ai.content.prompt", 1, {"gen_ai.prompt": '[{"role": "user", "content": "Hi"}]'}),
        SpanEvent("gen_ai.content.completion", 2, {"gen_ai.completion": '[{"role": "assistant", "content": "Ho"}]'}),
    )
    (by_events,) = calls(span(attributes, events=events)).calls
    plain = {**attributes, "gen_ai.prompt": "Hi", "gen_ai.completion": "Ho"}
    (by_attributes,) = calls(span(plain)).calls
    for call in (by_events, by_attributes):
        assert [m.text for m in (*call.messages, *call.outputs)] == ["Hi", "Ho"]


def test_a_prompt_that_only_looks_like_json_stays_text() -> None:
    attributes = {"gen_ai.system": "openai", "gen_ai.request.model": "m", "gen_ai.prompt": "[draft] write a poem"}
    (call,) = calls(span(attributes)).calls
    assert [m.text for m in call.messages] == ["[draft] write a poem"]


def test_content_of_a_log_record_reaches_its_span_and_no_other() -> None:
    bare = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    details = LogEvent(
        TRACE,
        f"{2:016x}",
        "gen_ai.client.inference.operation.details",
        attributes={"gen_ai.input.messages": [USER], "gen_ai.request.seed": 3},
    )
    found = calls(span(bare, 1), span(bare, 2), events=(details,))
    by_id = {call.span_id: call for call in found.calls}
    assert by_id[f"{1:016x}"].messages == ()
    assert by_id[f"{2:016x}"].messages[0].text == "Where is my order?"
    assert by_id[f"{2:016x}"].parameters.seed == 3
    assert found.counts.loose_events == 0


def test_a_reference_to_stored_content_is_an_obstacle_of_its_own() -> None:
    bare = {"gen_ai.operation.name": "chat", "gen_ai.input.messages_ref": "s3://prompts/17.json"}
    (call,) = calls(span(bare)).calls
    assert call.why_not is not None
    assert call.why_not.reason == "external"


def test_parts_of_every_kind_become_text_reference_or_result() -> None:
    parts = [
        {"type": "reasoning", "content": "hm"},
        {"type": "blob", "mime_type": "image/png", "modality": "image", "content": "aGk="},
        {"type": "file", "file_id": "file-1", "modality": "file"},
        {"type": "tool_call", "id": "c", "name": "f", "arguments": {"b": 1, "a": 2}},
        {"type": "tool_call_response", "id": "c", "response": {"ok": True}},
        {"type": "hologram", "x": 1},
    ]
    (call,) = calls(span(genai(input__messages=[{"role": "assistant", "parts": parts}]))).calls
    said, result = call.messages
    assert said.parts[0] == Part("reasoning", "hm")
    assert said.parts[1] == Part("image", reference="data:image/png;base64,aGk=", mime_type="image/png")
    assert said.parts[2] == Part("file", reference="file-1")
    assert said.parts[3] == Part("other", '{"type":"hologram","x":1}')
    assert said.tool_calls[0].arguments == '{"a":2,"b":1}'
    assert (result.role, result.tool_call_id, result.text) == ("tool", "c", '{"ok":true}')


def test_indices_are_put_together_as_numbers_not_as_words() -> None:
    attributes: dict[str, Any] = {"openinference.span.kind": "LLM"}
    for number in range(12):
        attributes[f"llm.input_messages.{number}.message.role"] = "user"
        attributes[f"llm.input_messages.{number}.message.content"] = f"m{number}"
    (call,) = calls(span(dict(sorted(attributes.items())))).calls
    assert [m.text for m in call.messages] == [f"m{n}" for n in range(12)]
    del attributes["llm.input_messages.4.message.role"], attributes["llm.input_messages.4.message.content"]
    (call,) = calls(span(attributes)).calls
    assert call.why_not is not None
    assert call.why_not.reason == "dropped"


def test_openinference_annotations_are_feedback() -> None:
    attributes = {
        "openinference.span.kind": "LLM",
        "annotations.0.annotation.name": "thumb",
        "annotations.0.annotation.score": 1,
        "annotations.0.annotation.annotator_kind": "HUMAN",
        "annotations.1.annotation.name": "empty",
    }
    (call,) = calls(span(attributes)).calls
    assert [(f.name, f.score, f.source) for f in call.feedback] == [("thumb", 1.0, "human")]


def test_a_completion_in_openinference_is_a_completion() -> None:
    attributes = {
        "openinference.span.kind": "LLM",
        "llm.prompts.0.prompt.text": "Once upon",
        "llm.choices.0.completion.text": " a time",
    }
    (call,) = calls(span(attributes)).calls
    assert (call.operation, call.messages[0].text, call.outputs[0].text) == ("completion", "Once upon", " a time")


def test_the_raw_request_of_litellm_is_read_as_literals_and_never_run() -> None:
    parent = span({"litellm.call_id": "x", "gen_ai.operation.name": "chat"}, 1, scope="litellm")
    raw = {
        "llm.openai.stop": "['a']",
        "llm.openai.tools": "__import__('os').abort()",
        "llm.openai.messages": "[open('x')]",
    }
    child = span(raw, 2, 1, name="raw_gen_ai_request", scope="litellm")
    (call,) = calls(parent, child).calls
    assert call.parameters.stop == ("a",)
    assert call.tools == ()


def test_a_definition_of_a_tool_that_was_cut_stops_the_call() -> None:
    functions = {"llm.request.functions.0.name": "f", "llm.request.functions.0.parameters": '{"type": "obj'}
    indexed = {"llm.request.type": "chat", "gen_ai.prompt.0.content": "Hi", **functions}
    (call,) = calls(span(indexed)).calls
    assert call.dialect == "openllmetry"
    assert call.why_not is not None
    assert (call.why_not.reason, call.why_not.detail) == ("unreadable", "tools: 1 of 1 definitions")


def test_an_unreadable_parameter_is_a_loss_with_its_value() -> None:
    (call,) = calls(span(genai(request__temperature="hot", request__max_tokens=-1, request__seed=True))).calls
    unreadable = {loss.field: loss.detail for loss in call.lost if loss.cause == "unreadable"}
    assert unreadable.keys() == {"temperature", "max_tokens", "seed"}
    assert "hot" in unreadable["temperature"]
    assert call.replayable
