"""What the receiver answers, in the encoding of the request: OTLP's responses, and google.rpc.Status for refusals

OTLP 1.x, "OTLP/HTTP Response": a body of a 4xx or 5xx is a Status; 429, 502, 503 and 504 alone are sent again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from harness.traces.otlp import JSON, PROTOBUF

_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 408: 4, 411: 3, 413: 8, 415: 3, 429: 8, 500: 13, 503: 14}
_LONGEST = 500


class Refusal(Exception):
    """A request is answered with an error; `retry_after` (seconds) goes with those that may be sent again."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        """Exceptions are copied by their positional arguments, which do not name all of this one."""
        return partial(Refusal, retry_after=self.retry_after), (self.status, self.message)


def encoding_of(content_type: str) -> str | None:
    """OTLP's content type of a header, or None where it is none of them."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind if kind in (PROTOBUF, JSON) else None


def warning(clamped: int) -> str:
    """What is said about times that were replaced."""
    return f"{clamped} with an impossible time, which was replaced by that of arrival" if clamped else ""


def success(signal: str, kind: str, rejected: Mapping[str, int], besides: str) -> bytes:
    """The body of a 200: empty when all was taken, else how many records were not, and why."""
    n = sum(rejected.values())
    reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(rejected.items()))
    message = "; ".join(part for part in (f"rejected {n} ({reasons})" if n else "", besides) if part)
    if kind == JSON:
        return _partial_json(signal, n, message)
    return _partial_protobuf(signal, n, message)


def _partial_json(signal: str, rejected: int, message: str) -> bytes:
    if not message:
        return b"{}"
    name = "rejectedSpans" if signal == "traces" else "rejectedLogRecords"
    return json.dumps({"partialSuccess": {name: str(rejected), "errorMessage": message}}).encode()


def _partial_protobuf(signal: str, rejected: int, message: str) -> bytes:
    if not message:
        return b""
    if signal == "traces":
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        spans = ExportTraceServiceResponse()
        spans.partial_success.rejected_spans, spans.partial_success.error_message = rejected, message
        return bytes(spans.SerializeToString())
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    logs = ExportLogsServiceResponse()
    logs.partial_success.rejected_log_records, logs.partial_success.error_message = rejected, message
    return bytes(logs.SerializeToString())


def refusal(status: int, message: str, kind: str | None) -> tuple[bytes, str]:
    """The body of an error and its content type; JSON where the request's type is unknown."""
    code, message = _CODES.get(status, 2), message[:_LONGEST]
    if kind == PROTOBUF:
        from google.rpc.status_pb2 import Status

        return bytes(Status(code=code, message=message).SerializeToString()), PROTOBUF
    return json.dumps({"code": code, "message": message}).encode(), JSON
