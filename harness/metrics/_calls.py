"""Tool calls: as a model writes them, as a sample expects them, and the definitions of the tools.

A call is `{"name": …, "arguments": {…}}`, or OpenAI's `{"type": "function", "function": {"name": …, "arguments": …}}`,
where the arguments may be a string that holds JSON. `parameters` is read as `arguments`, as Llama 3 writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.metrics._json import MISSING, parse

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_THOUGHT_ENDS = "</think>"


@dataclass(frozen=True, slots=True)
class Call:
    """One call. A call that cannot be read has an empty name; it was made, and is never right."""

    name: str
    arguments: Mapping[str, Any]


_UNREADABLE = Call("", {})


def written(text: str) -> list[Call]:
    """The calls in what a model wrote; none where it wrote no call.

    Read are: Hermes blocks, `<tool_call>{…}</tool_call>`, with any text around them; else the whole text, alone or in
    one Markdown fence, as one call, a list of calls, or an object with `tool_calls`. What a reasoning model thinks
    aloud, up to `</think>`, is no part of it.
    """
    said = text.rpartition(_THOUGHT_ENDS)[2]
    if _OPEN in said:
        return [_call(parse(block, fence=True)) for block in _hermes(said)]
    document = parse(said, fence=True)
    if document is MISSING:
        begun = said.strip().removeprefix("```json").lstrip("`\n ").startswith(("{", "["))
        return [_UNREADABLE] if begun and ('"name"' in said or '"function"' in said) else []
    if isinstance(document, dict) and isinstance(document.get("tool_calls"), list):
        return [_call(item) for item in document["tool_calls"]]
    if isinstance(document, list) and any(_is_call(item) for item in document):
        return [_call(item) for item in document]
    return [_call(document)] if _is_call(document) else []


def expected(value: Any) -> list[Call]:
    """The calls that a sample expects.

    Raises:
        ValueError: it is no list of calls.
    """
    if not isinstance(value, list):
        raise ValueError("calls must be a list; an empty one says that no tool should be called")
    calls = [_call(item) for item in value]
    for index, call in enumerate(calls):
        if not call.name:
            raise ValueError(f"calls[{index}] must hold a name and arguments")
    return calls


def definitions(value: Any) -> dict[str, dict[str, Any]]:
    """JSON schema of the arguments by name of the tool, from OpenAI's list of tools.

    Raises:
        ValueError: it is no such list, or a tool is there twice.
    """
    if not isinstance(value, list):
        raise ValueError("tools must be a list")
    schemas: dict[str, dict[str, Any]] = {}
    for index, item in enumerate(value):
        function = item.get("function", item) if isinstance(item, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        schema = function.get("parameters") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name or not isinstance(schema, dict | None):
            raise ValueError(f"tools[{index}] must be a function with a name and, as parameters, a JSON schema")
        if name in schemas:
            raise ValueError(f"tools[{index}]: {name!r} is there twice")
        schemas[name] = schema or {}
    return schemas


def _hermes(text: str) -> list[str]:
    blocks = []
    for after in text.split(_OPEN)[1:]:
        blocks.append(after.partition(_CLOSE)[0])
    return blocks


def _is_call(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    inner = item.get("function", item)
    return isinstance(inner, dict) and "name" in inner and ("arguments" in inner or "parameters" in inner)


def _call(item: Any) -> Call:
    inner = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        return _UNREADABLE
    given = inner.get("arguments", inner.get("parameters"))
    if isinstance(given, str) and given.strip():
        given = parse(given, fence=False)
    if given is None or given == "":
        given = {}
    return Call(inner["name"], given) if isinstance(given, dict) else _UNREADABLE


def spelled(call: Call) -> str:
    """A call in one line, for a reason."""
    return f"{call.name}({json.dumps(call.arguments, sort_keys=True, ensure_ascii=False)[:200]})"
