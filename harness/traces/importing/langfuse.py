"""Langfuse: observations, traces and scores, from the blob storage export, the user interface or the API

JSON or JSON lines, with keys in snake_case or camelCase. A trace becomes a root span, so that its user, session and
metadata reach the observations below it, whichever file they stand in; a score becomes the result of an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.traces._values import as_number, structured_or_none, text
from harness.traces.dialects.request_log import REQUEST, RESPONSE, WHOLE
from harness.traces.importing import NoOptions, Source, Taken
from harness.traces.importing._shape import nanoseconds, plain, span_id, trace_id
from harness.traces.records import LogEvent, Span, canonical_json

Options = NoOptions
_OBSERVATIONS = frozenset({
    "GENERATION", "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL",
})  # fmt: skip
_TRACE_KEYS = ("project_id", "bookmarked", "public")


def build(options: NoOptions) -> Source:
    """The source."""
    return Source("langfuse", "observations, traces or scores of a Langfuse export", recognise, Reader)


def recognise(record: Any) -> bool:
    """An observation, a trace or a score."""
    return isinstance(record, Mapping) and _kind(_snake(record)) != ""


class Reader:
    """Turns each record into spans and events by itself; ids tie them together."""

    def take(self, record: Any) -> Taken:
        """The spans and events of one record; raises ValueError for one that is none of the three."""
        if not isinstance(record, Mapping):
            raise ValueError(f"expected an object, found {type(record).__name__}")
        row = _snake(record)
        kind = _kind(row)
        if kind == "observation":
            return Taken(spans=[_observation(row)])
        if kind == "score":
            return Taken(events=[_score(row)])
        if kind == "trace":
            return Taken(spans=list(_trace(row)), events=[_score({"trace_id": row["id"], **s}) for s in _scores(row)])
        raise ValueError("neither an observation nor a trace nor a score of Langfuse")

    def finish(self) -> Taken:
        """Nothing waits."""
        return Taken()


def _snake(record: Mapping[str, Any]) -> dict[str, Any]:
    def name(key: Any) -> str:
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in str(key)).lstrip("_")

    return {name(key): value for key, value in record.items()}


def _kind(row: Mapping[str, Any]) -> str:
    if not isinstance(row.get("id"), str):
        return ""
    if "trace_id" in row and text(row, "type").upper() in _OBSERVATIONS:
        return "observation"
    if "trace_id" in row and "data_type" in row and ("value" in row or "string_value" in row):
        return "score"
    listed = isinstance(row.get("observations"), list)
    return "trace" if listed or ("timestamp" in row and any(key in row for key in _TRACE_KEYS)) else ""


def _root(trace: Any) -> str:
    return span_id(f"trace:{trace}")


def _observation(row: Mapping[str, Any]) -> Span:
    if not row.get("id"):
        raise ValueError("an observation without an id")
    trace = row.get("trace_id")
    parent = row.get("parent_observation_id")
    failed = text(row, "level").upper() == "ERROR"
    return Span(
        trace_id=trace_id(trace or row["id"]),
        span_id=span_id(row["id"]),
        parent_span_id=span_id(parent) if parent else _root(trace),
        name=text(row, "name"),
        kind="internal",
        start_ns=nanoseconds(row.get("start_time")),
        end_ns=nanoseconds(row.get("end_time")),
        status="error" if failed else "unset",
        status_message=text(row, "status_message"),
        attributes={**_identity(row), **(_generation(row) if text(row, "type").upper() == "GENERATION" else {})},
        scope="langfuse",
    )


def _trace(row: Mapping[str, Any]) -> Iterator[Span]:
    yield Span(
        trace_id=trace_id(row["id"]),
        span_id=_root(row["id"]),
        name=text(row, "name"),
        start_ns=nanoseconds(row.get("timestamp")),
        attributes=_identity(row),
        scope="langfuse",
    )
    listed = row.get("observations")
    for inner in listed if isinstance(listed, list) else ():
        if isinstance(inner, Mapping):  # the API may list ids only
            yield _observation({"trace_id": row["id"], **_snake(inner)})


def _scores(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = row.get("scores")
    return [_snake(s) for s in listed if isinstance(s, Mapping)] if isinstance(listed, list) else []


def _identity(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = structured_or_none(row.get("metadata"))
    found = {
        "session.id": text(row, "session_id"),
        "user.id": text(row, "user_id"),
        "metadata": plain(metadata) if isinstance(metadata, Mapping) else None,
    }
    return {key: value for key, value in found.items() if value}


def _generation(row: Mapping[str, Any]) -> dict[str, Any]:
    start, first = nanoseconds(row.get("start_time")), nanoseconds(row.get("completion_start_time"))
    usage = structured_or_none(row.get("usage_details")) or structured_or_none(row.get("usage"))
    answer = {"model": text(row, "model", "provided_model_name"), "usage": plain(usage) if usage else None}
    cost = structured_or_none(row.get("cost_details"))
    total = cost.get("total") if isinstance(cost, Mapping) else None
    attributes = {
        REQUEST: _request(row),
        RESPONSE: {**answer, **_answer(structured_or_none(row.get("output")), row.get("output"))},
        WHOLE: False,
        "gen_ai.cost.total": as_number(total if total is not None else row.get("calculated_total_cost")),
        "gen_ai.response.time_to_first_chunk": (first - start) / 1e9 if first > start > 0 else None,
    }
    return {key: value for key, value in attributes.items() if value is not None}


def _request(row: Mapping[str, Any]) -> dict[str, Any]:
    given = structured_or_none(row.get("model_parameters"))
    asked = structured_or_none(row.get("input"))
    held: Any = asked if asked is not None else row.get("input")
    body = plain(held) if isinstance(held, Mapping) and "messages" in held else {"messages": plain(held)}
    settings = plain(given) if isinstance(given, Mapping) else {}
    return {**settings, **body, "model": text(row, "model", "provided_model_name")}


def _answer(output: Any, raw: Any) -> dict[str, Any]:
    if isinstance(output, Mapping) and "choices" in output:
        return dict(plain(output))
    held = output if output is not None else raw
    if held in (None, "", []):
        return {}
    is_message = isinstance(held, Mapping) and any(key in held for key in ("role", "content", "parts", "tool_calls"))
    content = held if isinstance(held, str | list) else canonical_json(plain(held))
    message = held if is_message else {"role": "assistant", "content": content}
    return {"choices": [{"index": 0, "message": plain(message)}]}


def _score(row: Mapping[str, Any]) -> LogEvent:
    observation = row.get("observation_id")
    trace = row.get("trace_id") or ""
    label = text(row, "string_value") or (text(row, "value") if isinstance(row.get("value"), str) else "")
    attributes = {
        "gen_ai.evaluation.name": text(row, "name"),
        "gen_ai.evaluation.score.value": None if label else as_number(row.get("value")),
        "gen_ai.evaluation.score.label": label,
        "gen_ai.evaluation.explanation": text(row, "comment"),
        "harness.feedback.source": {"ANNOTATION": "human", "EVAL": "llm"}.get(text(row, "source").upper(), ""),
    }
    return LogEvent(
        trace_id=trace_id(trace),
        span_id=span_id(observation) if observation else _root(trace),
        name="gen_ai.evaluation.result",
        time_ns=nanoseconds(row.get("timestamp")),
        attributes={key: value for key, value in attributes.items() if value not in (None, "")},
        scope="langfuse",
    )
