"""Records that are well-formed are taken, others are counted; impossible times are replaced."""

from __future__ import annotations

import json
import time

import pytest

from harness.errors import TraceError
from harness.traces import otlp
from harness.traces.admission import DAY_NS, Admission
from harness.traces.redaction import Pseudonyms
from tests.trace_requests import logs, traces

NOW = time.time_ns()


@pytest.fixture
def admission() -> Admission:
    return Admission(Pseudonyms(b"k" * 32, "acme"))


@pytest.mark.parametrize(
    ("span", "reason"),
    [
        ({"_trace": b""}, "trace-id"),
        ({"_trace": bytes(16)}, "trace-id"),
        ({"_trace": b"x" * 15}, "trace-id"),
        ({"_span": b"x" * 9}, "span-id"),
        ({"_span": bytes(8)}, "span-id"),
    ],
)
def test_a_span_with_a_wrong_id_is_left_out_alone(admission: Admission, span: dict[str, bytes], reason: str) -> None:
    admitted = admission.traces(traces({}, span, {}).SerializeToString())
    assert (admitted.records, dict(admitted.rejected)) == (2, {reason: 1})


def test_what_is_admitted_can_be_read_back_to_the_last_span(admission: Admission) -> None:
    request = traces({}, {"x": [[["a"]]]}, {"_span": b"short"})
    request.resource_spans[0].scope_spans[0].spans[0].parent_span_id = b"12"
    admitted = admission.traces(request.SerializeToString())
    decoded = otlp.decode_traces(admitted.message.SerializeToString())
    assert len(decoded.items) == admitted.records == 1
    assert not decoded.rejected


@pytest.mark.parametrize(
    ("start", "end", "kept"),
    [
        (NOW - 10**9, NOW, (NOW - 10**9, NOW)),
        (NOW + 30 * 60 * 10**9, NOW + 30 * 60 * 10**9, (NOW + 30 * 60 * 10**9,) * 2),
        (NOW + 2 * 3600 * 10**9, NOW + 2 * 3600 * 10**9 + 5, (NOW - 5, NOW)),
        (0, 0, (NOW, NOW)),
        (2**64 - 1, 2**64 - 1, (NOW, NOW)),
        (NOW - 4000 * DAY_NS, NOW, (NOW, NOW)),
        (NOW, NOW - 5, (NOW, NOW)),
    ],
    # Named, because every process that collects these tests has a clock of its own.
    ids=["just-over", "a-little-ahead", "from-the-future", "none", "overflowing", "ages-ago", "ends-before-it-begins"],
)
def test_impossible_times_are_replaced_by_that_of_arrival(
    admission: Admission, start: int, end: int, kept: tuple[int, int]
) -> None:
    admitted = admission.traces(traces({"_start": start, "_end": end}).SerializeToString(), NOW)
    span = admitted.message.resource_spans[0].scope_spans[0].spans[0]
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == kept
    assert admitted.clamped == (kept != (start, end))


def test_logs_may_stand_alone_and_are_counted_when_their_ids_are_wrong(admission: Admission) -> None:
    request = logs("a", "b")
    request.resource_logs[0].scope_logs[0].log_records[1].trace_id = b"123"
    admitted = admission.logs(request.SerializeToString())
    assert (admitted.records, dict(admitted.rejected)) == (1, {"trace-id": 1})


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05ab", json.dumps({}).encode()])
def test_what_is_no_request_is_an_error(admission: Admission, body: bytes) -> None:
    with pytest.raises(TraceError, match="no ExportTraceServiceRequest in protobuf"):
        admission.traces(body)
