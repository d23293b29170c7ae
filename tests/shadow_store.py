"""A store of production traces for tests: conversations of a service, span by span as OpenTelemetry has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.traces.records import Span, SpanEvent
from harness.traces.store import Store

BEGIN = 1_764_000_000_000_000_000  # 2025-11-24, 16:00 UTC
WEATHER = {
    "type": "function", "name": "weather", "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}  # fmt: skip


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def called(city: str, number: int = 1, name: str = "weather") -> dict[str, Any]:
    part = {"type": "tool_call", "id": f"c{number}", "name": name, "arguments": {"city": city}}
    return {"role": "assistant", "parts": [part]}


def told(text: str, number: int = 1) -> dict[str, Any]:
    return {"role": "tool", "parts": [{"type": "tool_call_response", "id": f"c{number}", "response": text}]}


def call(
    number: int,
    messages: Sequence[Mapping[str, Any]],
    answer: Mapping[str, Any] | None,
    *,
    session: str = "",
    user: str = "",
    tools: Sequence[Mapping[str, Any]] = (),
    events: Sequence[SpanEvent] = (),
    **more: Any,
) -> Span:
    """One request of the service as a span of a trace of its own, a second after the call before it."""
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "support-7b",
        "gen_ai.input.messages": json.dumps(list(messages)),
        **({} if answer is None else {"gen_ai.output.messages": json.dumps([answer])}),
        **({"gen_ai.conversation.id": session} if session else {}),
        **({"user.id": user} if user else {}),
        **({"gen_ai.tool.definitions": json.dumps(list(tools))} if tools else {}),
        **{f"gen_ai.{name.replace('__', '.')}": value for name, value in more.items()},
    }
    start = BEGIN + number * 1_000_000_000
    return Span(
        f"{number + 1:032x}", f"{number + 1:016x}", name="chat support-7b", kind="client", start_ns=start,
        end_ns=start + 250_000_000, attributes=attributes, events=tuple(events),
    )  # fmt: skip


def feedback(**attributes: Any) -> SpanEvent:
    """What somebody said about a call: `name`, `score__value`, `score__label`."""
    named = {f"gen_ai.evaluation.{name.replace('__', '.')}": value for name, value in attributes.items()}
    return SpanEvent("gen_ai.evaluation.result", BEGIN, {**named, "harness.feedback.source": "human"})


def store_of(folder: Path, spans: Iterable[Span], tenant: str = "acme") -> Path:
    """The folder of a store that holds the spans, compacted."""
    path = folder / "store"
    with Store.open(path) as store:
        assert not store.append(tenant, list(spans))
        store.compact()
    return path


_TOPICS = (
    "invoice", "parcel", "password", "refund", "battery", "contract", "delivery", "discount", "warranty", "address",
)  # fmt: skip
_WISHES = ("lost the", "cannot find my", "would like another", "has a question on the", "wants to cancel the")


def plain(count: int, *, per_session: int = 1, begin: int = 0) -> list[Span]:
    """Conversations of one question each, all different, in sessions of `per_session` calls."""
    spans = []
    for number in range(begin, begin + count):
        topic, wish = _TOPICS[number % 10], _WISHES[number // 10 % 5]
        question = f"Customer {number} of branch {number * 7919 % 1009} {wish} {topic} from order {number * 31337}."
        spans.append(
            call(number, [said("user", question)], said("assistant", f"About your {topic}: done."),
                 session=f"s{number // per_session}", user=f"u{number // per_session}")
        )  # fmt: skip
    return spans
