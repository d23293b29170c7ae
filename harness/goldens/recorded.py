"""What a row keeps of the tools that production ran: each result under the name and the arguments of its call"""

from __future__ import annotations

import json
from typing import Any


def call_key(name: str, arguments: Any) -> str:
    """By what a recorded result of a tool is found: its name and canonical arguments.

    Arguments count as JSON: 1 equals 1.0, and the order of keys says nothing.

    Raises:
        ValueError: they hold NaN, an infinity, or are nested too deeply.
    """
    try:
        plain = [name, _plain(arguments)]
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise ValueError("arguments of a tool that are nested too deeply") from None


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
