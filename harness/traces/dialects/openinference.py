"""OpenInference (Arize): flattened messages under `llm.*`, parameters as one JSON string

https://github.com/Arize-ai/openinference/blob/main/spec/semantic_conventions.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.traces._genai import finish_word, first_token, read_tools
from harness.traces._messages import messages
from harness.traces._parameters import request_parameters
from harness.traces._reading import Reading
from harness.traces._trace import Trace
from harness.traces._values import as_number, count, indexed, number, structured_or_none, text
from harness.traces.dialects import Dialect, NoOptions
from harness.traces.records import PARAMETERS, Feedback, Parameters, Span

Options = NoOptions
_HIDDEN = "OPENINFERENCE_HIDE_INPUTS, _HIDE_INPUT_MESSAGES, _HIDE_INPUT_TEXT and _HIDE_OUTPUTS=false (their default)"
REDACTED = "__REDACTED__"


def build(options: NoOptions) -> Dialect:
    """The dialect."""
    return Dialect(
        name="openinference",
        version="1",
        recognise=recognise,
        read=read,
        carries=frozenset(PARAMETERS),
        settings={
            "no-content": _HIDDEN,
            "hidden": _HIDDEN,
            "tools-missing": "OPENINFERENCE_HIDE_LLM_TOOLS=false (the default), and a current instrumentation",
        },
    )


def recognise(span: Span) -> float:
    """A span of kind LLM; without a kind, one with flattened messages or a model."""
    kind = span.attributes.get("openinference.span.kind")
    if isinstance(kind, str):
        return 0.9 if kind.upper() == "LLM" else 0.0
    if any(key.startswith(("llm.input_messages.", "llm.output_messages.")) for key in span.attributes):
        return 0.7
    return 0.6 if text(span.attributes, "llm.model_name") else 0.0


def read(span: Span, trace: Trace) -> Reading:
    """The span; its content stands in attributes alone."""
    attributes = span.attributes
    reading = Reading()
    given: Mapping[str, Any]
    reading.parameters, given = request_parameters(attributes.get("llm.invocation_parameters"), reading)
    if "llm.invocation_parameters" not in attributes:
        for name in PARAMETERS:
            reading.lose(name, "unrecorded", "llm.invocation_parameters is missing")
    reading.provider = text(attributes, "llm.provider", "llm.system").lower()
    answered = text(attributes, "llm.response.model_name", "llm.model_name")
    reading.model_asked = text(attributes, "llm.request.model_name") or text(given, "model", "model_name") or answered
    reading.model_answered = answered
    _content(attributes, reading)
    _usage(attributes, reading)
    reading.first_token = first_token(span, trace.happenings(span))
    reading.feedback = [f for prefix in ("annotations", "evaluations") for f in _feedback(attributes, prefix)]
    return reading


def _content(attributes: Mapping[str, Any], reading: Reading) -> None:
    reading.messages = _flattened(attributes, "llm.input_messages", "messages", "user", reading)
    reading.outputs = _flattened(attributes, "llm.output_messages", "outputs", "assistant", reading)
    definitions, whole = indexed(attributes, "llm.tools")
    read_tools(reading, definitions)
    if not whole:
        reading.lose("tools", "dropped", "llm.tools has gaps")
    _completion(attributes, reading)
    answer = _from_values(attributes, reading)
    finish = text(attributes, "llm.finish_reason")
    ends = [finish_word(end) for choice in _choices(answer) if (end := text(choice, "finish_reason"))]
    reading.finish_reasons = ends or ([finish_word(finish)] if finish else [])
    reading.response_id = text(answer, "id")


def _flattened(attributes: Mapping[str, Any], prefix: str, field: str, role: str, reading: Reading) -> Any:
    listed, whole = indexed(attributes, prefix)
    if not whole:
        reading.lose(field, "dropped", f"{prefix} has gaps")
    return messages(listed, role)


def _completion(attributes: Mapping[str, Any], reading: Reading) -> None:
    """Requests for a completion have a prompt instead of messages."""
    prompts = [_inner(p, "prompt") for p in indexed(attributes, "llm.prompts")[0]]
    choices = [_inner(c, "completion") for c in indexed(attributes, "llm.choices")[0]]
    if prompts and not reading.messages:
        reading.operation = "completion"
        reading.messages = messages(prompts[0], "user")
        reading.outputs = reading.outputs or messages(choices, "assistant")


def _inner(value: Any, key: str) -> str:
    inner = value.get(key) if isinstance(value, Mapping) else None
    return text(inner, "text") if isinstance(inner, Mapping) else ""


def _from_values(attributes: Mapping[str, Any], reading: Reading) -> Mapping[str, Any]:
    """`input.value` and `output.value` hold the raw request and answer; they stand in where messages are missing.

    Where messages are hidden on purpose they stay so, even if the raw request shows them.
    """
    if attributes.get("input.value") == REDACTED and not reading.messages:
        reading.lose("messages", "hidden", "input.value was replaced by a marker")
    request = structured_or_none(attributes.get("input.value"))
    if not reading.messages:
        _from_request(request, attributes.get("input.value"), reading)
    elif isinstance(request, Mapping) and reading.parameters == Parameters():
        reading.parameters, _ = request_parameters(request, reading)
        reading.lost = [loss for loss in reading.lost if loss.detail != "llm.invocation_parameters is missing"]
    answer = structured_or_none(attributes.get("output.value"))
    answer = answer if isinstance(answer, Mapping) else {}
    if not reading.outputs:
        reading.outputs = messages([c.get("message") for c in _choices(answer)], "assistant")
    return answer


def _from_request(request: Any, raw: Any, reading: Reading) -> None:
    if isinstance(request, Mapping) and isinstance(request.get("messages"), list):
        reading.messages = messages(request["messages"], "user")
        read_tools(reading, request.get("tools"))
    elif isinstance(raw, str) and raw and raw != REDACTED and not isinstance(request, Mapping | list):
        reading.messages = messages(raw, "user")


def _choices(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = answer.get("choices")
    return [c for c in listed if isinstance(c, Mapping)] if isinstance(listed, list) else []


def _usage(attributes: Mapping[str, Any], reading: Reading) -> None:
    tokens = "llm.token_count."
    reading.input_tokens = count(attributes, tokens + "prompt")
    reading.output_tokens = count(attributes, tokens + "completion")
    reading.cached_tokens = count(attributes, tokens + "prompt_details.cache_read")
    reading.reasoning_tokens = count(attributes, tokens + "completion_details.reasoning")
    reading.cost = number(attributes, "llm.cost.total")


def _feedback(attributes: Mapping[str, Any], prefix: str) -> list[Feedback]:
    found = []
    for item in indexed(attributes, prefix)[0]:
        inner = item.get(prefix.removesuffix("s")) if isinstance(item, Mapping) else None
        if not isinstance(inner, Mapping) or not text(inner, "name"):
            continue
        score, label = as_number(inner.get("score")), text(inner, "label")
        if score is not None or label:
            kind = text(inner, "annotator_kind").lower()
            source = kind if kind in ("human", "llm", "code") else ""
            found.append(Feedback(text(inner, "name"), score, label, text(inner, "explanation"), source))
    return found
