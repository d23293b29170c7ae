"""What bounds everything that is read from outside: sizes, counts, depth; and JSON text read within them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read: bytes of a body after decompression, levels of nested values, entries of one list."""

    body_bytes: int = 64 * 2**20
    depth: int = 32
    entries: int = 8192


LIMITS = Limits()


def parse_json(text: str | bytes, *, depth: int | None = 100) -> Any:
    """The value of a JSON text that may come from anywhere; halves of surrogate pairs become U+FFFD.

    With a `depth` of None only the interpreter bounds it, for readers that walk the value with a bound of their own.

    Raises:
        ValueError: it is no JSON (NaN and Infinity are none), or is nested deeper than `depth`.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if depth is not None and _may_nest(text, depth) and _deeper(value, depth):
        raise ValueError(f"nested more than {depth} levels deep")
    return without_surrogates(value) if _may_hold_surrogates(text) else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _may_nest(text: str, depth: int) -> bool:
    # Counting brackets is a hundred times faster than walking what they hold, and nearly always settles it.
    return text.count("[") + text.count("{") > depth


def _may_hold_surrogates(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text or (not text.isascii() and _SURROGATE.search(text) is not None)


def _deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        level = [v for held in level for v in _inside(held)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def without_surrogates(value: Any) -> Any:
    """`value` with U+FFFD for every half of a surrogate pair, which no file and no server could take."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value) if not value.isascii() else value
    if isinstance(value, dict):
        return {without_surrogates(k): without_surrogates(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_surrogates(v) for v in value]
    return value
