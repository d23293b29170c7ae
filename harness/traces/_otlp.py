"""What both encodings of OTLP have in common: enumerations, ids that stand for none, and why a record is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from harness.traces.records import SpanKind, SpanStatus

Reject = Literal["malformed", "trace-id", "span-id", "parent-id", "time", "too-deep", "too-many"]
"""Why one span or log record was left out: it is no such record, an id or a time is none, its values are nested too
deeply, or a list of it is too long."""

NO_TRACE = bytes(16)
NO_SPAN = bytes(8)
KINDS: Mapping[int, SpanKind] = {
    0: "unspecified", 1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer",
}  # fmt: skip
STATUSES: Mapping[int, SpanStatus] = {0: "unset", 1: "ok", 2: "error"}


class Refused(Exception):
    """One record cannot be read; the rest of its payload can."""

    def __init__(self, reason: Reject) -> None:
        super().__init__(reason)
        self.reason: Reject = reason


def event_name(name: str, attributes: Mapping[str, Any]) -> str:
    """The name of an event: the field of OTLP 1.5, or the attribute that carried it before."""
    older = attributes.get("event.name")
    return name or (older if isinstance(older, str) else "")
