"""Records are counted before they are parsed, as many as protobuf would find."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from harness.traces._wire import Malformed, count_records
from harness.traces.admission import MOST_RECORDS, Admission, TooMany
from harness.traces.redaction import Pseudonyms
from tests.fuzzing import examples
from tests.trace_requests import chat, logs, traces


def by_protobuf(request: ExportTraceServiceRequest) -> int:
    groups = request.resource_spans
    return sum(1 + sum(1 + len(scoped.spans) for scoped in group.scope_spans) for group in groups)


def test_traces_and_logs_are_counted_with_their_resources_and_scopes() -> None:
    request = traces(chat(), chat(), {})
    assert count_records(request.SerializeToString(), 100) == by_protobuf(request) == 5
    assert count_records(logs("a", "b").SerializeToString(), 100) == 4
    assert count_records(b"", 100) == 0
    assert count_records(traces(*[{}] * 50).SerializeToString(), 10) == 11


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=60))
def test_what_protobuf_reads_is_counted_the_same(body: bytes) -> None:
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        return
    groups = sum(1 for _ in request.resource_spans)
    try:
        assert count_records(body, 1000) >= groups
    except Malformed:
        assert groups == 0 or b"\x0b" in body or any(byte & 7 in (3, 4, 6, 7) for byte in body)


def test_a_bomb_of_empty_spans_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = b"\x12\x00" * (MOST_RECORDS + 1)
    request = ExportTraceServiceRequest.FromString(b"")
    scope = b"\x12" + varint(len(spans)) + spans
    body = b"\x0a" + varint(len(scope)) + scope
    with pytest.raises(TooMany, match="send smaller batches"):
        Admission(Pseudonyms(b"k", "acme")).traces(body)
    assert not request.resource_spans


def varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])
