"""OTLP in and out: what the real exporters send, what the JSON encoding allows, and what is refused with its reason."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest

from harness.errors import TraceError
from harness.traces import otlp
from harness.traces._limits import Limits
from harness.traces.records import LogEvent, Span

IDS = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331"}


def document(*spans: Any) -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}).encode()


def decoded(**fields: Any) -> Span:
    found = otlp.decode_traces(document({**IDS, **fields}), otlp.JSON)
    assert not found.rejected
    (span,) = found.items
    return span


def rejected(*spans: Any, **limits: int) -> dict[str, int]:
    found = otlp.decode_traces(document(*spans), otlp.JSON, Limits(**limits))
    return dict(found.rejected)


def attribute(value: Any) -> list[dict[str, Any]]:
    return [{"key": "a", "value": value}]


def test_spans_of_the_real_sdk_arrive_as_they_were_made() -> None:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Keeping(SpanExporter):
        def __init__(self) -> None:
            self.sent: list[Any] = []

        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            self.sent += spans
            return SpanExportResult.SUCCESS

    kept = Keeping()
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("tests", "2")
    with tracer.start_as_current_span("outer") as outer, tracer.start_as_current_span("inner") as inner:
        inner.set_attributes({"text": "ä", "flag": True, "count": 7, "ratio": 0.5, "words": ["a", "b"]})
        inner.add_event("happened", {"n": 1})
    found = otlp.decode_traces(encode_spans(kept.sent).SerializeToString())
    span = next(s for s in found.items if s.name == "inner")
    assert span.trace_id == f"{inner.get_span_context().trace_id:032x}"
    assert span.parent_span_id == f"{outer.get_span_context().span_id:016x}"
    assert span.attributes == {"text": "ä", "flag": True, "count": 7, "ratio": 0.5, "words": ["a", "b"]}
    assert (span.kind, span.scope, span.scope_version) == ("internal", "tests", "2")
    assert span.resource["service.name"] == "shop"
    assert span.events[0].name == "happened"
    assert span.start_ns <= span.events[0].time_ns <= span.end_ns


def test_ids_are_hexadecimal_and_come_out_in_lower_case() -> None:
    span = decoded(traceId=IDS["traceId"].upper(), parentSpanId="00F067AA0BA902B7")
    assert (span.trace_id, span.parent_span_id) == (IDS["traceId"], "00f067aa0ba902b7")


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"stringValue": "x"}, "x"),
        ({"intValue": "9007199254740993"}, 9007199254740993),
        ({"intValue": -3}, -3),
        ({"doubleValue": "Infinity"}, float("inf")),
        ({"doubleValue": 2}, 2.0),
        ({"boolValue": False}, False),
        ({"bytesValue": base64.b64encode(b"\x00\xff").decode()}, b"\x00\xff"),
        ({"arrayValue": {"values": [{"intValue": "1"}, {}]}}, [1, None]),
        ({"kvlistValue": {"values": [{"key": "k", "value": {"stringValue": "v"}}]}}, {"k": "v"}),
        ({"arrayValue": {}}, []),
        ({}, None),
        ({"laterValue": 1}, None),
        ({"stringValue": "a\ud800b"}, "a\ufffdb"),
    ],
)
def test_every_kind_of_value_is_read(given: Any, value: Any) -> None:
    read = decoded(attributes=attribute(given)).attributes["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("kind", [3, "SPAN_KIND_CLIENT"])
def test_enumerations_are_numbers_or_names(kind: Any) -> None:
    span = decoded(kind=kind, status={"code": 2 if kind == 3 else "STATUS_CODE_ERROR", "message": "no"})
    assert (span.kind, span.status, span.status_message) == ("client", "error", "no")


def test_an_unknown_enumeration_and_unknown_fields_are_no_error() -> None:
    span = decoded(kind=99, status={"code": 17}, flags=257, later={"a": [1]})
    assert (span.kind, span.status) == ("unspecified", "unset")


def test_times_are_strings_or_numbers_of_nanoseconds() -> None:
    span = decoded(startTimeUnixNano="1700000000000000001", endTimeUnixNano=1700000000000000002)
    assert (span.start_ns, span.end_ns) == (1700000000000000001, 1700000000000000002)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"traceId": "0" * 32}, "trace-id"),
        ({"traceId": "0af7"}, "trace-id"),
        ({"traceId": base64.b64encode(bytes(range(16))).decode()}, "trace-id"),
        ({"spanId": 5}, "span-id"),
        ({"parentSpanId": "xyz"}, "parent-id"),
        ({"startTimeUnixNano": "yesterday"}, "time"),
        ({"endTimeUnixNano": -1}, "time"),
        ({"attributes": {"a": 1}}, "malformed"),
        ({"attributes": attribute({"intValue": "1e3"})}, "malformed"),
        ({"attributes": attribute({"intValue": str(2**63)})}, "malformed"),
        ({"attributes": attribute({"bytesValue": "?"})}, "malformed"),
        ({"events": [7]}, "malformed"),
    ],
)
def test_a_wrong_span_is_counted_by_its_reason_and_the_others_are_kept(wrong: dict[str, Any], reason: str) -> None:
    found = otlp.decode_traces(document({**IDS, **wrong}, {**IDS, "name": "good"}), otlp.JSON)
    assert found.rejected == {reason: 1}
    assert [s.name for s in found.items] == ["good"]


def test_lists_and_depth_are_bounded() -> None:
    nested: Any = {"stringValue": "x"}
    for _ in range(4):
        nested = {"arrayValue": {"values": [nested]}}
    many = [{"key": str(n), "value": {}} for n in range(9)]
    spans = ({**IDS, "attributes": attribute(nested)}, {**IDS, "attributes": many})
    assert rejected(*spans, depth=3, entries=8) == {"too-deep": 1, "too-many": 1}
    assert rejected(*spans, depth=4, entries=9) == {}


def test_the_same_bounds_hold_in_protobuf() -> None:
    span = Span(trace_id=IDS["traceId"], span_id=IDS["spanId"], attributes={"a": [[["x"]]], "b": 1})
    body = otlp.encode_traces([span])
    assert otlp.decode_traces(body, limits=Limits(depth=2)).rejected == {"too-deep": 1}
    assert otlp.decode_traces(body, limits=Limits(entries=1)).rejected == {"too-many": 1}
    assert otlp.decode_traces(body, limits=Limits(depth=3)).items == (span,)


@pytest.mark.parametrize(
    ("body", "content_type", "problem"),
    [
        (b"[]", otlp.JSON, "expected an object with resourceSpans"),
        (b'{"resourceSpans": {}}', otlp.JSON, "resourceSpans is dict, not a list"),
        (b'{"resourceSpans": [1]}', otlp.JSON, "holds int"),
        (b'{"resourceSpans": NaN}', otlp.JSON, "NaN is not a JSON number"),
        (b"\xff", otlp.JSON, "utf-8"),
        (b"[" * 100_000, otlp.JSON, "nested too deeply"),
        (b"\x0f\xff", otlp.PROTOBUF, "no ExportTraceServiceRequest in protobuf"),
        (b"{}", "text/plain", "content type 'text/plain' is not OTLP"),
    ],
)
def test_what_is_no_otlp_at_all_says_what_is_wrong(body: bytes, content_type: str, problem: str) -> None:
    with pytest.raises(TraceError, match="(?s)" + problem):
        otlp.decode_traces(body, content_type)


def test_a_body_over_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(TraceError, match="at most 10 are read"):
        otlp.decode_traces(b"\xff" * 11, limits=Limits(body_bytes=10))


def test_an_empty_request_is_a_success() -> None:
    assert otlp.decode_traces(b"").items == ()
    assert otlp.decode_logs(b"{}", "application/json; charset=utf-8").items == ()


def test_log_records_need_no_span_and_take_their_name_from_field_or_attribute() -> None:
    records = [
        {"eventName": "gen_ai.choice", "body": {"stringValue": "x"}, "timeUnixNano": "5"},
        {"attributes": [{"key": "event.name", "value": {"stringValue": "older"}}], "observedTimeUnixNano": "6"},
        {"traceId": "0" * 32, "spanId": ""},
    ]
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).encode()
    named, older, plain = otlp.decode_logs(body, otlp.JSON).items
    assert (named.name, named.body, named.time_ns) == ("gen_ai.choice", "x", 5)
    assert (older.name, older.time_ns) == ("older", 6)
    assert plain == LogEvent()


def test_the_real_proto_classes_read_what_is_encoded() -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    span = Span(IDS["traceId"], IDS["spanId"], name="x", attributes={"n": float("nan")}, resource={"r": 1})
    message = ExportTraceServiceRequest.FromString(otlp.encode_traces([span, span]))
    (group,) = message.resource_spans
    assert [s.trace_id.hex() for s in group.scope_spans[0].spans] == [IDS["traceId"]] * 2


@pytest.mark.parametrize("content_type", [otlp.PROTOBUF, otlp.JSON])
def test_a_number_that_no_field_holds_keeps_its_digits(content_type: str) -> None:
    given = Span("1" * 32, "2" * 16, attributes={"seed": 10**40, "list": [2**63], "fits": -(2**63)})
    (read,) = otlp.decode_traces(otlp.encode_traces([given], content_type), content_type).items
    assert read.attributes == {"seed": str(10**40), "list": [str(2**63)], "fits": -(2**63)}


@pytest.mark.parametrize("content_type", [otlp.PROTOBUF, otlp.JSON])
def test_what_is_nested_deeper_than_any_reader_goes_stands_as_json(content_type: str) -> None:
    value: Any = "x"
    for _ in range(80):
        value = {"a": [value]}
    given = Span("1" * 32, "2" * 16, attributes={"deep": value})
    (read,) = otlp.decode_traces(otlp.encode_traces([given], content_type), content_type).items
    inner = read.attributes["deep"]
    while not isinstance(inner, str):
        inner = inner["a"] if isinstance(inner, dict) else inner[0]
    assert inner.startswith('{"a":[{"a":[')
    assert inner.count("a") == 80 - 12
