"""traceAI (Future AGI): OTel GenAI names with OpenInference's way of flattening, or with its own under `fi.`

https://github.com/future-agi/traceAI. `gen_ai.input.messages` is a prefix here (`….0.message.role` and so on), the
parameters are one JSON string, and `gen_ai.request.model` is what answered where an answer came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.traces._genai import finish_word, read_genai, read_tools
from harness.traces._messages import messages
from harness.traces._parameters import merged, request_parameters
from harness.traces._reading import Reading
from harness.traces._trace import Trace
from harness.traces._values import indexed, number, structured_or_none, text
from harness.traces.dialects import Dialect, NoOptions
from harness.traces.records import PARAMETERS, Span

Options = NoOptions
_HIDDEN = "FI_HIDE_INPUTS, FI_HIDE_INPUT_MESSAGES and FI_HIDE_INPUT_TEXT=false (their default)"
_KINDS = ("gen_ai.span.kind", "fi.span.kind")


def build(options: NoOptions) -> Dialect:
    """The dialect."""
    return Dialect(
        name="traceai",
        version="1",
        recognise=recognise,
        read=read,
        carries=frozenset(PARAMETERS),
        settings={"no-content": _HIDDEN, "hidden": _HIDDEN, "tools-missing": "a current traceAI instrumentation"},
    )


def recognise(span: Span) -> float:
    """A span of kind LLM."""
    kind = text(span.attributes, *_KINDS)
    if kind:
        return 0.85 if kind.upper() == "LLM" else 0.0
    return 0.8 if any(key.startswith("gen_ai.input.messages.") for key in span.attributes) else 0.0


def read(span: Span, trace: Trace) -> Reading:
    """The span: its own flattened form, and where that is missing the plain GenAI one."""
    reading = Reading()
    attributes = read_genai(span, trace, reading)
    asked, given = request_parameters(
        attributes.get("gen_ai.request.parameters", attributes.get("llm.invocation_parameters")), reading
    )
    reading.parameters = merged(asked, reading.parameters)
    model = text(given, "model")
    if model and model != reading.model_asked:
        reading.model_answered = reading.model_answered or reading.model_asked
        reading.model_asked = model
    if not given:
        for name in PARAMETERS:
            reading.lose(name, "unrecorded", "gen_ai.request.parameters is missing")
    _content(attributes, reading)
    reading.cost = number(attributes, "gen_ai.cost.total", "llm.cost.total")
    return reading


def _content(attributes: Mapping[str, Any], reading: Reading) -> None:
    for prefix in ("gen_ai.input.messages", "llm.input_messages"):
        listed, whole = indexed(attributes, prefix)
        reading.messages = reading.messages or messages(listed, "user")
        if not whole:
            reading.lose("messages", "dropped", f"{prefix} has gaps")
    for prefix in ("gen_ai.output.messages", "llm.output_messages"):
        listed, whole = indexed(attributes, prefix)
        reading.outputs = reading.outputs or messages(listed, "assistant")
        if not whole:
            reading.lose("outputs", "dropped", f"{prefix} has gaps")
    read_tools(reading, indexed(attributes, "gen_ai.tool.definitions")[0])
    finish = text(attributes, "llm.finish_reason")
    reading.finish_reasons = reading.finish_reasons or ([finish_word(finish)] if finish else [])
    _from_values(attributes, reading)


def _from_values(attributes: Mapping[str, Any], reading: Reading) -> None:
    # Unlike OpenInference's, `input.value` is only the first message here; it is never taken for the whole. The output
    # is all there is of a streamed answer; of an answer that calls tools it is a description.
    answer = text(attributes, "output.value")
    if not reading.outputs and answer and not answer.startswith(("Function: ", "{", "[")):
        reading.outputs = messages(answer, "assistant")
    request = structured_or_none(attributes.get("input.value"))
    if not reading.messages and isinstance(request, Mapping) and isinstance(request.get("messages"), list):
        reading.messages = messages(request["messages"], "user")
        read_tools(reading, request.get("tools"))
