"""The Collector's file exporter: one OTLP document a line, traces or logs, plain, gzip, zstd, or in frames"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import TraceError
from harness.traces.importing import NoOptions, Source, Taken
from harness.traces.otlp import (
    PROTOBUF,
    Decoded,
    decode_logs,
    decode_logs_document,
    decode_traces,
    decode_traces_document,
)

Options = NoOptions
_TRACES, _LOGS = "resourceSpans", "resourceLogs"


def build(options: NoOptions) -> Source:
    """The source."""
    return Source("collector", "lines of OTLP/JSON with resourceSpans or resourceLogs", recognise, Reader)


def recognise(record: Any) -> bool:
    """An OTLP document, or the bytes of one in protobuf."""
    return isinstance(record, bytes) or (isinstance(record, Mapping) and (_TRACES in record or _LOGS in record))


class Reader:
    """Decodes each record by itself."""

    def take(self, record: Any) -> Taken:
        """The spans or log events of one document; metrics hold neither."""
        try:
            return _binary(record) if isinstance(record, bytes) else _document(record)
        except TraceError as error:
            raise ValueError(str(error)) from error

    def finish(self) -> Taken:
        """Nothing waits."""
        return Taken()


def _document(record: Any) -> Taken:
    if not isinstance(record, Mapping):
        raise ValueError(f"expected an object, found {type(record).__name__}")
    if _LOGS in record:
        logs = decode_logs_document(record)
        return Taken(events=logs.items, rejected=logs.rejected)
    if _TRACES in record:
        traces = decode_traces_document(record)
        return Taken(spans=traces.items, rejected=traces.rejected)
    if "resourceMetrics" in record:
        return Taken()
    raise ValueError("no OTLP document: neither resourceSpans nor resourceLogs")


def _binary(record: bytes) -> Taken:
    # Traces and logs look alike on the wire down to the ids; only for spans do these have the right lengths.
    try:
        traces = decode_traces(record, PROTOBUF)
    except TraceError:
        traces = Decoded(())
    if traces.items:
        return Taken(spans=traces.items, rejected=traces.rejected)
    logs = decode_logs(record, PROTOBUF)
    return Taken(events=logs.items, rejected=logs.rejected)
