"""Export requests for tests of the receiving side: spans and log records as the SDK would send them."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def set_value(value: Any, given: Any) -> None:
    """Put a plain value into an AnyValue."""
    if isinstance(given, str):
        value.string_value = given
    elif isinstance(given, bool):
        value.bool_value = given
    elif isinstance(given, int):
        value.int_value = given
    elif isinstance(given, float):
        value.double_value = given
    elif isinstance(given, bytes):
        value.bytes_value = given
    elif isinstance(given, list):
        value.array_value.SetInParent()
        for item in given:
            set_value(value.array_value.values.add(), item)
    else:
        value.kvlist_value.SetInParent()
        for key, item in given.items():
            pair = value.kvlist_value.values.add()
            pair.key = key
            set_value(pair.value, item)


def traces(*spans: dict[str, Any], resource: dict[str, Any] | None = None) -> ExportTraceServiceRequest:
    """A request with spans of these attributes; `_` keys are fields: `_name`, `_trace`, `_span`, `_start`, `_end`."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    for key, value in (resource or {"service.name": "shop"}).items():
        pair = group.resource.attributes.add()
        pair.key = key
        set_value(pair.value, value)
    scope = group.scope_spans.add()
    for given in spans:
        made = scope.spans.add()
        now = time.time_ns()
        made.trace_id, made.span_id = given.get("_trace", os.urandom(16)), given.get("_span", os.urandom(8))
        made.name = given.get("_name", "chat m")
        made.start_time_unix_nano = given.get("_start", now - 10**9)
        made.end_time_unix_nano = given.get("_end", now)
        for key, value in given.items():
            if not key.startswith("_"):
                pair = made.attributes.add()
                pair.key = key
                set_value(pair.value, value)
    return request


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    """Attributes of a chat call in OTel GenAI."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "ok"}]}]),
        **more,
    }


def logs(*bodies: Any, trace: bytes = b"", span: bytes = b"", name: str = "") -> ExportLogsServiceRequest:
    """A request with log records of these bodies."""
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for body in bodies:
        made = scope.log_records.add()
        made.time_unix_nano = time.time_ns()
        made.trace_id, made.span_id, made.event_name = trace, span, name
        set_value(made.body, body)
    return request


def attributes(request: ExportTraceServiceRequest, index: int = 0) -> dict[str, Any]:
    """The attributes of one span of a request, strings as they are and others as AnyValue."""
    span = request.resource_spans[0].scope_spans[0].spans[index]
    return {p.key: p.value.string_value or p.value for p in span.attributes}
