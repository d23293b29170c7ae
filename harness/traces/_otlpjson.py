"""OTLP in JSON into spans and log events, by a walk of its own: protobuf's JSON reader takes hex ids for base64."""

from __future__ import annotations

import base64
import binascii
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from harness.errors import TraceError
from harness.traces._limits import Limits, parse_json
from harness.traces._otlp import KINDS, STATUSES, Refused, event_name
from harness.traces.records import LogEvent, Span, SpanEvent, SpanLink

_KIND_NAMES = {f"SPAN_KIND_{word.upper()}": number for number, word in KINDS.items()}
_STATUS_NAMES = {f"STATUS_CODE_{word.upper()}": number for number, word in STATUSES.items()}
_UINT64 = 2**64
_INT64 = 2**63
_Word = TypeVar("_Word")


def spans(body: bytes, limits: Limits, counts: Counter[Any]) -> Iterator[Span]:
    """Every good span of an export request; the others are counted."""
    return spans_in(_parsed(body), limits, counts)


def log_events(body: bytes, limits: Limits, counts: Counter[Any]) -> Iterator[LogEvent]:
    """Every good log record of an export request; the others are counted."""
    return log_events_in(_parsed(body), limits, counts)


def spans_in(document: Any, limits: Limits, counts: Counter[Any]) -> Iterator[Span]:
    """Every good span of a parsed document; the others are counted."""
    for resource, scope, record in _records(document, ("resourceSpans", "scopeSpans", "spans"), limits):
        try:
            yield _span(record, resource, scope, limits)
        except Refused as refusal:
            counts[refusal.reason] += 1


def log_events_in(document: Any, limits: Limits, counts: Counter[Any]) -> Iterator[LogEvent]:
    """Every good log record of a parsed document; the others are counted."""
    for resource, scope, record in _records(document, ("resourceLogs", "scopeLogs", "logRecords"), limits):
        try:
            yield _log_event(record, resource, scope, limits)
        except Refused as refusal:
            counts[refusal.reason] += 1


def _parsed(body: bytes) -> Any:
    try:
        return parse_json(body, depth=None)
    except ValueError as error:
        raise TraceError(f"no OTLP/JSON: {error}") from error


def _records(
    document: Any, names: tuple[str, str, str], limits: Limits
) -> Iterator[tuple[dict[str, Any], dict[str, Any], Any]]:
    """(resource attributes, scope, record) of everything in a document of three nested lists."""
    if not isinstance(document, dict):
        raise TraceError(f"no OTLP/JSON: expected an object with {names[0]}, found {type(document).__name__}")
    for group in _objects(document, names[0]):
        resource = _shared(group, limits)
        for scoped in _objects(group, names[1]):
            scope = scoped.get("scope")
            for record in _listed(scoped, names[2]):
                yield resource, scope if isinstance(scope, dict) else {}, record


def _listed(holder: Mapping[str, Any], name: str) -> list[Any]:
    found = holder.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise TraceError(f"no OTLP/JSON: {name} is {type(found).__name__}, not a list")
    return found


