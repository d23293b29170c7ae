"""OTLP in protobuf into spans and log events; the hot path of ingestion, so values are taken without a detour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from harness.errors import TraceError
from harness.traces._limits import Limits
from harness.traces._otlp import KINDS, NO_SPAN, NO_TRACE, STATUSES, Refused, event_name
from harness.traces.records import LogEvent, Span, SpanEvent, SpanLink

_Item = TypeVar("_Item", Span, LogEvent)

_SCALARS = frozenset({"string_value", "int_value", "bool_value", "double_value", "bytes_value"})


def spans(body: bytes, limits: Limits, counts: Counter[Any]) -> Iterator[Span]:
    """Every good span of an export request; the others are counted."""
    groups = _parsed(ExportTraceServiceRequest(), body).resource_spans
    return _records(groups, "scope_spans", "spans", _span, limits, counts)


def log_events(body: bytes, limits: Limits, counts: Counter[Any]) -> Iterator[LogEvent]:
    """Every good log record of an export request; the others are counted."""
    groups = _parsed(ExportLogsServiceRequest(), body).resource_logs
    return _records(groups, "scope_logs", "log_records", _log_event, limits, counts)


def _records(
    groups: Any, scopes: str, records: str, read: Callable[..., _Item], limits: Limits, counts: Counter[Any]
) -> Iterator[_Item]:
    for group in groups:
        resource = _shared(group.resource.attributes, limits)
        for scoped in getattr(group, scopes):
            for message in getattr(scoped, records):
                try:
                    yield read(message, resource, scoped.scope, limits)
                except Refused as refusal:
                    counts[refusal.reason] += 1


def _parsed(message: Any, body: bytes) -> Any:
    kind = type(message).__name__
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise TraceError(f"no {kind} in protobuf: {error}") from error
    return message


def _shared(attributes: Iterable[Any], limits: Limits) -> dict[str, Any]:
    try:
        return _attributes(attributes, limits)
    except Refused as refusal:
        raise TraceError(f"the attributes of a resource cannot be read: {refusal.reason}") from refusal


def _span(message: Any, resource: dict[str, Any], scope: Any, limits: Limits) -> Span:
    status = message.status
    return Span(
        trace_id=_id(message.trace_id, 16, "trace-id"),
        span_id=_id(message.span_id, 8, "span-id"),
        parent_span_id=_id(message.parent_span_id, 8, "parent-id", optional=True),
        name=message.name,
        kind=KINDS.get(message.kind, "unspecified"),
        start_ns=message.start_time_unix_nano,
        end_ns=message.end_time_unix_nano,
        status=STATUSES.get(status.code, "unset"),
        status_message=status.message,
        attributes=_attributes(message.attributes, limits),
        events=_events(message.events, limits),
        links=_links(message.links, limits),
        resource=resource,
        scope=scope.name,
        scope_version=scope.version,
        trace_state=message.trace_state,
        dropped_attributes=message.dropped_attributes_count,
        dropped_events=message.dropped_events_count,
    )


def _events(messages: Any, limits: Limits) -> tuple[SpanEvent, ...]:
    if len(messages) > limits.entries:
        raise Refused("too-many")
    return tuple(
        SpanEvent(m.name, m.time_unix_nano, _attributes(m.attributes, limits), m.dropped_attributes_count)
        for m in messages
    )


def _links(messages: Any, limits: Limits) -> tuple[SpanLink, ...]:
    if len(messages) > limits.entries:
        raise Refused("too-many")
    # A link that leads nowhere takes nothing from the span that holds it.
    return tuple(
        SpanLink(m.trace_id.hex(), m.span_id.hex(), _attributes(m.attributes, limits))
        for m in messages
        if len(m.trace_id) == 16 and len(m.span_id) == 8
    )


def _log_event(message: Any, resource: dict[str, Any], scope: Any, limits: Limits) -> LogEvent:
    attributes = _attributes(message.attributes, limits)
    return LogEvent(
        trace_id=_id(message.trace_id, 16, "trace-id", optional=True),
        span_id=_id(message.span_id, 8, "span-id", optional=True),
        name=event_name(message.event_name, attributes),
        time_ns=message.time_unix_nano or message.observed_time_unix_nano,
        severity=message.severity_number,
        body=_value(message.body, limits.depth, limits),
        attributes=attributes,
        resource=resource,
        scope=scope.name,
        scope_version=scope.version,
        dropped_attributes=message.dropped_attributes_count,
    )


def _id(raw: bytes, length: int, reason: Any, *, optional: bool = False) -> str:
    if optional and (not raw or raw in (NO_SPAN, NO_TRACE)):
        return ""
    if len(raw) != length or raw in (NO_SPAN, NO_TRACE):
        raise Refused(reason)
    return raw.hex()


def _attributes(pairs: Any, limits: Limits) -> dict[str, Any]:
    if len(pairs) > limits.entries:
        raise Refused("too-many")
    values = {}
    for pair in pairs:
        held = pair.value
        kind = held.WhichOneof("value")
        values[pair.key] = getattr(held, kind) if kind in _SCALARS else _value(held, limits.depth, limits)
    return values


def _value(held: Message, depth: int, limits: Limits) -> Any:
    kind = held.WhichOneof("value")
    if kind is None:
        return None
    inner = getattr(held, kind)
    if kind in _SCALARS:
        return inner
    if kind not in ("array_value", "kvlist_value"):
        return None  # a later version's kind of value, unknown to this one
    if depth == 0:
        raise Refused("too-deep")
    if len(inner.values) > limits.entries:
        raise Refused("too-many")
    if kind == "array_value":
        return [_value(v, depth - 1, limits) for v in inner.values]
    return {pair.key: _value(pair.value, depth - 1, limits) for pair in inner.values}
