"""The calls of tools in an answer of a server, as canonical JSON. Nothing in them is trusted, and none is ever made"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

_MOST = 128  # calls in one answer


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces and every character as itself; ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def tool_calls(message: Mapping[str, Any]) -> str | None:
    """A list of objects with `id`, `name` and `arguments`; empty where there is no call, None where one is no call.

    Arguments that are no JSON object stay the text that the model wrote: it called a tool, though not well.
    """
    listed = message.get("tool_calls")
    if not listed and isinstance(message.get("function_call"), dict):
        listed = [{"function": message["function_call"]}]
    if not listed:
        return ""
    if not isinstance(listed, list) or len(listed) > _MOST:
        return None
    calls = [_call(item) for item in listed]
    return None if None in calls else canonical(calls)


def _call(item: object) -> dict[str, Any] | None:
    function = item.get("function") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    identifier = item.get("id")
    arguments = _arguments(function.get("arguments"))
    return {"id": identifier if isinstance(identifier, str) else "", "name": function["name"], "arguments": arguments}


def _arguments(given: object) -> Any:
    if given is None or given == "":
        return {}
    try:
        read = json.loads(given, parse_constant=_refuse) if isinstance(given, str) else given
        canonical(read)
    except (ValueError, TypeError, RecursionError):
        return given if isinstance(given, str) else str(given)
    return read if isinstance(read, dict) else given if isinstance(given, str) else canonical(read)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
