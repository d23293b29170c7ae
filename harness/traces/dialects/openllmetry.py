"""OpenLLMetry (Traceloop): `gen_ai.prompt.N.role` and the like until 0.53, OTel GenAI with additions since

https://github.com/traceloop/openllmetry. Many of its instrumentations (Cohere, Mistral, Ollama, Together, Vertex AI,
watsonx …) still write the indexed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.traces._genai import CARRIED, CHAT, finish_word, read_genai, read_tools
from harness.traces._messages import messages
from harness.traces._parameters import merged
from harness.traces._reading import Reading
from harness.traces._trace import Trace
from harness.traces._values import indexed, structured_or_none, text
from harness.traces.dialects import Dialect, NoOptions
from harness.traces.records import ChatMessage, Parameters, Span

Options = NoOptions
_CONTENT = "TRACELOOP_TRACE_CONTENT=true (the default)"
_SCOPES = frozenset(
    f"opentelemetry.instrumentation.{name}"
    for name in (
        "alephalpha", "anthropic", "bedrock", "cohere", "crewai", "google_generativeai", "groq", "haystack",
        "langchain", "llamaindex", "mistralai", "ollama", "openai.v0", "openai.v1", "replicate", "sagemaker",
        "together", "transformers", "vertexai", "watsonx", "writer",
    )
)  # fmt: skip
_MARKS = ("traceloop.workflow.name", "traceloop.entity.name", "llm.request.type", "gen_ai.is_streaming")


def build(options: NoOptions) -> Dialect:
    """The dialect."""
    return Dialect(
        name="openllmetry",
        version="1",
        recognise=recognise,
        read=read,
        carries=CARRIED - {"seed", "stop", "choices"},
        settings={"no-content": _CONTENT, "tools-missing": _CONTENT},
    )


def recognise(span: Span) -> float:
    """A span of a request for text with marks of Traceloop's, or with indexed prompts."""
    attributes = span.attributes
    kind = text(attributes, "llm.request.type", "gen_ai.operation.name")
    if kind and kind not in CHAT:
        return 0.0
    if text(attributes, "traceloop.span.kind") and not kind:
        return 0.0  # a workflow, task, agent or tool
    if any(key.startswith(("gen_ai.prompt.", "gen_ai.completion.")) for key in attributes):
        return 0.8
    model = text(attributes, "gen_ai.request.model", "gen_ai.response.model")
    marked = span.scope in _SCOPES or any(mark in attributes for mark in _MARKS)
    return 0.75 if model and kind and marked else 0.0


def read(span: Span, trace: Trace) -> Reading:
    """The span in either form; both at once is read as the newer."""
    reading = Reading()
    attributes = read_genai(span, trace, reading)
    if text(attributes, "llm.request.type") == "completion" and not text(attributes, "gen_ai.operation.name"):
        reading.operation = "completion"
    if not reading.messages:
        reading.messages = _indexed(attributes, "gen_ai.prompt", "messages", "user", reading)
    if not reading.outputs:
        reading.outputs = _indexed(attributes, "gen_ai.completion", "outputs", "assistant", reading)
        listed = indexed(attributes, "gen_ai.completion")[0]
        ends = [text(c, "finish_reason") for c in listed if isinstance(c, Mapping)]
        reading.finish_reasons = reading.finish_reasons or [finish_word(end) for end in ends if end]
    if not reading.tools:
        functions, whole = indexed(attributes, "llm.request.functions")
        read_tools(reading, functions)
        if not whole:
            reading.lose("tools", "dropped", "llm.request.functions has gaps")
    _schema(attributes, reading)
    return reading


def _indexed(attributes: Mapping[str, Any], prefix: str, field: str, role: str, reading: Reading) -> list[ChatMessage]:
    listed, whole = indexed(attributes, prefix)
    if not whole:
        reading.lose(field, "dropped", f"{prefix} has gaps")
    return messages([_with_parts(item) for item in listed], role)


def _with_parts(item: Any) -> Any:
    """Content that is a list of parts was written as a string of JSON; a text that merely looks like one stays text."""
    content = item.get("content") if isinstance(item, Mapping) else None
    if isinstance(content, str) and content.startswith("[{"):
        parts = structured_or_none(content)
        if isinstance(parts, list) and all(isinstance(p, Mapping) and text(p, "type") for p in parts):
            return {**item, "content": parts}
    return item


def _schema(attributes: Mapping[str, Any], reading: Reading) -> None:
    schema = structured_or_none(attributes.get("gen_ai.request.structured_output_schema"))
    if isinstance(schema, Mapping):
        made = {"type": "json_schema", "json_schema": {"name": "output", "schema": dict(schema)}}
        reading.parameters = merged(reading.parameters, Parameters(response_format=made))
