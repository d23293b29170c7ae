"""Phoenix: spans of `get_spans_dataframe()` as Parquet or JSON lines, and of its REST API or command line as JSON"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.traces._limits import parse_json
from harness.traces._values import structured_or_none, text
from harness.traces.importing import NoOptions, Source, Taken
from harness.traces.importing._shape import flattened, nanoseconds, plain, span_id, trace_id
from harness.traces.records import Span, SpanEvent, SpanStatus

Options = NoOptions
_STATUSES: Mapping[str, SpanStatus] = {"OK": "ok", "ERROR": "error"}
_ATTRIBUTES = "attributes."
_KEPT_WHOLE = ("attributes.metadata", "attributes.llm.invocation_parameters")


def build(options: NoOptions) -> Source:
    """The source."""
    return Source("phoenix", "rows with context.trace_id and attributes (dataframe, Parquet, REST)", recognise, Reader)


def recognise(record: Any) -> bool:
    """A row with the ids of a span in a `context`, flattened or not."""
    if not isinstance(record, Mapping):
        return False
    context = record.get("context")
    return "context.trace_id" in record or (isinstance(context, Mapping) and "trace_id" in context)


class Reader:
    """Turns each row into a span by itself."""

    def take(self, record: Any) -> Taken:
        """The span of one row; raises ValueError for a row that is none."""
        if not recognise(record):
            raise ValueError("no row of Phoenix: context.trace_id is missing")
        return Taken(spans=[_span(record)])

    def finish(self) -> Taken:
        """Nothing waits."""
        return Taken()


def _span(row: Mapping[str, Any]) -> Span:
    context = row.get("context")
    ids = context if isinstance(context, Mapping) else {k: row.get(f"context.{k}") for k in ("trace_id", "span_id")}
    if not ids.get("trace_id") or not ids.get("span_id"):
        raise ValueError("trace_id or span_id is missing")
    parent = row.get("parent_id")
    return Span(
        trace_id=trace_id(ids["trace_id"]),
        span_id=span_id(ids["span_id"]),
        parent_span_id=span_id(parent) if isinstance(parent, str) and parent else "",
        name=text(row, "name"),
        kind="internal",
        start_ns=nanoseconds(row.get("start_time")),
        end_ns=nanoseconds(row.get("end_time")),
        status=_STATUSES.get(text(row, "status_code").upper(), "unset"),
        status_message=text(row, "status_message"),
        attributes=_attributes(row),
        events=_events(row.get("events")),
        scope="phoenix",
    )


def _attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    nested = structured_or_none(row.get("attributes"))
    given = {f"{_ATTRIBUTES}{k}": v for k, v in nested.items()} if isinstance(nested, Mapping) else {}
    for key, value in {**given, **row}.items():
        if not key.startswith(_ATTRIBUTES) or value is None or value != value:  # NaN is the dataframe's "nothing"
            continue
        name = key.removeprefix(_ATTRIBUTES)
        held = _listed(plain(value))
        found.update({name: held} if key in _KEPT_WHOLE else flattened(name, held))
    kind = text(row, "span_kind")
    if kind:
        found.setdefault("openinference.span.kind", kind)
    found.update(_annotations(row.get("annotations")))
    return found


def _listed(value: Any) -> Any:
    """Messages that a spreadsheet or Parquet writer turned into a string of JSON, as what they were."""
    if isinstance(value, str) and value.startswith("[{"):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def _annotations(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    listed = [a for a in value if isinstance(a, Mapping)] if isinstance(value, list) else []
    for number, annotation in enumerate(listed):
        result = annotation.get("result")
        held = {**annotation, **(result if isinstance(result, Mapping) else {})}
        names = ("name", "label", "score", "explanation", "annotator_kind")
        kept = {name: held[name] for name in names if held.get(name) is not None}
        found.update(flattened(f"annotations.{number}.annotation", plain(kept)))
    return found


def _events(value: Any) -> tuple[SpanEvent, ...]:
    listed = structured_or_none(value)
    found = []
    for event in listed if isinstance(listed, list) else ():
        if isinstance(event, Mapping):
            held = event.get("attributes")
            attributes = plain(held) if isinstance(held, Mapping) else {}
            found.append(SpanEvent(text(event, "name"), nanoseconds(event.get("timestamp")), attributes))
    return tuple(found)
