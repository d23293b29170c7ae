"""From journal records to the rows of the three tables"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from harness.traces import otlp
from harness.traces._limits import Limits
from harness.traces.records import Call, LogEvent, Span
from harness.traces.redaction import is_pseudonym
from harness.traces.store._catalogue import Table
from harness.traces.store._journal import Record
from harness.traces.store._segments import Row
from harness.traces.store._signature import signature

_ADMITTED = Limits(body_bytes=2**40, depth=200, entries=2**40)  # admission has bounded it; nothing is refused twice


def span_rows(record: Record, run: int) -> Iterator[tuple[Row, Span]]:
    """Each span of a record of traces, as a row and as it is read."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest.FromString(record.body)
    spans = iter(otlp.decode_traces(record.body, limits=_ADMITTED).items)
    for group in request.resource_spans:
        for scoped in group.scope_spans:
            for message in scoped.spans:
                span = next(spans)
                yield (
                    _span_row(record, run, message, span, _alone(ExportTraceServiceRequest, group, scoped, message)),
                    span,
                )


def read_message(table: Table, message: bytes) -> tuple[Span, ...] | tuple[LogEvent, ...]:
    """What a row's `message` holds."""
    if table == "spans":
        return otlp.decode_traces(message, limits=_ADMITTED).items
    return otlp.decode_logs(message, limits=_ADMITTED).items


def _span_row(record: Record, run: int, message: Any, span: Span, alone: bytes) -> Row:
    return {
        "tenant": record.tenant, "trace_id": message.trace_id, "span_id": message.span_id,
        "received_ns": record.received_ns, "run": run, "parent_id": message.parent_span_id, "name": span.name,
        "start_ns": span.start_ns, "end_ns": span.end_ns, "user_key": _user(span.attributes),
        "service": str(span.resource.get("service.name", "")), "message": alone,
    }  # fmt: skip


def _user(attributes: Mapping[str, Any]) -> str:
    """The pseudonym that admission put in place of the user's id, or nothing."""
    return next((v for v in attributes.values() if isinstance(v, str) and is_pseudonym(v)), "")


def _alone(kind: Any, group: Any, scoped: Any, message: Any) -> bytes:
    """A request that holds this one record, with its resource and scope."""
    request = kind()
    if hasattr(request, "resource_spans"):
        outer = request.resource_spans.add(resource=group.resource, schema_url=group.schema_url)
        outer.scope_spans.add(scope=scoped.scope, schema_url=scoped.schema_url, spans=[message])
    else:
        outer = request.resource_logs.add(resource=group.resource, schema_url=group.schema_url)
        outer.scope_logs.add(scope=scoped.scope, schema_url=scoped.schema_url, log_records=[message])
    content: bytes = request.SerializeToString()
    return content


def log_rows(record: Record, run: int) -> Iterator[tuple[Row, LogEvent]]:
    """Each log event of a record of logs, as a row and as it is read."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    request = ExportLogsServiceRequest.FromString(record.body)
    events = iter(otlp.decode_logs(record.body, limits=_ADMITTED).items)
    for group in request.resource_logs:
        for scoped in group.scope_logs:
            for message in scoped.log_records:
                event, alone = next(events), _alone(ExportLogsServiceRequest, group, scoped, message)
                yield {
                    "tenant": record.tenant, "trace_id": message.trace_id, "span_id": message.span_id,
                    "received_ns": record.received_ns, "run": run, "start_ns": event.time_ns, "name": event.name,
                    "digest": hashlib.blake2b(alone, digest_size=16).digest(), "message": alone,
                }, event  # fmt: skip


def call_row(call: Call, received_ns: int, run: int) -> Row:
    """The row of a call: what a sample is chosen by, and the call itself."""
    return {
        "tenant": call.tenant, "trace_id": bytes.fromhex(call.trace_id), "span_id": bytes.fromhex(call.span_id),
        "received_ns": received_ns, "run": run, "start_ns": call.time_ns, "session_key": session_key(call.cluster),
        "session": call.session, "user_key": call.user, "service": call.service, "model": call.model_asked,
        "model_answered": call.model_answered, "operation": call.operation, "dialect": call.dialect,
        "run_id": call.run_id, "replayable": call.replayable, "reason": call.why_not.reason if call.why_not else "",
        "setting": call.why_not.setting if call.why_not else "", "error": call.error.type if call.error else "",
        "n_messages": len(call.messages), "n_tools": len(call.tools), "input_tokens": call.input_tokens,
        "output_tokens": call.output_tokens, "latency": call.latency, "request_hash": call.request_hash,
        "signature": signature(call), "call": _json(call),
    }  # fmt: skip


def session_key(cluster: str) -> int:
    """A 64-bit hash of what a call stands or falls with, by which samples are drawn."""
    return int.from_bytes(hashlib.blake2b(cluster.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _json(call: Call) -> str:
    import json

    return json.dumps(call.as_json(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
