"""vLLM's own spans (`--otlp-traces-endpoint`): what a request cost and how long it took, never what it said

https://docs.vllm.ai (vllm.tracing). Such a span adds its latencies to the call of an instrumented client in the same
trace; alone it cannot be asked again.
"""

from __future__ import annotations

from harness.traces._parameters import parameters
from harness.traces._reading import Reading
from harness.traces._trace import Trace
from harness.traces._values import count, number, text
from harness.traces.dialects import Dialect, NoOptions
from harness.traces.records import Span

Options = NoOptions
_LATENCY = "gen_ai.latency.time_in_queue"
_CARRIED = frozenset({"temperature", "top_p", "max_tokens", "choices"})


def build(options: NoOptions) -> Dialect:
    """The dialect."""
    return Dialect(
        name="vllm",
        version="1",
        recognise=recognise,
        read=read,
        carries=_CARRIED,
        settings={
            "no-content": (
                "vLLM records no content: instrument the client that calls it (for OpenTelemetry's, "
                "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=SPAN_ONLY) and let it propagate traceparent"
            )
        },
    )


def recognise(span: Span) -> float:
    """A span `llm_request`, or one with the engine's latencies."""
    named = span.name == "llm_request" and ("gen_ai.request.id" in span.attributes or span.scope.startswith("vllm"))
    return 0.92 if named or _LATENCY in span.attributes else 0.0


def read(span: Span, trace: Trace) -> Reading:
    """The span; it has no content."""
    attributes = span.attributes
    reading = Reading(provider="vllm", model_answered=text(attributes, "gen_ai.response.model"))
    names = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_tokens", "n": "choices"}
    asked = {name: attributes.get(f"gen_ai.request.{key}") for key, name in names.items()}
    reading.parameters = parameters(asked, reading)
    reading.input_tokens = count(attributes, "gen_ai.usage.prompt_tokens")
    reading.output_tokens = count(attributes, "gen_ai.usage.completion_tokens")
    reading.first_token = number(attributes, "gen_ai.latency.time_to_first_token")
    return reading
