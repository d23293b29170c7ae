"""Plain logs of requests in OpenAI's format: pairs of request and answer, Batch API files, stored completions

One JSON object a line, of one of these shapes:
- `{"request": {…}, "response": {…}, …}`, with what else is known beside them: `timestamp`, `latency` (seconds) or
  `latency_ms`, `session_id`, `user_id`, `run_id`, `trace_id`, `metadata`, `error`, `feedback`;
- a line of a Batch API input (`custom_id`, `body`) or output (`custom_id`, `response`); both files imported together
  are paired by `custom_id`, in either order;
- request and answer in one object (`messages` beside `choices`), as stored completions are exported;
- `messages` alone: a conversation whose last message, if it is the assistant's, is the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.traces._values import as_number, text
from harness.traces.dialects.request_log import FEEDBACK, REQUEST, RESPONSE
from harness.traces.importing import NoOptions, Source, Taken
from harness.traces.importing._shape import nanoseconds, plain, span_id, trace_id
from harness.traces.records import Span

Options = NoOptions
_REQUESTS = ("request", "body", "request_body")
_ANSWERS = ("response", "response_body", "answer")
_MOST_WAITING = 1_000_000
_IDS = {"session_id": "session.id", "user_id": "user.id", "run_id": "run_id", "user": "user.id"}


def build(options: NoOptions) -> Source:
    """The source."""
    return Source("requests", "lines with request and response, messages, or a Batch API body", recognise, Reader)


def recognise(record: Any) -> bool:
    """An object with a request, an answer or messages."""
    if not isinstance(record, Mapping):
        return False
    whole = any(isinstance(record.get(key), Mapping) for key in (*_REQUESTS, *_ANSWERS))
    return whole or isinstance(record.get("messages"), list) or ("custom_id" in record and "error" in record)


class Reader:
    """Pairs the lines of a Batch API's two files; every other line stands for itself."""

    def __init__(self) -> None:
        self._waiting: dict[str, Mapping[str, Any]] = {}
        self._taken = 0

    def take(self, record: Any) -> Taken:
        """The span of one line, none while its other half is awaited; raises ValueError for what is no request."""
        if not recognise(record):
            raise ValueError("no request: expected request and response, messages, or a line of the Batch API")
        self._taken += 1
        custom_id = record.get("custom_id")
        if not isinstance(custom_id, str):
            return Taken(spans=[_span(record, str(self._taken))])
        other = self._waiting.pop(custom_id, None)
        if other is not None:
            return Taken(spans=[_span({**other, **record}, custom_id)])
        if len(self._waiting) >= _MOST_WAITING:
            raise ValueError(f"more than {_MOST_WAITING} lines of a batch wait for their other half")
        self._waiting[custom_id] = record
        return Taken()

    def finish(self) -> Taken:
        """Requests without an answer, and answers without a request."""
        rest, self._waiting = self._waiting, {}
        return Taken(spans=[_span(record, custom_id) for custom_id, record in rest.items()])


def _span(record: Mapping[str, Any], number: str) -> Span:
    request, answer, failure = _bodies(record)
    # The number keeps apart two equal requests of one file; the content keeps apart those of two files.
    identity = json.dumps([number, record], sort_keys=True, default=str)
    given = text(record, "span_id", "id", "request_id")
    start = nanoseconds(_first(record, "timestamp", "created_at", "start_time", "time") or answer.get("created"))
    return Span(
        trace_id=trace_id(text(record, "trace_id") or identity),
        span_id=span_id(given or identity),
        parent_span_id="",
        name=text(record, "url") or "request",
        kind="client",
        start_ns=start,
        end_ns=_end(record, start),
        status="error" if failure else "unset",
        status_message=failure,
        attributes=_attributes(record, request, answer),
        scope="requests",
    )


def _first(record: Mapping[str, Any], *keys: str) -> Any:
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _bodies(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any], str]:
    """(request, answer, what failed): each empty where there is none."""
    request, answer = _object(record, _REQUESTS), _object(record, _ANSWERS)
    failure = _failure(record.get("error"))
    if isinstance(answer.get("body"), Mapping):  # the Batch API wraps the answer once more
        status = answer.get("status_code")
        answer = answer["body"]
        if isinstance(status, int) and status >= 400:
            failure = failure or _failure(answer.get("error")) or f"status {status}"
    failure = failure or _failure(answer.get("error"))
    if not request and isinstance(record.get("messages"), list):
        request, answer = _in_one(record, answer)
    return request, answer, failure


def _object(record: Mapping[str, Any], keys: tuple[str, ...]) -> Mapping[str, Any]:
    return next((record[key] for key in keys if isinstance(record.get(key), Mapping)), {})


def _in_one(record: Mapping[str, Any], answer: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    beside = {*_ANSWERS, "choices", "usage", "metadata", "timestamp", "created", "object", "id", *_IDS}
    request = {key: value for key, value in record.items() if key not in beside}
    if not answer and isinstance(record.get("choices"), list):
        answer = {key: record[key] for key in ("id", "model", "choices", "usage", "created") if key in record}
    last = record["messages"][-1] if record["messages"] else None
    if not answer and isinstance(last, Mapping) and last.get("role") == "assistant":
        request["messages"] = record["messages"][:-1]
        answer = {"choices": [{"index": 0, "message": last}]}
    return request, answer


def _failure(error: Any) -> str:
    if isinstance(error, Mapping):
        return text(error, "message", "code", "type") or ("error" if error else "")
    return error if isinstance(error, str) else ""


def _end(record: Mapping[str, Any], start: int) -> int:
    end = nanoseconds(_first(record, "end_time", "completed_at"))
    if end or not start:
        return end
    seconds = as_number(_first(record, "latency", "latency_s", "duration"))
    milliseconds = as_number(_first(record, "latency_ms", "duration_ms"))
    if seconds is None and milliseconds is not None:
        seconds = milliseconds / 1000
    # Without either, an end before the start says that the latency is not known.
    return start + int(seconds * 1e9) if seconds is not None and seconds >= 0 else 0


def _attributes(record: Mapping[str, Any], request: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    metadata = _first(record, "metadata") or _first(request, "metadata")
    found: dict[str, Any] = {
        REQUEST: plain(request),
        RESPONSE: plain(answer),
        FEEDBACK: plain(record.get("feedback")) if isinstance(record.get("feedback"), list) else None,
        "gen_ai.provider.name": text(record, "provider"),
        "metadata": plain(metadata) if isinstance(metadata, Mapping) else None,
        "user.id": text(request, "user"),
    }
    found.update({name: text(record, key) for key, name in _IDS.items() if text(record, key)})
    return {key: value for key, value in found.items() if value not in (None, "", {})}