def _objects(holder: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    for item in _listed(holder, name):
        if not isinstance(item, dict):
            raise TraceError(f"no OTLP/JSON: {name} holds {type(item).__name__}, not objects")
        yield item


def _shared(group: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    resource = group.get("resource")
    try:
        return _attributes(resource, limits) if isinstance(resource, dict) else {}
    except Refused as refusal:
        raise TraceError(f"the attributes of a resource cannot be read: {refusal.reason}") from refusal


def _span(record: Any, resource: dict[str, Any], scope: dict[str, Any], limits: Limits) -> Span:
    if not isinstance(record, dict):
        raise Refused("malformed")
    status = record.get("status")
    status = status if isinstance(status, dict) else {}
    return Span(
        trace_id=_id(record.get("traceId"), 32, "trace-id"),
        span_id=_id(record.get("spanId"), 16, "span-id"),
        parent_span_id=_id(record.get("parentSpanId"), 16, "parent-id", optional=True),
        name=_text(record, "name"),
        kind=_word(record.get("kind"), KINDS, _KIND_NAMES, "unspecified"),
        start_ns=_time(record, "startTimeUnixNano"),
        end_ns=_time(record, "endTimeUnixNano"),
        status=_word(status.get("code"), STATUSES, _STATUS_NAMES, "unset"),
        status_message=_text(status, "message"),
        attributes=_attributes(record, limits),
        events=tuple(_event(e, limits) for e in _bounded(record, "events", limits)),
        links=tuple(link for each in _bounded(record, "links", limits) if (link := _link(each, limits))),
        resource=resource,
        scope=_text(scope, "name"),
        scope_version=_text(scope, "version"),
        trace_state=_text(record, "traceState"),
        dropped_attributes=_count(record, "droppedAttributesCount"),
        dropped_events=_count(record, "droppedEventsCount"),
    )


def _event(record: Any, limits: Limits) -> SpanEvent:
    if not isinstance(record, dict):
        raise Refused("malformed")
    return SpanEvent(
        _text(record, "name"),
        _time(record, "timeUnixNano"),
        _attributes(record, limits),
        _count(record, "droppedAttributesCount"),
    )


def _link(record: Any, limits: Limits) -> SpanLink | None:
    # A link that leads nowhere takes nothing from the span that holds it.
    try:
        trace_id = _id(record.get("traceId"), 32, "trace-id")
        return SpanLink(trace_id, _id(record.get("spanId"), 16, "span-id"), _attributes(record, limits))
    except (Refused, AttributeError):
        return None


def _log_event(record: Any, resource: dict[str, Any], scope: dict[str, Any], limits: Limits) -> LogEvent:
    if not isinstance(record, dict):
        raise Refused("malformed")
    attributes = _attributes(record, limits)
    return LogEvent(
        trace_id=_id(record.get("traceId"), 32, "trace-id", optional=True),
        span_id=_id(record.get("spanId"), 16, "span-id", optional=True),
        name=event_name(_text(record, "eventName"), attributes),
        time_ns=_time(record, "timeUnixNano") or _time(record, "observedTimeUnixNano"),
        severity=_count(record, "severityNumber"),
        body=_value(record.get("body"), limits.depth, limits),
        attributes=attributes,
        resource=resource,
        scope=_text(scope, "name"),
        scope_version=_text(scope, "version"),
        dropped_attributes=_count(record, "droppedAttributesCount"),
    )


# ---------------------------------------------------------------- single fields


def _id(value: Any, digits: int, reason: Any, *, optional: bool = False) -> str:
    if value is None or value == "":
        if optional:
            return ""
        raise Refused(reason)
    try:
        raw = bytes.fromhex(value) if isinstance(value, str) and len(value) == digits else b""
    except ValueError:
        raw = b""
    if len(raw) * 2 == digits and any(raw):
        return raw.hex()
    if optional and raw:
        return ""
    raise Refused(reason)


def _text(holder: Mapping[str, Any], name: str) -> str:
    value = holder.get(name)
    return value if isinstance(value, str) else ""


def _integer(value: Any) -> int:
    """A 64-bit integer as OTLP/JSON may write it: a number, or a string of digits."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) <= 20:
        try:
            return int(value)
        except ValueError:
            pass
    raise Refused("malformed")


def _time(holder: Mapping[str, Any], name: str) -> int:
    value = holder.get(name)
    if value is None:
        return 0
    try:
        nanoseconds = _integer(value)
    except Refused:
        nanoseconds = -1
    if not 0 <= nanoseconds < _UINT64:
        raise Refused("time")
    return nanoseconds


def _count(holder: Mapping[str, Any], name: str) -> int:
    value = holder.get(name)
    return value if type(value) is int and 0 <= value < 2**32 else 0


def _word(value: Any, by_number: Mapping[int, _Word], by_name: Mapping[str, int], default: _Word) -> _Word:
    if isinstance(value, str):
        value = by_name.get(value, -1)
    return by_number.get(value, default) if type(value) is int else default


def _bounded(holder: Mapping[str, Any], name: str, limits: Limits) -> list[Any]:
    found = holder.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise Refused("malformed")
    if len(found) > limits.entries:
        raise Refused("too-many")
    return found


def _attributes(holder: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    return _pairs(_bounded(holder, "attributes", limits), limits.depth, limits)


def _pairs(pairs: list[Any], depth: int, limits: Limits) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        if not isinstance(pair, dict) or not isinstance(key := pair.get("key"), str):
            raise Refused("malformed")
        values[key] = _value(pair.get("value"), depth, limits)
    return values


def _value(held: Any, depth: int, limits: Limits) -> Any:
    if held is None:
        return None
    if not isinstance(held, dict):
        raise Refused("malformed")
    for kind, inner in held.items():
        if kind == "stringValue" and isinstance(inner, str):
            return inner
        if kind in _READERS:
            return _READERS[kind](inner, depth, limits)
    return None  # no value, or a later version's kind of value


def _array(inner: Any, depth: int, limits: Limits) -> list[Any]:
    return [_value(v, depth - 1, limits) for v in _values_in(inner, depth, limits)]


def _kvlist(inner: Any, depth: int, limits: Limits) -> dict[str, Any]:
    return _pairs(_values_in(inner, depth, limits), depth - 1, limits)


def _values_in(inner: Any, depth: int, limits: Limits) -> list[Any]:
    if not isinstance(inner, dict):
        raise Refused("malformed")
    if depth == 0:
        raise Refused("too-deep")
    return _bounded(inner, "values", limits)


def _boolean(inner: Any, *_: Any) -> bool:
    if not isinstance(inner, bool):
        raise Refused("malformed")
    return inner


def _int64(inner: Any, *_: Any) -> int:
    number = _integer(inner)
    if not -_INT64 <= number < _INT64:
        raise Refused("malformed")
    return number


def _double(inner: Any, *_: Any) -> float:
    if isinstance(inner, str) and inner in ("NaN", "Infinity", "-Infinity"):
        return float(inner)
    if isinstance(inner, str) and len(inner) <= 40:
        try:
            inner = float(inner)
        except ValueError:
            raise Refused("malformed") from None
        return _finite(inner)
    if isinstance(inner, bool) or not isinstance(inner, int | float):
        raise Refused("malformed")
    try:
        return float(inner)
    except OverflowError:
        raise Refused("malformed") from None


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise Refused("malformed")
    return number


def _bytes(inner: Any, *_: Any) -> bytes:
    try:
        return base64.b64decode(inner + "=" * (-len(inner) % 4), altchars=None, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise Refused("malformed") from None


def _string(*_: Any) -> str:
    raise Refused("malformed")


_READERS: Mapping[str, Callable[[Any, int, Limits], Any]] = {
    "stringValue": _string, "boolValue": _boolean, "intValue": _int64, "doubleValue": _double,
    "arrayValue": _array, "kvlistValue": _kvlist, "bytesValue": _bytes,
}  # fmt: skip
