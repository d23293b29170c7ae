"""What of an export request is taken: records that are well-formed, at a possible time, and redacted

Works on OTLP's protobuf messages in place, since the bytes that go to disk are those of the same message. A record that
is refused is removed and counted by its reason; a time that cannot be is replaced by that of arrival and counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import TraceError
from harness.redaction import Finder
from harness.traces._wire import Malformed, count_records
from harness.traces.redaction import Bounds, Pseudonyms, Redactor

MOST_RECORDS = 2**16  # of a request
DAY_NS = 86_400 * 10**9
_AHEAD_NS = 3600 * 10**9  # clocks differ; more than an hour is no difference between clocks
_BEHIND_NS = 3660 * DAY_NS  # ten years
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)


class TooMany(TraceError):
    """A request holds more records than are taken at once."""


@dataclass(slots=True)
class Admitted:
    """What was taken of a request: the redacted message, how many records it holds, and what was not taken as it came.

    `rejected` counts records by the reason for which they were left out, `clamped` those whose time was replaced.
    """

    message: Any
    records: int
    rejected: Counter[str] = field(default_factory=Counter)
    clamped: int = 0

    @property
    def n_rejected(self) -> int:
        """How many records were left out."""
        return sum(self.rejected.values())


class Admission:
    """Admits the requests of one tenant."""

    def __init__(self, names: Pseudonyms, bounds: Bounds | None = None, finders: Sequence[Finder] = ()) -> None:
        self._redactor = Redactor(names, bounds, finders)

    def traces(self, body: bytes, now_ns: int | None = None) -> Admitted:
        """Admit an ExportTraceServiceRequest.

        Raises:
            TraceError: `body` is no such message, or (TooMany) holds more than 65,536 records.
        """
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        message, now = _parsed(ExportTraceServiceRequest(), body), now_ns or time.time_ns()
        rejected: Counter[str] = Counter()
        clamped = sum(
            _kept(scoped.spans, _refusal_of_span, _clamp_span, now, rejected)
            for group in message.resource_spans
            for scoped in group.scope_spans
        )
        rejected.update(self._redactor.traces(message))
        kept = sum(len(scoped.spans) for group in message.resource_spans for scoped in group.scope_spans)
        return Admitted(message, kept, rejected, clamped)

    def logs(self, body: bytes, now_ns: int | None = None) -> Admitted:
        """Admit an ExportLogsServiceRequest.

        Raises:
            TraceError: `body` is no such message, or (TooMany) holds more than 65,536 records.
        """
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

        message, now = _parsed(ExportLogsServiceRequest(), body), now_ns or time.time_ns()
        rejected: Counter[str] = Counter()
        clamped = sum(
            _kept(scoped.log_records, _refusal_of_log, _clamp_log, now, rejected)
            for group in message.resource_logs
            for scoped in group.scope_logs
        )
        rejected.update(self._redactor.logs(message))
        kept = sum(len(scoped.log_records) for group in message.resource_logs for scoped in group.scope_logs)
        return Admitted(message, kept, rejected, clamped)


def _parsed(message: Any, body: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        if count_records(body, MOST_RECORDS) > MOST_RECORDS:
            raise TooMany(f"more than {MOST_RECORDS} records in one request; send smaller batches")
        message.ParseFromString(body)
    except (DecodeError, Malformed) as error:
        raise TraceError(f"no {type(message).__name__} in protobuf: {error}") from error
    return message


def _kept(records: Any, refusal: Any, clamp: Any, now: int, rejected: Counter[str]) -> int:
    """Remove what is refused, mend impossible times; how many times were mended."""
    clamped = 0
    for index in range(len(records) - 1, -1, -1):
        reason = refusal(records[index])
        if reason:
            del records[index]
            rejected[reason] += 1
        else:
            clamped += clamp(records[index], now)
    return clamped


def _refusal_of_span(span: Any) -> str:
    """The conditions under which `otlp.decode_traces` leaves a span out, which must not happen once it is kept."""
    trace, own, parent = span.trace_id, span.span_id, span.parent_span_id
    if len(trace) != 16 or trace == _NO_TRACE:
        return "trace-id"
    if len(own) != 8 or own == _NO_SPAN:
        return "span-id"
    return "parent-id" if parent and len(parent) != 8 else ""


def _refusal_of_log(record: Any) -> str:
    if len(record.trace_id) not in (0, 16):
        return "trace-id"
    return "" if len(record.span_id) in (0, 8) else "span-id"


def _clamp_span(span: Any, now: int) -> bool:
    """A span that starts at an impossible time starts when it arrives; one that ends before it starts took no time."""
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    if _possible(start, now):
        if start <= end <= now + _AHEAD_NS:
            return False
        span.end_time_unix_nano = start
        return True
    lasted = end - start if 0 <= end - start <= DAY_NS else 0
    span.start_time_unix_nano, span.end_time_unix_nano = now - lasted, now
    return True


def _clamp_log(record: Any, now: int) -> bool:
    if not record.time_unix_nano:
        record.time_unix_nano = record.observed_time_unix_nano or now
    if _possible(record.time_unix_nano, now):
        return False
    record.time_unix_nano = now
    return True


def _possible(time_ns: int, now: int) -> bool:
    return now - _BEHIND_NS <= time_ns <= now + _AHEAD_NS
