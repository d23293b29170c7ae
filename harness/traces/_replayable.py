"""Whether a call can be asked again, and if not, why and what would have to be set in the service that recorded it

A length limit of the SDK leaves no mark on what it cut. A text is taken for cut when it says so, when it ends in an
ellipsis and is long, or when it is exactly as long as one of the usual limits. A whole text has such a length by chance
once in some thousand times; then a good call is lost, which is better than to compare answers to half a question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from harness.traces._reading import Reading
from harness.traces.dialects import Dialect
from harness.traces.records import ChatMessage, Loss, Obstacle, Part, Span, WhyNot

HIDDEN = frozenset({"__REDACTED__", "redacted-by-litellm", "<redacted>", "[REDACTED]"})
"""Texts that instrumentations write in place of what was to stay hidden."""
_LIMITS = frozenset({
    250, 255, 256, 500, 511, 512, 1000, 1023, 1024, 2000, 2047, 2048, 2500, 4000, 4095, 4096, 5000, 8000, 8191, 8192,
    10000, 10240, 12000, 12288, 16000, 16383, 16384, 20000, 32000, 32766, 32767, 32768, 50000, 65535, 65536, 100000,
    131072,
})  # fmt: skip
_LONG = 200
_PROVIDERS_OWN = ("server_tool", "web_search", "file_search", "code_interpreter", "mcp_", "computer_call")
_SAYS_SO = re.compile(r"[\[(<…] ?truncated\b|\.\.\. ?truncated|…\[\d+ more\]", re.IGNORECASE)

_SETTINGS: Mapping[Obstacle, str] = {
    "truncated": "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT and OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT unset (no limit)",
    "dropped": "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT and OTEL_SPAN_EVENT_COUNT_LIMIT above 128, such as 10000",
    "server-state": "send the whole conversation instead of previous_response_id",
    "server-tools": "none: the provider's own tools cannot be asked again",
}
_ORDER: tuple[Obstacle, ...] = (
    "dropped", "truncated", "hidden", "external", "unreadable", "no-content", "server-state", "server-tools",
    "tools-missing",
)  # fmt: skip


def note_damage(span: Span, reading: Reading) -> None:
    """Add to a reading the losses that can be seen in any vocabulary: dropped attributes, cut and hidden texts."""
    if span.dropped_attributes:
        reading.lose("messages", "dropped", f"the SDK left out {span.dropped_attributes} attributes of the span")
    if span.dropped_events and not _has_content_attributes(span):
        reading.lose("messages", "dropped", f"the SDK left out {span.dropped_events} events of the span")
    for field, found in (("messages", reading.messages), ("outputs", reading.outputs)):
        for text in _texts(found):
            if text in HIDDEN:
                reading.lose(field, "hidden", f"a text was replaced by {text}")
            elif how := cut(text):
                reading.lose(field, "truncated", how)
    for tool in reading.tools:
        if tool.description in HIDDEN:
            reading.lose("tools", "hidden", f"a description was replaced by {tool.description}")


def cut(text: str) -> str:
    """How one can see that a text was cut off; the empty string where nothing shows it."""
    if len(text) in _LIMITS:
        return f"a text of exactly {len(text)} characters, a usual limit"
    if len(text) >= _LONG and text.endswith("…"):
        return f"a text of {len(text)} characters ends in an ellipsis"
    said = _SAYS_SO.search(text[-_LONG:]) is not None or "litellm_truncated" in text
    return "a text says that it was truncated" if said else ""


def why_not(dialect: Dialect, reading: Reading) -> WhyNot | None:
    """The first obstacle to asking again, with the setting that lifts it; None where there is none."""
    found = dict(_obstacles(reading))
    first = next((o for o in _ORDER if o in found), None)
    if first is None:
        return None
    return WhyNot(first, found[first], dialect.settings.get(first) or _SETTINGS.get(first, ""))


def _obstacles(reading: Reading) -> Iterator[tuple[Obstacle, str]]:
    for loss in reversed(reading.lost):
        if loss.field in ("messages", "tools") and loss.cause != "unrecorded":
            yield loss.cause, f"{loss.field}: {loss.detail}"
    if not any(m.parts or m.tool_calls for m in reading.messages):
        yield "no-content", "no message was recorded"
    yield from _unsendable(p for m in reading.messages for p in m.parts)
    if any(key in reading.parameters.other for key in ("previous_response_id", "conversation")):
        yield "server-state", "the request continues a conversation that the provider holds"
    if foreign := sorted({t.kind for t in reading.tools if t.kind != "function"}):
        yield "server-tools", f"the provider runs {', '.join(foreign)[:200]}"
    if not reading.tools and (used := _tools_used(reading)):
        yield "tools-missing", f"{used} was called, and no tool is defined"


def _unsendable(parts: Iterable[Part]) -> Iterator[tuple[Obstacle, str]]:
    """Parts that no other server would understand: what the provider itself did, or keeps in its own store."""
    for part in parts:
        if part.kind == "other" and any(word in part.text[:200] for word in _PROVIDERS_OWN):
            yield "server-tools", "a message holds the work of a tool that the provider runs"
        elif part.kind == "other":
            yield "unreadable", f"messages: a part of unknown kind, {part.text[:80]}"
        elif part.reference and not part.reference.startswith(("http://", "https://", "data:")):
            yield "server-state", "a message points to a file that the provider holds"


def _tools_used(reading: Reading) -> str:
    called = (c.name for m in (*reading.outputs, *reading.messages) for c in m.tool_calls)
    named = next(called, "")[:100]
    return named or ("a tool" if "tool_calls" in reading.finish_reasons else "")


def _texts(found: Iterable[ChatMessage]) -> Iterator[str]:
    for message in found:
        for part in message.parts:
            yield part.text
        for call in message.tool_calls:
            yield call.arguments


def _has_content_attributes(span: Span) -> bool:
    return any(key.startswith(("gen_ai.input.", "gen_ai.prompt", "llm.input_messages")) for key in span.attributes)


def unrecorded(dialect: Dialect, reading: Reading, names: Iterable[str]) -> list[Loss]:
    """A loss for each parameter that is not set and that the dialect has no place for."""
    known = {loss.field for loss in reading.lost}
    detail = f"{dialect.name} does not record it, or not always"
    return [Loss(name, "unrecorded", detail) for name in names if name not in dialect.carries and name not in known]
