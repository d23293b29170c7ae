"""Spans and log events as OTLP/JSON, and as protobuf made of that, for tests and for what is sent out again"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from harness.traces._otlp import KINDS, STATUSES
from harness.traces.records import LogEvent, Span, canonical_json

_DEEPEST = 24
"""Levels of nested values; below them JSON stands as a text. protobuf reads no message that is 100 levels deep, and a
level of values is up to three of them."""
_KIND_NUMBERS = {word: number for number, word in KINDS.items()}
_STATUS_NUMBERS = {word: number for number, word in STATUSES.items()}


def traces_document(spans: Iterable[Span]) -> dict[str, Any]:
    """A TracesData document in OTLP/JSON; neighbours with equal resource and scope share a group."""
    return {
        "resourceSpans": [
            {"resource": {"attributes": _pairs(resource)}, "scopeSpans": [_scoped(scope, "spans", map(_span, members))]}
            for resource, scope, members in _groups(spans)
        ]
    }


def logs_document(events: Iterable[LogEvent]) -> dict[str, Any]:
    """A LogsData document in OTLP/JSON."""
    return {
        "resourceLogs": [
            {
                "resource": {"attributes": _pairs(resource)},
                "scopeLogs": [_scoped(scope, "logRecords", map(_log, group))],
            }
            for resource, scope, group in _groups(events)
        ]
    }


def to_json(document: Mapping[str, Any]) -> bytes:
    """The document as one line."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def to_protobuf(document: Any, message: Any) -> bytes:
    """The document as the export request that `message` is."""
    from google.protobuf import json_format

    parsed = json_format.ParseDict(_with_base64_ids(document), message)
    return bytes(parsed.SerializeToString())


def _groups(items: Iterable[Any]) -> Iterable[tuple[Mapping[str, Any], tuple[str, str], list[Any]]]:
    for _, group in groupby(items, key=lambda item: (repr(item.resource), item.scope, item.scope_version)):
        members = list(group)
        yield members[0].resource, (members[0].scope, members[0].scope_version), members


def _scoped(scope: tuple[str, str], name: str, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"scope": {"name": scope[0], "version": scope[1]}, name: list(records)}


def _span(span: Span) -> dict[str, Any]:
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "parentSpanId": span.parent_span_id,
        "traceState": span.trace_state,
        "name": span.name,
        "kind": _KIND_NUMBERS[span.kind],
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _pairs(span.attributes),
        "droppedAttributesCount": span.dropped_attributes,
        "droppedEventsCount": span.dropped_events,
        "events": [
            {
                "name": event.name,
                "timeUnixNano": str(event.time_ns),
                "attributes": _pairs(event.attributes),
                "droppedAttributesCount": event.dropped_attributes,
            }
            for event in span.events
        ],
        "links": [
            {"traceId": link.trace_id, "spanId": link.span_id, "attributes": _pairs(link.attributes)}
            for link in span.links
        ],
        "status": {"code": _STATUS_NUMBERS[span.status], "message": span.status_message},
    }


def _log(event: LogEvent) -> dict[str, Any]:
    return {
        "traceId": event.trace_id,
        "spanId": event.span_id,
        "eventName": event.name,
        "timeUnixNano": str(event.time_ns),
        "severityNumber": event.severity,
        "body": _value(event.body),
        "attributes": _pairs(event.attributes),
        "droppedAttributesCount": event.dropped_attributes,
    }


def _pairs(values: Mapping[str, Any], depth: int = _DEEPEST) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value, depth)} for key, value in values.items()]


def _value(value: Any, depth: int = _DEEPEST) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, int):
        fits = -(2**63) <= value < 2**63  # what JSON may hold beyond that keeps its digits as a text
        return {"intValue": str(value)} if fits else {"stringValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value if math.isfinite(value) else _NOT_FINITE[repr(value)]}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode("ascii")}
    if not depth:
        return {"stringValue": canonical_json(value)}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _pairs(value, depth - 1)}}
    return {"arrayValue": {"values": [_value(v, depth - 1) for v in value]}}


_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_IDS = frozenset({"traceId", "spanId", "parentSpanId"})


def _with_base64_ids(value: Any) -> Any:
    # Attributes are lists of objects with the keys "key" and "value", so these names never stand for anything else.
    if isinstance(value, dict):
        return {k: _base64(v) if k in _IDS else _with_base64_ids(v) for k, v in value.items()}
    return [_with_base64_ids(v) for v in value] if isinstance(value, list) else value


def _base64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode("ascii")
