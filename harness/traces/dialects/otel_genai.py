"""OpenTelemetry GenAI semantic conventions, from their first form to semantic-conventions-genai 0.1

https://github.com/open-telemetry/semantic-conventions-genai; the forms are described in `harness.traces._genai`.
"""

from __future__ import annotations

from harness.traces._genai import CARRIED, CHAT, read_genai
from harness.traces._parameters import is_set
from harness.traces._reading import Reading
from harness.traces._trace import Trace
from harness.traces._values import text
from harness.traces.dialects import Dialect, NoOptions
from harness.traces.records import PARAMETERS, Span

Options = NoOptions
CAPTURE = (
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=SPAN_ONLY with "
    "OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental (older instrumentations: …_CONTENT=true, and export logs)"
)


def build(options: NoOptions) -> Dialect:
    """The dialect."""
    return Dialect(
        name="otel_genai",
        version="1",
        recognise=recognise,
        read=read,
        carries=CARRIED,
        settings={
            "no-content": CAPTURE,
            "tools-missing": CAPTURE,
            "external": "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=SPAN_ONLY instead of a completion hook",
        },
    )


def recognise(span: Span) -> float:
    """A span with the operation of a request for text, or (from before operations) with a provider and a model."""
    operation = text(span.attributes, "gen_ai.operation.name", "llm.request.type")
    if operation:
        return 0.5 if operation in CHAT else 0.0
    asked = text(span.attributes, "gen_ai.system", "gen_ai.provider.name") and text(
        span.attributes, "gen_ai.request.model", "gen_ai.response.model"
    )
    return 0.3 if asked and not text(span.attributes, "gen_ai.tool.name", "gen_ai.agent.name") else 0.0


def read(span: Span, trace: Trace) -> Reading:
    """The span and its events."""
    reading = Reading()
    attributes = read_genai(span, trace, reading)
    if "gen_ai.input.messages" not in attributes and reading.messages:
        # Instrumentations that wrote the older forms recorded few parameters, and none of the tools.
        reading.lose("tools", "unrecorded", "the older forms have no place for definitions of tools")
        for name in PARAMETERS:
            if not is_set(reading.parameters, name):
                reading.lose(name, "unrecorded", "instrumentations with the older forms recorded few parameters")
    return reading
