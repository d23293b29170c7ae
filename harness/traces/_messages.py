"""Messages, tools and tool calls in the shapes that vocabularies and providers have for them, into the normal form"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.traces._values import as_flag, structured_or_none, text
from harness.traces.records import ChatMessage, Part, PartKind, Tool, ToolCall, canonical_json

_ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "function": "tool", "bot": "assistant"}
_WRAPPERS = ("message", "message_content", "tool_call", "tool")
_TEXT = frozenset({"text", "input_text", "output_text", "refusal"})
_REASONING = frozenset({"reasoning", "thinking", "redacted_thinking"})
_CALL = frozenset({"tool_call", "tool_use", "function_call", "toolCall"})
_RESULT = frozenset({"tool_call_response", "tool_result", "function_call_output"})
_MEDIA: Mapping[str, PartKind] = {
    "image": "image", "image_url": "image", "input_image": "image", "audio": "audio", "input_audio": "audio",
    "video": "video", "file": "file", "input_file": "file", "document": "file", "uri": "file", "blob": "file",
}  # fmt: skip


def messages(value: Any, role: str = "user") -> list[ChatMessage]:
    """Messages of a list, of one object or of a plain string; what is none of these gives none.

    One object may become several messages, because the normal form has one message for each result of a tool.
    """
    if isinstance(value, str):
        return [ChatMessage(role, (Part(text=value),))] if value else []
    if isinstance(value, Mapping):
        return list(_message(value, role))
    if isinstance(value, list):
        return [made for item in value for made in messages(item, role)]
    return []


def _message(raw: Mapping[str, Any], default_role: str) -> Iterable[ChatMessage]:
    raw = _unwrapped(raw)
    role = text(raw, "role").lower() or default_role
    role = _ROLES.get(role, role)
    if text(raw, "type") in _RESULT or text(raw, "type") in _CALL:
        raw = {"parts": [raw]}  # the Responses API lists calls and results between the messages
    holder = _Holder(role)
    for key in ("parts", "content", "contents"):
        holder.take(raw.get(key))
    holder.take_calls(raw)
    plain = ChatMessage(
        role=role,
        parts=tuple(holder.parts),
        tool_calls=tuple(holder.calls),
        tool_call_id=text(raw, "tool_call_id") or (text(raw, "id") if role == "tool" else ""),
        name=text(raw, "name"),
    )
    if plain.parts or plain.tool_calls or not holder.results:
        yield plain
    yield from holder.results


def _unwrapped(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    for wrapper in _WRAPPERS:
        inner = raw.get(wrapper)
        if isinstance(inner, Mapping) and "role" not in raw:
            return {**raw, **inner}
    return raw


class _Holder:
    """The content of one message while it is sorted into parts, tool calls and results of tools."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.parts: list[Part] = []
        self.calls: list[ToolCall] = []
        self.results: list[ChatMessage] = []

    def take(self, content: Any) -> None:
        if isinstance(content, str):
            if content:
                self.parts.append(Part(text=content))
        elif isinstance(content, Mapping):
            self._part(content)
        elif isinstance(content, list):
            for item in content:
                if isinstance(item, Mapping):
                    self._part(item)
                elif isinstance(item, str) and item:
                    self.parts.append(Part(text=item))
        elif content is not None:
            self.parts.append(Part("other", canonical_json(content)))

    def take_calls(self, raw: Mapping[str, Any]) -> None:
        listed = structured_or_none(raw.get("tool_calls"))
        for item in listed if isinstance(listed, list) else ():
            self._call(item)
        if isinstance(raw.get("function_call"), Mapping):
            self._call(raw["function_call"])
        if text(raw, "function_call_name"):
            self._call({"name": raw["function_call_name"], "arguments": raw.get("function_call_arguments_json")})

    def _part(self, raw: Mapping[str, Any]) -> None:
        raw = _unwrapped(raw)
        kind = text(raw, "type")
        if kind in _CALL and self._call(raw):
            return
        if kind in _RESULT:
            self.results.append(_result(raw))
        elif kind in _TEXT or (not kind and text(raw, "text", "content")):
            self._text(raw)
        elif kind in _REASONING:
            self.parts.append(Part("reasoning", text(raw, "content", "text", "thinking", "reasoning", "data")))
        else:
            self.parts.append(_media(kind, raw) or Part("other", canonical_json(raw)))

    def _text(self, raw: Mapping[str, Any]) -> None:
        held = next((raw[k] for k in ("content", "text", "refusal") if raw.get(k) is not None), "")
        if isinstance(held, Mapping):  # OpenAI's assistants: {"text": {"value": "…", "annotations": []}}
            held = held.get("value", held)
        self.take(held if isinstance(held, str) else canonical_json(held))

    def _call(self, raw: Any) -> bool:
        if not isinstance(raw, Mapping):
            return False
        raw = _unwrapped(raw)
        function = raw.get("function")
        inner = function if isinstance(function, Mapping) else raw
        name = text(inner, "name") or text(raw, "name", "function_name")
        arguments = next((inner[k] for k in ("arguments", "input", "args") if inner.get(k) is not None), "{}")
        if name:
            self.calls.append(ToolCall(name, _arguments(arguments), text(raw, "call_id", "id", "tool_call_id")))
        return bool(name)


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def _result(raw: Mapping[str, Any]) -> ChatMessage:
    answer = next((raw[k] for k in ("response", "result", "output", "content") if raw.get(k) is not None), "")
    return ChatMessage(
        role="tool",
        parts=_result_parts(answer),
        tool_call_id=text(raw, "call_id", "id", "tool_call_id", "tool_use_id"),
        name=text(raw, "name"),
    )


