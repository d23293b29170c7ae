"""OTLP traces and logs, protobuf and JSON, into spans and log events, and back.

What cannot be read at all is one `TraceError`. A span that is wrong by itself is left out and counted by its reason, so
that a receiver can answer with a partial success, and the rest is kept. JSON is read as OTLP/JSON, which is not
protobuf's JSON: ids are hexadecimal, enumerations are numbers (names are taken too), 64-bit integers are strings or
numbers, bytes are base64, unknown fields are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Generic, TypeVar

from harness.errors import PluginError, TraceError, nearest
from harness.plugins import missing_extra
from harness.traces import _otlpencode, _otlpjson
from harness.traces._limits import LIMITS, Limits
from harness.traces._otlp import Reject as Reject
from harness.traces.records import LogEvent, Span

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_Item = TypeVar("_Item", Span, LogEvent)


@dataclass(frozen=True, slots=True)
class Decoded(Generic[_Item]):
    """What a payload held, in its order, and how many records were left out for which reason (one of `Reject`)."""

    items: tuple[_Item, ...]
    rejected: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_rejected(self) -> int:
        """How many records were left out."""
        return sum(self.rejected.values())


def decode_traces(body: bytes, content_type: str = PROTOBUF, limits: Limits = LIMITS) -> Decoded[Span]:
    """The spans of an ExportTraceServiceRequest (or TracesData, which is the same on the wire).

    Raises:
        TraceError: the body is too large, of another type, or no such message; nothing of it was read.
    """
    return _decoded(_reader(body, content_type, limits).spans, body, limits)


def decode_logs(body: bytes, content_type: str = PROTOBUF, limits: Limits = LIMITS) -> Decoded[LogEvent]:
    """The log records of an ExportLogsServiceRequest (or LogsData).

    Raises:
        TraceError: the body is too large, of another type, or no such message; nothing of it was read.
    """
    return _decoded(_reader(body, content_type, limits).log_events, body, limits)


def decode_traces_document(document: Any, limits: Limits = LIMITS) -> Decoded[Span]:
    """The spans of a parsed OTLP/JSON document.

    Raises:
        TraceError: it is no such document.
    """
    return _decoded(_otlpjson.spans_in, document, limits)


def decode_logs_document(document: Any, limits: Limits = LIMITS) -> Decoded[LogEvent]:
    """The log records of a parsed OTLP/JSON document.

    Raises:
        TraceError: it is no such document.
    """
    return _decoded(_otlpjson.log_events_in, document, limits)


def encode_traces(spans: Iterable[Span], content_type: str = PROTOBUF) -> bytes:
    """An ExportTraceServiceRequest that `decode_traces` reads back unchanged.

    Raises:
        TraceError: the content type is none of OTLP's.
    """
    return _encoded(_otlpencode.traces_document(spans), content_type, "ExportTraceServiceRequest")


def encode_logs(events: Iterable[LogEvent], content_type: str = PROTOBUF) -> bytes:
    """An ExportLogsServiceRequest that `decode_logs` reads back unchanged.

    Raises:
        TraceError: the content type is none of OTLP's.
    """
    return _encoded(_otlpencode.logs_document(events), content_type, "ExportLogsServiceRequest")


def _decoded(
    read: Callable[[Any, Limits, Counter[str]], Iterable[_Item]], source: Any, limits: Limits
) -> Decoded[_Item]:
    """What a reader finds, and how much it has left out."""
    left_out: Counter[str] = Counter()
    items = tuple(read(source, limits, left_out))
    return Decoded(items, dict(left_out))


def _encoded(document: Any, content_type: str, message: str) -> bytes:
    if _is_json(content_type):
        return _otlpencode.to_json(document)
    return _otlpencode.to_protobuf(document, getattr(_protobuf(), message)())


def _reader(body: bytes, content_type: str, limits: Limits) -> Any:
    if len(body) > limits.body_bytes:
        raise TraceError(f"{len(body)} bytes of telemetry in one piece; at most {limits.body_bytes} are read")
    return _otlpjson if _is_json(content_type) else _protobuf()


def _protobuf() -> ModuleType:
    try:
        from harness.traces import _otlpproto
    except ImportError as error:
        raise PluginError(missing_extra("reading OTLP in protobuf", error)) from error
    return _otlpproto


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (PROTOBUF, JSON):
        raise TraceError(f"content type {kind[:100]!r} is not OTLP: {nearest(kind[:100], (PROTOBUF, JSON))}")
    return kind == JSON
