"""One value of a row at a time: is it a text, is it a conversation, and is there anything in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import nearest

ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "function": "tool", "observation": "tool",
}  # fmt: skip
_KEPT_KEYS = ("tool_calls", "tool_call_id", "name")

Turns = list[dict[str, Any]]


class RowError(Exception):
    """A row is wrong; the message says what and how to mend it, and the caller adds where."""


class EmptyRow(Exception):
    """A row has nothing in a column that it needs."""


def text(value: Any, column: str) -> str:
    """A text with something in it.

    Raises:
        EmptyRow: null, or white space only.
        RowError: no text, or a text that cannot be written as UTF-8.
    """
    if value is None:
        raise EmptyRow(f"{column} is null")
    if not isinstance(value, str):
        raise RowError(f"{column} must be a text, not {_named(value)}")
    if not value.strip():
        raise EmptyRow(f"{column} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"{column} holds half of a surrogate pair (\\ud800 … \\udfff), which is no text") from error
    return value


def optional_text(value: Any, column: str) -> str:
    """A text, or "" for none."""
    return "" if value is None or value == "" else text(value, column)


def turns(value: Any, column: str) -> Turns:
    """A conversation: `role` and `content` (text), or ShareGPT's `from` and `value`; tool calls are kept.

    Raises:
        EmptyRow: no turn, or a turn without content.
        RowError: anything else that is no conversation.
    """
    if value is None or (isinstance(value, list) and not value):
        raise EmptyRow(f"{column} holds no message")
    if not isinstance(value, list):
        raise RowError(f"{column} must be a list of messages, not {_named(value)}")
    return [_turn(turn, f"{column}[{index}]") for index, turn in enumerate(value)]


def answered(conversation: Turns, column: str) -> Turns:
    """The conversation, if there is an assistant's turn to learn from."""
    if not any(turn["role"] == "assistant" for turn in conversation):
        raise RowError(f"{column} has no turn of the assistant, so there is nothing to learn from; take the row out")
    return conversation


def text_or_turns(value: Any, column: str) -> str | Turns:
    """Either, by what it is."""
    return turns(value, column) if isinstance(value, list) else text(value, column)


def flag(value: Any, column: str) -> bool:
    """True or false; 0 and 1 stand for them."""
    if value is None:
        raise EmptyRow(f"{column} is null")
    if value not in (0, 1) or isinstance(value, str | float):
        raise RowError(f"{column} must be true or false, not {_named(value)}")
    return bool(value)


def class_name(value: Any, column: str) -> str:
    """The name of a class; a whole number is its own name."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bool | float | list | dict):
        raise RowError(f"{column} must be the name of a class, not {_named(value)}")
    return text(value, column).strip()


def as_turn(role: str, content: str) -> dict[str, Any]:
    """One message."""
    return {"role": role, "content": content}


def shared_turns(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many turns two conversations have in common at their beginning."""
    pairs = list(zip(first, second, strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _turn(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(f"{where} must hold role and content, not {_named(value)}")
    if "role" not in value and "from" in value:
        value = {**value, "role": value["from"], "content": value.get("value")}
    kept = {key: value[key] for key in _KEPT_KEYS if value.get(key)}
    return {"role": _role(value.get("role"), where), "content": _content(value, where, kept), **kept}


def _role(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{where} has no role; a message is {{role, content}} or {{from, value}}")
    role = _SHAREGPT.get(value, value)
    if role not in ROLES:
        raise RowError(f"{where}.role {value!r}: {nearest(value, (*ROLES, *_SHAREGPT))}")
    return role


def _content(turn: dict[str, Any], where: str, kept: dict[str, Any]) -> str:
    content = turn.get("content")
    if isinstance(content, list):  # parts, as multimodal chat formats write them
        content = "".join(_part(part, where) for part in content)
    if kept.get("tool_calls") and not content:
        return ""
    return text(content, f"{where}.content")


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise RowError(f"{where}.content holds a part of type {kind!r}; only text can be trained on here")
    return str(part.get("text") or "")


def _named(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else shown[:40] + '…'}"