def _result_parts(answer: Any) -> tuple[Part, ...]:
    if isinstance(answer, str):
        return (Part(text=answer),) if answer else ()
    if isinstance(answer, list) and answer and all(isinstance(p, Mapping) and text(p, "type") for p in answer):
        holder = _Holder("tool")
        holder.take(answer)
        return tuple(holder.parts)
    return (Part(text=canonical_json(answer)),)


# ---------------------------------------------------------------- what is no text


def _media(kind: str, raw: Mapping[str, Any]) -> Part | None:
    """A part that only points to what it shows, or carries it as a data URL; None where there is neither."""
    if kind not in _MEDIA:
        return None
    mime = text(raw, "mime_type", "media_type")
    found = next((r for look in (_address, _inline) if (r := look(raw, mime))), "")
    if not found:
        return None
    modality = text(raw, "modality")
    return Part(_MEDIA.get(modality, _MEDIA[kind]), reference=found, mime_type=mime)


def _address(raw: Mapping[str, Any], _: str) -> str:
    for key in ("uri", "url", "file_id", "file_url", "image_url", "image", "audio", "video", "file", "source"):
        value = raw.get(key)
        for _depth in range(3):  # image.image.url in OpenInference
            if isinstance(value, Mapping):
                value = next((value[k] for k in ("url", "uri", "file_id", key) if value.get(k)), None)
        if isinstance(value, str) and value:
            return value
    return ""


def _inline(raw: Mapping[str, Any], mime: str) -> str:
    for key in ("content", "data", "file_data", "input_audio", "source"):
        value: Any = raw.get(key)
        if isinstance(value, Mapping):
            mime = mime or text(value, "media_type", "mime_type", "format")
            value = value.get("data")
        if isinstance(value, str) and value:
            return value if value.startswith("data:") else f"data:{mime or 'application/octet-stream'};base64,{value}"
    return ""


# ---------------------------------------------------------------- tools


def tools(value: Any) -> list[Tool]:
    """Tools of a list or of one object, in the shapes of OpenAI (both), Anthropic, OpenInference and OTel.

    A tool that makes no sense is left out, so that fewer come back than were given.
    """
    listed = value if isinstance(value, list) else [value]
    return [made for item in listed if (made := _tool(structured_or_none(item)))]


def _tool(raw: Any) -> Tool | None:
    if not isinstance(raw, Mapping):
        return None
    for wrapper in ("tool", "json_schema"):  # OpenInference: tool.json_schema, a string of JSON
        inner = structured_or_none(raw.get(wrapper))
        if isinstance(inner, Mapping) and "name" not in raw and "function" not in raw:
            raw = inner
    kind = text(raw, "type") or "function"
    function = raw.get("function")
    inner = function if isinstance(function, Mapping) else raw
    parameters = _schema(inner)
    if parameters is None:
        return None
    if not text(inner, "name"):
        return Tool(kind, kind=kind) if kind != "function" else None
    if kind != "function" and parameters and kind in ("custom", "tool"):
        kind = "function"
    return Tool(text(inner, "name"), text(inner, "description"), parameters, kind, as_flag(inner.get("strict")))


def _schema(function: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of a tool's arguments: empty where there is none, None where it is there and makes no sense."""
    given: Any = next((function[k] for k in ("parameters", "input_schema", "inputSchema") if function.get(k)), {})
    value = structured_or_none(given)
    return dict(value) if isinstance(value, Mapping) else None
