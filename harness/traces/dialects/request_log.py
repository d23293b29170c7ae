"""Whole requests and answers in OpenAI's format, as `harness shadow import` writes them from plain logs and exports

`harness.request` holds the body of the request, `harness.response` that of the answer, both as structured values.
`harness.request.whole` is false where the source keeps only some of the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.traces._genai import finish_word, read_tools
from harness.traces._messages import messages
from harness.traces._parameters import parameters
from harness.traces._reading import Reading
from harness.traces._trace import Trace
from harness.traces._values import as_number, count, number, structured_or_none, text
from harness.traces.dialects import Dialect, NoOptions
from harness.traces.records import PARAMETERS, ChatMessage, Feedback, Span

Options = NoOptions
REQUEST = "harness.request"
RESPONSE = "harness.response"
WHOLE = "harness.request.whole"
FEEDBACK = "harness.feedback"


def build(options: NoOptions) -> Dialect:
    """The dialect."""
    return Dialect(
        name="request_log",
        version="1",
        recognise=recognise,
        read=read,
        carries=frozenset(),
        settings={
            "no-content": "log the body of the request (messages, or the prompt) beside the answer",
            "tools-missing": "log the tools of the request",
            "truncated": "log bodies whole",
        },
    )


def recognise(span: Span) -> float:
    """A span with a request or an answer."""
    return 0.99 if REQUEST in span.attributes or RESPONSE in span.attributes else 0.0


def read(span: Span, trace: Trace) -> Reading:
    """The bodies; chat completions, completions and the Responses API are told apart by their fields."""
    reading = Reading()
    request = _object(span.attributes.get(REQUEST))
    answer = _object(span.attributes.get(RESPONSE))
    _asked(request, reading)
    _answered(answer, reading)
    reading.provider = text(span.attributes, "gen_ai.provider.name").lower()
    reading.whole_request = bool(request) and span.attributes.get(WHOLE) is not False
    if not reading.whole_request:
        for name in PARAMETERS:
            if getattr(reading.parameters, name) in (None, ()):
                reading.lose(name, "unrecorded", "the source does not keep every parameter")
    reading.cost = number(span.attributes, "gen_ai.cost.total") or number(answer, "cost", "response_cost")
    reading.first_token = number(span.attributes, "gen_ai.response.time_to_first_chunk")
    reading.feedback = _feedback(span.attributes.get(FEEDBACK))
    return reading


def _object(value: Any) -> Mapping[str, Any]:
    held = structured_or_none(value)
    return held if isinstance(held, Mapping) else {}


def _asked(request: Mapping[str, Any], reading: Reading) -> None:
    reading.model_asked = text(request, "model")
    reading.parameters = parameters(request, reading)
    reading.messages = messages(request.get("messages"), "user") or messages(request.get("input"), "user")
    if not reading.messages and request.get("prompt"):
        reading.operation = "completion"
        reading.messages = messages(request["prompt"], "user")
        if len(reading.messages) > 1:
            reading.lose("messages", "unreadable", "several prompts in one request")
    for key in ("instructions", "system"):  # the Responses API, Anthropic
        if request.get(key):
            reading.messages = [*messages({"role": "system", "content": request[key]}), *reading.messages]
    read_tools(reading, request.get("tools") or request.get("functions"))


def _answered(answer: Mapping[str, Any], reading: Reading) -> None:
    reading.model_answered = text(answer, "model")
    reading.response_id = text(answer, "id")
    listed = answer.get("choices")
    choices = [c for c in listed if isinstance(c, Mapping)] if isinstance(listed, list) else []
    if choices:
        reading.outputs = [made for c in choices for made in _choice(c)]
        reading.finish_reasons = [finish_word(end) for c in choices if (end := text(c, "finish_reason"))]
    else:
        found = messages(answer.get("output", answer.get("content", answer.get("message"))), "assistant")
        reading.outputs = _together(found)
        end = text(answer, "stop_reason", "finish_reason")
        reading.finish_reasons = [finish_word(end)] if end else []
    _usage(_object(answer.get("usage")), reading)


def _choice(choice: Mapping[str, Any]) -> list[ChatMessage]:
    return messages(choice.get("message") or choice.get("text"), "assistant")[:1]


def _together(found: list[ChatMessage]) -> list[ChatMessage]:
    """The Responses API and Anthropic list the pieces of one answer; they are one message."""
    own = [m for m in found if m.role == "assistant"]
    if not own:
        return []
    parts = tuple(p for m in own for p in m.parts)
    return [ChatMessage("assistant", parts, tuple(c for m in own for c in m.tool_calls))]


def _usage(usage: Mapping[str, Any], reading: Reading) -> None:
    reading.input_tokens = count(usage, "prompt_tokens", "input_tokens", "input")
    reading.output_tokens = count(usage, "completion_tokens", "output_tokens", "output")
    asked = _object(usage.get("prompt_tokens_details", usage.get("input_tokens_details")))
    answered = _object(usage.get("completion_tokens_details", usage.get("output_tokens_details")))
    reading.cached_tokens = count({**usage, **asked}, "cached_tokens", "cache_read_input_tokens", "input_cached_tokens")
    reading.reasoning_tokens = count({**usage, **answered}, "reasoning_tokens", "output_reasoning_tokens")


def _feedback(value: Any) -> list[Feedback]:
    found = []
    for item in value if isinstance(value, list) else ():
        if isinstance(item, Mapping) and text(item, "name"):
            score, label = as_number(item.get("score")), text(item, "label")
            if score is not None or label:
                found.append(
                    Feedback(text(item, "name"), score, label, text(item, "explanation"), text(item, "source"))
                )
    return found
