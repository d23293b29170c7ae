"""What of an export request is taken: records that are well-formed, at a possible time, and redacted

Works on OTLP's protobuf messages in place, since the bytes that go to disk are those of the same message. A record that
is refused is removed and counted by its reason; a time that cannot be is replaced by that of arrival and counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
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

        return self._admitted(_TRACES, ExportTraceServiceRequest(), body, now_ns)

    def logs(self, body: bytes, now_ns: int | None = None) -> Admitted:
        """Admit an ExportLogsServiceRequest.

        Raises:
            TraceError: `body` is no such message, or (TooMany) holds more than 65,536 records.
        """
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

        return self._admitted(_LOGS, ExportLogsServiceRequest(), body, now_ns)

    def _admitted(self, shape: _Shape, message: Any, body: bytes, now_ns: int | None) -> Admitted:
        _parse(message, body)
        now = now_ns or time.time_ns()
        rejected: Counter[str] = Counter()
        clamped = sum(_kept(records, shape, now, rejected) for records in shape.records_of(message))
        rejected.update(self._redactor.traces(message) if shape is _TRACES else self._redactor.logs(message))
        return Admitted(message, sum(map(len, shape.records_of(message))), rejected, clamped)


def _parse(message: Any, body: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        if count_records(body, MOST_RECORDS) > MOST_RECORDS:
            raise TooMany(f"more than {MOST_RECORDS} records in one request; send smaller batches")
        message.ParseFromString(body)
    except (DecodeError, Malformed) as error:
        raise TraceError(f"no {type(message).__name__} in protobuf: {error}") from error


def _kept(records: Any, shape: _Shape, now: int, rejected: Counter[str]) -> int:
    """Remove what is refused, mend impossible times; how many times were mended."""
    clamped = 0
    for index in range(len(records) - 1, -1, -1):
        reason = shape.refusal(records[index])
        if reason:
            del records[index]
            rejected[reason] += 1
        else:
            clamped += shape.clamp(records[index], now)
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


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where the records of a kind of request are, why one is refused ("" where it is not), and what mends its time."""

    groups: str
    scopes: str
    records: str
    refusal: Callable[[Any], str]
    clamp: Callable[[Any, int], bool]

    def records_of(self, message: Any) -> list[Any]:
        """The list of records of every scope."""
        return [
            getattr(scoped, self.records)
            for group in getattr(message, self.groups)
            for scoped in getattr(group, self.scopes)
        ]


_TRACES = _Shape("resource_spans", "scope_spans", "spans", _refusal_of_span, _clamp_span)
_LOGS = _Shape("resource_logs", "scope_logs", "log_records", _refusal_of_log, _clamp_log)
