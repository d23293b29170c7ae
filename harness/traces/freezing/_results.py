"""What tools said in a conversation: every recorded result under the name and arguments of its call"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from harness.goldens import call_key
from harness.traces.freezing._rows import parsed
from harness.traces.records import Call, ChatMessage, ToolCall

_MOST = 256  # results of one row
_LONGEST = 256 * 1024  # characters of one


def results_for(call: Call, session: Sequence[Call]) -> dict[str, str]:
    """Results by key for a call, from the calls of its session in time order.

    Where a tool was called twice with the same arguments, the result that came first after this call holds; else the
    last one before it.
    """
    found: dict[str, str] = {}
    for other in session:
        if other.time_ns > call.time_ns:
            _keep(found, _pairs(other.messages[len(call.messages) :] if _goes_on(call, other) else other.messages))
    before = [other for other in session if other.time_ns <= call.time_ns and other is not call]
    for earlier in (call, *reversed(before)):
        _keep(found, reversed(list(_pairs(earlier.messages))))
    return found


def _goes_on(call: Call, other: Call) -> bool:
    """Whether `other` is a later turn of the very same conversation."""
    return other.messages[: len(call.messages)] == call.messages


def _keep(found: dict[str, str], pairs: Iterable[tuple[str, str]]) -> None:
    for key, result in pairs:
        if len(found) < _MOST and len(result) <= _LONGEST:
            found.setdefault(key, result)


def _pairs(messages: Sequence[ChatMessage]) -> Iterator[tuple[str, str]]:
    """(key, result) of every call that was answered with text, in order."""
    waiting: list[ToolCall] = []
    for message in messages:
        if message.tool_calls:
            waiting = list(message.tool_calls)
        if message.role != "tool" or any(part.kind != "text" for part in message.parts):
            continue
        # Some vocabularies keep no ids: then results answer the calls in their order.
        named = [c for c in waiting if c.id == message.tool_call_id] if message.tool_call_id else waiting[:1]
        if not named:
            continue
        waiting.remove(named[0])
        arguments = parsed(named[0].arguments or "{}")
        if isinstance(arguments, dict):
            try:
                yield call_key(named[0].name, arguments), message.text
            except ValueError:
                continue
