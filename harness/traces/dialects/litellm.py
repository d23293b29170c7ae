"""litellm's OpenTelemetry callback (1.106): GenAI attributes, with what they leave out in a child span of its own

https://docs.litellm.ai/docs/observability/opentelemetry_integration. The child `raw_gen_ai_request` holds the request
as it was sent, each field as an attribute `llm.PROVIDER.FIELD`; what is no plain value is written as a Python literal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.traces._genai import CHAT, read_genai, read_tools
from harness.traces._literals import python_literal
from harness.traces._messages import messages
from harness.traces._parameters import merged, parameters
from harness.traces._reading import Reading
from harness.traces._trace import Trace
from harness.traces._values import indexed, number, text
from harness.traces.dialects import Dialect, NoOptions
from harness.traces.records import PARAMETERS, ChatMessage, Span

Options = NoOptions
_RAW = "raw_gen_ai_request"
_LOGGING = "message_logging=True in OpenTelemetryConfig (the default), and litellm.turn_off_message_logging=False"


def build(options: NoOptions) -> Dialect:
    """The dialect."""
    return Dialect(
        name="litellm",
        version="1",
        recognise=recognise,
        read=read,
        carries=frozenset(),  # it leaves out what is zero, temperature above all
        settings={
            "no-content": _LOGGING,
            "hidden": _LOGGING,
            "tools-missing": _LOGGING,
            "truncated": "a larger attribute budget for litellm's callback, or none",
        },
    )


def recognise(span: Span) -> float:
    """A span of the callback's, except the one that only repeats the raw request."""
    attributes = span.attributes
    if span.name == _RAW or not (span.scope == "litellm" or "litellm.call_id" in attributes):
        return 0.0
    operation = text(attributes, "gen_ai.operation.name", "llm.request.type")
    return 0.95 if operation in CHAT else 0.0


def read(span: Span, trace: Trace) -> Reading:
    """The span, and the raw request below it for the parameters that the span leaves out."""
    reading = Reading()
    attributes = read_genai(span, trace, reading)
    if reading.response_id == text(attributes, "litellm.call_id"):
        reading.response_id = ""  # the provider gave none, litellm's own is no id of an answer
    read_tools(reading, indexed(attributes, "llm.request.functions")[0])
    reading.outputs = _with_function_calls(attributes, reading.outputs)
    reading.cost = number(attributes, "gen_ai.cost.total_cost", "litellm.cost.total")
    _complete(reading, _raw_request(span, trace))
    return reading


def _with_function_calls(attributes: Mapping[str, Any], outputs: list[ChatMessage]) -> list[ChatMessage]:
    """Tool calls stand beside the answer, without ids: `gen_ai.completion.N.function_call`, N numbers the calls.

    With several answers it is not recorded whose they are; then only the raw request can tell.
    """
    listed = indexed(attributes, "gen_ai.completion")[0]
    called = tuple(c for m in messages(listed, "assistant") for c in m.tool_calls)
    if len(outputs) > 1 or not called:
        return outputs
    before = outputs[0] if outputs else ChatMessage("assistant")
    return [ChatMessage(before.role, before.parts, before.tool_calls or called)]


def _raw_request(span: Span, trace: Trace) -> Mapping[str, Any]:
    """The fields of the raw request, without the provider in their names."""
    for child in trace.children(span):
        if child.name == _RAW:
            return {
                key.split(".", 2)[2]: value
                for key, value in child.attributes.items()
                if key.startswith("llm.") and key.count(".") >= 2
            }
    return {}


def _complete(reading: Reading, raw: Mapping[str, Any]) -> None:
    asked = {name: _literal(raw[name]) for name in _RAW_PARAMETERS if raw.get(name) not in (None, "")}
    reading.parameters = merged(reading.parameters, parameters(asked, reading))
    read_tools(reading, _literal(raw.get("tools")))
    reading.messages = reading.messages or messages(_literal(raw.get("messages")), "user")
    # Bedrock and Gemini put their parameters into an object of their own, which is not read.
    reading.whole_request = "messages" in raw and not {"inferenceConfig", "generationConfig"} & raw.keys()
    choices = _literal(raw.get("choices"))
    listed = [c.get("message") for c in choices if isinstance(c, Mapping)] if isinstance(choices, list) else []
    answers = messages(listed, "assistant")
    if answers and len(answers) == len(listed):
        reading.outputs = answers  # the raw answer has the ids of the tool calls, and whose they are


_RAW_PARAMETERS = (
    *(name for name in PARAMETERS if name not in ("choices", "stream")), "n", "max_completion_tokens",
    "reasoning", "previous_response_id",
)  # fmt: skip


def _literal(value: Any) -> Any:
    """The value of a Python literal; a string that is none (or too long to be worth it) stays a string."""
    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        return python_literal(value)
    except ValueError:
        return value
