"""From traces to calls: each request once, whose it was, what damages it, and counts that add up."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from harness.traces.normal import unite_traces
from harness.traces.records import Feedback, LogEvent, SpanEvent
from tests.trace_examples import ANSWER, TRACE, USER, calls, fixture, genai, span

OPENINFERENCE = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "gpt-4o-mini",
    "llm.input_messages.0.message.role": "user",
    "llm.input_messages.0.message.content": "Where is my order?",
    "llm.invocation_parameters": '{"seed": 7, "response_format": {"type": "json_object"}}',
}


# ---------------------------------------------------------------- one request, several spans


@pytest.mark.parametrize("scenario", ["chat", "stream", "error"])
def test_litellm_over_an_instrumented_client_is_one_call(scenario: str) -> None:
    spans, events = fixture(f"stacked/{scenario}")
    (call,) = calls(*spans, events=events).calls
    assert (call.run_id, call.session, call.user) == ("run-17", "session-9", "pseudonym of eve")
    assert call.messages[-1].text == ("fail" if scenario == "error" else "Where is my order A-17?")


def test_nested_spans_of_one_request_are_one_call_filled_from_both() -> None:
    outer = span(genai(usage__input_tokens=21), 1, scope="framework")
    inner = span(OPENINFERENCE, 2, 1, scope="client")
    found = calls(outer, inner)
    (call,) = found.calls
    assert (found.counts.calls, found.counts.duplicates) == (1, 1)
    assert call.spans == (f"{1:016x}", f"{2:016x}")
    assert call.span_id == f"{1:016x}"  # it has the answer, which the inner one lacks
    assert (call.parameters.seed, call.input_tokens) == (7, 21)
    assert call.parameters.response_format == {"type": "json_object"}
    assert "response_format" not in {loss.field for loss in call.lost}


def test_of_equally_good_spans_the_innermost_counts() -> None:
    found = calls(span(genai(), 1, scope="a"), span(genai(), 2, 1, scope="b"), span(genai(), 3, 2, scope="c"))
    assert [call.span_id for call in found.calls] == [f"{3:016x}"]


def test_a_server_without_content_adds_its_latency_to_the_client() -> None:
    server, _ = fixture("vllm/llm_request")
    client = span(genai(), 1)
    inside = replace(server[0], trace_id=TRACE, parent_span_id=client.span_id)
    (call,) = calls(client, inside).calls
    assert call.dialect == "otel_genai"
    assert call.first_token == 0.31


def test_retries_below_one_request_are_one_call_and_the_success_counts() -> None:
    failed = span({**genai(), "error.type": "429"}, 2, 1, status="error", scope="client")
    succeeded = span(genai(response__id="b"), 3, 1, scope="client")
    (call,) = calls(span(genai(), 1, scope="gateway"), failed, succeeded).calls
    assert call.span_id == f"{3:016x}"
    assert call.error is None


def test_a_span_above_different_requests_is_a_wrapper_and_no_call() -> None:
    def asking(text: str, number: int) -> Any:
        said = [{"role": "user", "parts": [{"type": "text", "content": text}]}]
        return span(genai(input__messages=said), number, 1)

    found = calls(span(OPENINFERENCE, 1), asking("one", 2), asking("two", 3))
    assert [call.messages[0].text for call in found.calls] == ["one", "two"]
    assert found.counts.others == 1


def test_spans_beside_each_other_with_one_answer_are_one_call() -> None:
    one = span(genai(response__id="a"), 2, 1, scope="x", start_ns=10, end_ns=20)
    other = span(genai(response__id="a"), 3, 1, scope="y", start_ns=15, end_ns=25)
    assert calls(one, other).counts.calls == 1


def test_spans_beside_each_other_without_an_answer_are_one_call_when_one_ran_inside_the_other() -> None:
    one = span(genai(), 2, 1, scope="x", start_ns=10, end_ns=30)
    inside = span(genai(), 3, 1, scope="y", start_ns=15, end_ns=25)
    later = span(genai(), 4, 1, scope="y", start_ns=40, end_ns=50)
    assert calls(one, inside).counts.calls == 1
    assert calls(one, later).counts.calls == 2


def test_two_equal_requests_of_one_instrumentation_are_two_calls() -> None:
    assert calls(span(genai(), 2, 1), span(genai(), 3, 1)).counts.calls == 2


def test_different_answers_keep_equal_requests_apart() -> None:
    one = span(genai(response__id="a"), 2, 1, scope="x", start_ns=10, end_ns=30)
    other = span(genai(response__id="b"), 3, 1, scope="y", start_ns=15, end_ns=25)
    assert calls(one, other).counts.calls == 2


def test_an_answer_from_a_cache_does_not_make_one_call_of_two() -> None:
    first = calls(span(genai(response__id="a"), 1)).calls[0]
    later = replace(first, trace_id="f" * 32, time_ns=first.time_ns + 10**12)
    assert len(unite_traces([first, later])) == 2
    elsewhere = replace(first, trace_id="f" * 32, dialect="litellm", tenant="other")
    assert len(unite_traces([first, elsewhere])) == 2
    seen_twice = replace(first, trace_id="f" * 32, dialect="litellm", run_id="r", run_id_source="span", cost=0.5)
    (united,) = unite_traces([first, seen_twice])
    assert (united.run_id, united.cost) == ("r", 0.5)


def test_a_span_that_was_exported_twice_is_one_call() -> None:
    found = calls(span(genai(), 1), span(genai(), 1))
    assert (found.counts.calls, found.counts.spans) == (1, 2)


def test_cyclic_parents_end() -> None:
    assert calls(span(genai(), 1, 2), span(genai(), 2, 1)).counts.calls == 1


@pytest.mark.parametrize("operation", ["embeddings", "execute_tool", "invoke_agent", "retrieval", "create_agent"])
def test_other_operations_are_no_calls(operation: str) -> None:
    found = calls(span(genai(operation__name=operation)))
    assert (found.counts.calls, found.counts.others) == (0, 1)


@pytest.mark.parametrize("kind", ["AGENT", "TOOL", "CHAIN", "RETRIEVER", "EMBEDDING", "RERANKER", "GUARDRAIL"])
def test_other_kinds_are_no_calls(kind: str) -> None:
    assert calls(span({**OPENINFERENCE, "openinference.span.kind": kind})).counts.calls == 0


# ---------------------------------------------------------------- whose call it was


@pytest.mark.parametrize(
    "attributes",
    [
        {"run_id": "r"},
        {"metadata.run_id": "r"},
        {"metadata": '{"run_id": "r"}'},
        {"metadata": {"run_id": "r"}},
        {"traceloop.association.properties.run_id": "r"},
        {"baggage.run_id": "r"},
        {"gen_ai.run.id": "r"},
    ],
)
def test_the_run_id_is_found_in_every_place_that_the_documentation_names(attributes: dict[str, Any]) -> None:
    (own,) = calls(span({**genai(), **attributes})).calls
    assert (own.run_id, own.run_id_source) == ("r", "span")
    (call,) = calls(span(attributes, 1, name="agent"), span({}, 2, 1), span(genai(), 3, 2)).calls
    assert (call.run_id, call.run_id_source) == ("r", "ancestor")


def test_the_nearest_run_id_counts_then_the_resource_then_the_trace() -> None:
    far, near = span({"run_id": "far"}, 1), span({"run_id": "near"}, 2, 1)
    assert calls(far, near, span(genai(), 3, 2)).calls[0].run_id == "near"
    (call,) = calls(span(genai(), resource={"run_id": "deployed"})).calls
    assert (call.run_id, call.run_id_source) == ("deployed", "resource")
    (call,) = calls(span(genai())).calls
    assert (call.run_id, call.run_id_source) == (TRACE, "trace")


def test_session_and_user_are_inherited_and_the_user_is_never_kept_as_it_was() -> None:
    root = span(
        {"session.id": "s", "user.id": "eve@example.com", "metadata": '{"user_email": "e@x", "plan": "gold"}'}, 1
    )
    (call,) = calls(root, span({**genai(), "metadata": '{"user_email": "e@x", "plan": "gold"}'}, 2, 1)).calls
    assert (call.session, call.user) == ("s", "pseudonym of eve@example.com")
    assert call.metadata == {"plan": "gold"}


def test_the_tenant_is_who_sent_the_spans_whatever_they_say() -> None:
    (call,) = calls(span({**genai(), "tenant": "other", "tenant.id": "other"}), tenant="acme").calls
    assert call.tenant == "acme"


# ---------------------------------------------------------------- feedback


def test_evaluations_reach_the_call_that_they_are_about() -> None:
    said = {"gen_ai.evaluation.name": "helpful", "gen_ai.evaluation.score.value": 0.5}
    on_span = span(genai(response__id="a"), 2, 1, events=(SpanEvent("gen_ai.evaluation.result", 1, said),))
    logged = LogEvent(
        TRACE, f"{2:016x}", "gen_ai.evaluation.result", attributes={**said, "gen_ai.evaluation.name": "log"}
    )
    by_answer = LogEvent(
        name="gen_ai.evaluation.result",
        attributes={**said, "gen_ai.evaluation.name": "id", "gen_ai.response.id": "a"},
    )
    target = span({**said, "gen_ai.evaluation.name": "fi", "gen_ai.evaluation.target_span_id": f"{2:016x}"}, 3)
    root = span({}, 1, events=(SpanEvent("gen_ai.evaluation.result", 1, {**said, "gen_ai.evaluation.name": "all"}),))
    (call,) = calls(root, on_span, target, events=(logged, by_answer)).calls
    assert {(f.name, f.about) for f in call.feedback} == {
        ("helpful", "call"), ("log", "call"), ("id", "call"), ("fi", "call"), ("all", "trace"),
    }  # fmt: skip


def test_an_evaluation_without_a_finite_score_or_a_label_is_none() -> None:
    def said(**more: Any) -> SpanEvent:
        return SpanEvent("gen_ai.evaluation.result", 1, {"gen_ai.evaluation.name": "x", **more})

    events = (
        said(),
        said(**{"gen_ai.evaluation.score.value": float("nan")}),
        said(**{"gen_ai.evaluation.score.label": "ok"}),
    )
    (call,) = calls(span(genai(), events=events)).calls
    assert call.feedback == (Feedback("x", None, "ok"),)


def test_a_flood_of_feedback_is_bounded_and_what_is_about_the_call_comes_first() -> None:
    def said(name: str) -> SpanEvent:
        return SpanEvent(
            "gen_ai.evaluation.result", 1, {"gen_ai.evaluation.name": name, "gen_ai.evaluation.score.value": 1}
        )

    root = span({}, 1, events=tuple(said(str(n)) for n in range(500)))
    (call,) = calls(root, span(genai(), 2, 1, events=(said("own"),))).calls
    assert len(call.feedback) == 100
    assert call.feedback[0].name == "own"


# ---------------------------------------------------------------- what damages a call


def asking(text: str, **fields: Any) -> Any:
    said = [{"role": "user", "parts": [{"type": "text", "content": text}]}]
    return calls(span(genai(input__messages=said), **fields)).calls[0]


@pytest.mark.parametrize(
    "text",
    ["x" * 1024, "y" * 250, "z" * 300 + "…", "a long story ... [truncated]", "litellm_truncated skipped 7 chars"],
)
def test_cut_texts_are_not_asked_again(text: str) -> None:
    call = asking(text)
    assert call.why_not is not None
    assert call.why_not.reason == "truncated"
    assert "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT" in call.why_not.setting


@pytest.mark.parametrize("text", ["Hm…", "x" * 1025, "the list was truncated yesterday", "wait..."])
def test_whole_texts_are(text: str) -> None:
    assert asking(text).replayable


def test_json_that_ends_in_the_middle_was_cut_and_json_that_is_wrong_was_not() -> None:
    whole = json.dumps([USER])
    (cut,) = calls(span(genai(input__messages=whole[:-20]))).calls
    (wrong,) = calls(span(genai(input__messages="[{'role': 'user'}]" + whole))).calls
    assert cut.why_not is not None
    assert wrong.why_not is not None
    assert (cut.why_not.reason, wrong.why_not.reason) == ("truncated", "unreadable")


def test_a_cut_answer_is_a_loss_and_no_obstacle() -> None:
    (call,) = calls(span(genai(output__messages=json.dumps([ANSWER])[:-20]))).calls
    assert call.replayable
    assert ("outputs", "truncated") in {(loss.field, loss.cause) for loss in call.lost}


def test_dropped_attributes_make_everything_that_is_missing_doubtful() -> None:
    call = asking("Hi", dropped_attributes=3)
    assert call.why_not is not None
    assert (call.why_not.reason, "128" in call.why_not.setting) == ("dropped", True)


def test_what_the_provider_holds_or_runs_cannot_be_asked_again() -> None:
    state = genai(**{"request__previous_response.id": "resp_1"})
    tool = genai(tool__definitions=json.dumps([{"type": "web_search"}]))
    reasons = [call.why_not and call.why_not.reason for call in calls(span(state, 1), span(tool, 2)).calls]
    assert reasons == ["server-state", "server-tools"]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"type": "server_tool_call", "name": "web_search", "id": "1"}, "server-tools"),
        ({"type": "file", "file_id": "file-17", "modality": "file"}, "server-state"),
        ({"type": "hologram"}, "unreadable"),
        ({"type": "uri", "uri": "https://x.example/a.png", "modality": "image"}, None),
    ],
)
def test_parts_that_no_other_server_could_take_are_obstacles(part: dict[str, Any], reason: str | None) -> None:
    said = [{"role": "user", "parts": [{"type": "text", "content": "Look"}, part]}]
    (call,) = calls(span(genai(input__messages=said))).calls
    assert (call.why_not and call.why_not.reason) == reason


def test_counts_add_up_over_a_mixed_batch() -> None:
    batch = [
        span(genai(), 1, trace_id="a" * 32),
        span(OPENINFERENCE, 2, 1, trace_id="a" * 32),
        span({}, 3, trace_id="a" * 32),
        span({"gen_ai.operation.name": "chat"}, 4, trace_id="b" * 32),
    ]
    lost = LogEvent("c" * 32, "d" * 16, "gen_ai.choice")
    counts = calls(*batch, events=(lost,)).counts
    assert (counts.spans, counts.calls, counts.duplicates, counts.others) == (4, 2, 1, 1)
    assert (counts.replayable, counts.not_replayable) == (1, {"no-content": 1})
    assert counts.loose_events == 1


def test_addresses_in_messages_are_never_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something tried to open a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}
    (call,) = calls(span(genai(input__messages=[{"role": "user", "content": [part]}]))).calls
    assert call.messages[0].parts[0].reference == "http://169.254.169.254/latest/meta-data"
