"""No input crashes the decoders or a dialect; HARNESS_FUZZ_EXAMPLES says how many are tried of each."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness import plugins
from harness.errors import TraceError
from harness.traces import otlp
from harness.traces._limits import parse_json
from harness.traces._literals import python_literal
from harness.traces.importing import Source, sources
from harness.traces.normal import dialects, normalise
from harness.traces.records import Call, LogEvent, Span, SpanEvent, SpanLink
from tests.trace_fuzz import MARKS, Fuzz

EXAMPLES = int(os.environ.get("HARNESS_FUZZ_EXAMPLES", "25"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

seeds = st.integers(0, 2**32 - 1)


def test_every_dialect_is_fuzzed() -> None:
    assert sorted(MARKS) == plugins.names("traces.dialects")


@pytest.mark.parametrize("name", sorted(MARKS))
def test_no_trace_crashes_a_dialect_and_every_call_goes_to_json_and_back(name: str) -> None:
    recognised = 0

    @fuzzed
    @given(seeds)
    def check(seed: int) -> None:
        nonlocal recognised
        fuzz = Fuzz(seed, MARKS[name])
        found = normalise(fuzz.spans(), fuzz.log_events(), tenant="t", pseudonym=lambda _: "u")
        recognised += sum(call.dialect == name for call in found.calls)
        counted = found.counts
        assert counted.spans == counted.calls + counted.duplicates + counted.others
        assert counted.calls == counted.replayable + sum(counted.not_replayable.values())
        for call in found.calls:
            assert_goes_to_json_and_back(call)

    check()
    assert recognised > EXAMPLES / 4


def assert_goes_to_json_and_back(call: Call) -> None:
    text = json.dumps(call.as_json(), allow_nan=False)
    again = Call.from_json(json.loads(text))
    assert json.dumps(again.as_json(), allow_nan=False) == text
    assert len(call.hash) == len(call.request_hash) == 64
    assert again.hash == call.hash


@pytest.mark.parametrize("dialect", dialects(), ids=lambda d: d.name)
def test_recognising_is_a_confidence_for_any_span(dialect: Any) -> None:
    @fuzzed
    @given(seeds)
    def check(seed: int) -> None:
        assert all(0.0 <= dialect.recognise(span) <= 1.0 for span in Fuzz(seed, {}).spans())

    check()


# ---------------------------------------------------------------- OTLP

counts = st.integers(0, 2**32 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
attribute_values = st.recursive(
    st.one_of(
        texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary(), st.none()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
typed = st.dictionaries(texts, attribute_values, max_size=4)
trace_ids = st.binary(min_size=16, max_size=16).filter(any).map(bytes.hex)
span_ids = st.binary(min_size=8, max_size=8).filter(any).map(bytes.hex)
times = st.integers(0, 2**64 - 1)
good_spans = st.builds(
    Span,
    trace_id=trace_ids,
    span_id=span_ids,
    parent_span_id=st.one_of(span_ids, st.just("")),
    name=texts,
    kind=st.sampled_from(["unspecified", "internal", "server", "client", "producer", "consumer"]),
    start_ns=times,
    end_ns=times,
    status=st.sampled_from(["unset", "ok", "error"]),
    status_message=texts,
    attributes=typed,
    events=st.lists(st.builds(SpanEvent, texts, times, typed, counts), max_size=2).map(tuple),
    links=st.lists(st.builds(SpanLink, trace_ids, span_ids, typed), max_size=2).map(tuple),
    resource=typed,
    scope=texts,
    scope_version=texts,
    trace_state=texts,
    dropped_attributes=counts,
    dropped_events=counts,
)
good_logs = st.builds(
    LogEvent,
    trace_id=st.one_of(trace_ids, st.just("")),
    span_id=st.one_of(span_ids, st.just("")),
    name=texts.filter(bool),
    time_ns=st.integers(1, 2**64 - 1),
    severity=st.integers(0, 24),
    body=attribute_values,
    attributes=typed,
    resource=typed,
    scope=texts,
    dropped_attributes=counts,
)


@pytest.mark.parametrize("content_type", [otlp.PROTOBUF, otlp.JSON])
@fuzzed
@given(spans=st.lists(good_spans, max_size=3), logs=st.lists(good_logs, max_size=3))
def test_what_is_encoded_is_decoded_unchanged(content_type: str, spans: list[Span], logs: list[LogEvent]) -> None:
    assert otlp.decode_traces(otlp.encode_traces(spans, content_type), content_type).items == tuple(spans)
    assert otlp.decode_logs(otlp.encode_logs(logs, content_type), content_type).items == tuple(logs)
    assert [Span.from_json(json.loads(json.dumps(s.as_json(), allow_nan=False))) for s in spans] == spans
    assert [LogEvent.from_json(json.loads(json.dumps(e.as_json(), allow_nan=False))) for e in logs] == logs


@pytest.mark.parametrize("content_type", [otlp.PROTOBUF, otlp.JSON])
@pytest.mark.parametrize("decode", [otlp.decode_traces, otlp.decode_logs])
def test_bytes_decode_or_are_one_kind_of_error(content_type: str, decode: Any) -> None:
    @fuzzed
    @given(st.binary(max_size=200))
    @example(b"[" * 100_000)
    @example(b'{"resourceSpans":' * 5000)
    @example(b'{"a": NaN}')
    @example(b"1" * 5000)
    def check(body: bytes) -> None:
        try:
            found = decode(body, content_type)
        except TraceError:
            return
        assert found.n_rejected == sum(found.rejected.values())

    check()


OTLP_WORDS = (
    "resourceSpans", "scopeSpans", "spans", "resourceLogs", "scopeLogs", "logRecords", "resource", "scope",
    "attributes", "traceId", "spanId", "parentSpanId", "startTimeUnixNano", "endTimeUnixNano", "kind", "status", "code",
    "events", "links", "key", "value", "stringValue", "intValue", "doubleValue", "boolValue", "bytesValue",
    "arrayValue", "kvlistValue", "values", "body", "eventName", "name", "droppedAttributesCount",
)  # fmt: skip
OTLP_TEXTS = ("0" * 32, "1" * 32, "1" * 16, "x" * 16, "NaN", "1e400", "12", "-5", "SPAN_KIND_CLIENT", "!", "\ud800", "")
json_leaves = st.one_of(
    st.sampled_from(OTLP_TEXTS), st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)
)
json_values = st.recursive(
    json_leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(OTLP_WORDS), inner, max_size=5)
    ),
    max_leaves=20,
)
records = st.one_of(
    json_values,
    st.fixed_dictionaries(
        {"traceId": st.just("1" * 32), "spanId": st.just("2" * 16)},
        optional=dict.fromkeys(("attributes", *OTLP_WORDS[11:]), json_values),
    ),
)


@fuzzed
@given(st.lists(records, max_size=3), json_values)
@example(
    [{"traceId": "1" * 32, "spanId": "2" * 16, "attributes": [{"key": "a", "value": {"stringValue": "\ud800"}}]}], None
)
def test_a_document_of_any_shape_keeps_its_good_spans(listed: list[Any], resource: Any) -> None:
    good = {"traceId": "3" * 32, "spanId": "4" * 16, "name": "good"}
    scope = [{"spans": [*listed, good]}]
    document = {"resourceSpans": [{"resource": {"unknown": resource}, "scopeSpans": scope}]}
    body = json.dumps(document, allow_nan=True).encode()
    try:
        found = otlp.decode_traces(body, otlp.JSON)
    except TraceError:
        assert b"NaN" in body or b"Infinity" in body
        return
    assert len(found.items) + found.n_rejected == len(listed) + 1
    assert found.items[-1].name == "good"
    for span in found.items:
        json.dumps(span.as_json(), ensure_ascii=False, allow_nan=False).encode("utf-8")


# ---------------------------------------------------------------- literals

plain_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=10,
)


@fuzzed
@given(plain_values)
@example(["\\'\"\n\x00\u2028\U0001f600", {"it's": 'he said "no"'}, -1e-30, 10**30])
def test_what_repr_wrote_is_read_as_it_was(value: Any) -> None:
    assert python_literal(repr(value)) == value


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "['a'", "[1 2]", "(1,)", "f'x'", "[a]", "'\\U99999999'", "[" * 1000, "1" * 5000, "[1+1]"],
)
def test_everything_else_is_no_literal(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        python_literal(text)


# ---------------------------------------------------------------- files

SHAPES: dict[str, dict[str, Any]] = {
    "collector": {"resourceSpans": []},
    "phoenix": {"context.trace_id": "1", "context.span_id": "2"},
    "langfuse": {"id": "1", "trace_id": "2", "type": "GENERATION"},
    "requests": {"request": {}},
}
FIELDS = {
    "collector": ("resourceSpans", "resourceLogs"),
    "phoenix": ("context", "attributes", "events", "start_time", "attributes.llm.input_messages", "annotations"),
    "langfuse": (
        "id", "traceId", "type", "input", "output", "startTime", "modelParameters", "usage", "scores", "timestamp",
        "observations", "metadata", "level", "data_type", "value", "parentObservationId", "costDetails",
    ),
    "requests": ("request", "response", "messages", "custom_id", "body", "error", "timestamp", "latency", "feedback"),
}  # fmt: skip


def test_every_source_is_fuzzed() -> None:
    assert sorted(SHAPES) == sorted(FIELDS) == plugins.names("traces.importing")


@pytest.mark.parametrize("source", sources(), ids=lambda s: s.name)
def test_what_a_file_holds_can_be_stored(source: Source) -> None:
    @fuzzed
    @given(seeds, st.lists(st.sampled_from(FIELDS[source.name]), max_size=5))
    def check(seed: int, names: list[str]) -> None:
        fuzz = Fuzz(seed, {})
        text = json.dumps({**SHAPES[source.name], **{name: fuzz.value() for name in names}}, default=repr)
        reader = source.start()
        try:
            taken = [reader.take(parse_json(text.replace("NaN", "1e300").replace("Infinity", "2"))), reader.finish()]
        except ValueError:
            return
        spans = [span for each in taken for span in each.spans]
        events = [event for each in taken for event in each.events]
        kept = otlp.decode_traces(otlp.encode_traces(spans)), otlp.decode_logs(otlp.encode_logs(events))
        assert [len(k.items) + k.n_rejected for k in kept] == [len(spans), len(events)]

    check()


@pytest.mark.parametrize("source", sources(), ids=lambda s: s.name)
def test_a_record_of_any_shape_is_read_or_is_one_kind_of_error(source: Source) -> None:
    @fuzzed
    @given(seeds, st.lists(st.sampled_from(FIELDS[source.name]), max_size=5))
    def check(seed: int, names: list[str]) -> None:
        fuzz = Fuzz(seed, {})
        record = {**SHAPES[source.name], **{name: fuzz.value() for name in names}}
        reader = source.start()
        for given_record in (record, fuzz.value()):
            assert source.recognise(given_record) in (True, False)
            try:
                taken = [reader.take(given_record), reader.finish()]
            except ValueError:
                continue
            spans = [span for each in taken for span in each.spans]
            events = [event for each in taken for event in each.events]
            for call in normalise(spans, events, tenant="t", pseudonym=lambda _: "u").calls:
                assert_goes_to_json_and_back(call)

    check()
