"""Spans for tests: the recorded fixtures, and short ways to make others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.traces.normal import Normalised, normalise
from harness.traces.otlp import JSON, decode_logs, decode_traces
from harness.traces.records import LogEvent, Span

FIXTURES = Path(__file__).parent / "fixtures" / "traces"
TRACE = "0af7651916cd43dd8448eb211c80319c"
USER = {"role": "user", "parts": [{"type": "text", "content": "Where is my order?"}]}
ANSWER = {"role": "assistant", "parts": [{"type": "text", "content": "On its way."}], "finish_reason": "stop"}


def fixture(name: str) -> tuple[tuple[Span, ...], tuple[LogEvent, ...]]:
    """Spans and log events of `dialect/scenario`."""
    document = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
    traces = decode_traces(json.dumps(document["traces"]).encode(), JSON)
    logs = decode_logs(json.dumps(document["logs"]).encode(), JSON)
    assert not traces.rejected
    assert not logs.rejected
    return traces.items, logs.items


def span(attributes: dict[str, Any], number: int = 1, parent: int = 0, **fields: Any) -> Span:
    """A span of trace TRACE whose id is `number`."""
    defaults: dict[str, Any] = {
        "trace_id": TRACE,
        "span_id": f"{number:016x}",
        "parent_span_id": f"{parent:016x}" if parent else "",
        "name": "chat",
        "start_ns": 1_700_000_000_000_000_000 + number * 1000,
        "end_ns": 1_700_000_001_000_000_000 - number * 1000,
        "attributes": attributes,
    }
    return Span(**{**defaults, **fields})


def genai(**more: Any) -> dict[str, Any]:
    """Attributes of an OTel GenAI call with content; a name `a__b` stands for the attribute `gen_ai.a.b`."""
    given = {f"gen_ai.{name.replace('__', '.')}": value for name, value in more.items()}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.input.messages": json.dumps([USER]),
        "gen_ai.output.messages": json.dumps([ANSWER]),
        **given,
    }


def calls(*spans: Span, events: tuple[LogEvent, ...] = (), tenant: str = "acme") -> Normalised:
    """The spans normalised, with users as they are, so that a test can see who they were."""
    return normalise(spans, events, tenant=tenant, pseudonym=lambda user: f"pseudonym of {user}")
