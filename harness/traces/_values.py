"""Attributes of unknown type, read as what they should be: a wrong type is the same as nothing, and never an error"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from harness.traces._limits import parse_json

_MOST_DIGITS = 400  # more make no number that a float could hold
_MOST_SEGMENTS = 24

Attributes = Mapping[str, Any]


class Cut(ValueError):
    """JSON that ends in the middle of a value: it was cut off."""


def text(attributes: Attributes, *keys: str) -> str:
    """The first of `keys` that holds a string which is not empty; otherwise the empty string."""
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str) and value:
            return value
    return ""


def number(attributes: Attributes, *keys: str) -> float | None:
    """The first of `keys` that holds a finite number, or a string of one."""
    for key in keys:
        value = as_number(attributes.get(key))
        if value is not None:
            return value
    return None


def count(attributes: Attributes, *keys: str) -> int | None:
    """The first of `keys` that holds a whole number from 0 to 2⁶³ − 1, or a string of one."""
    for key in keys:
        value = as_integer(attributes.get(key))
        if value is not None and 0 <= value < 2**63:
            return value
    return None


def as_number(value: Any) -> float | None:
    """`value` as a finite number, from a number or a string of one; None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and len(value) > _MOST_DIGITS:
        return None
    try:
        made = float(value)
    except (ValueError, OverflowError):
        return None
    return made if math.isfinite(made) else None


def as_integer(value: Any) -> int | None:
    """`value` as a whole number of 64 bits, from such a number (2.0 is one) or a string of one; None otherwise."""
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else None
    made = as_number(value)
    return int(made) if made is not None and made.is_integer() and abs(made) < 2**63 else None


def as_flag(value: Any) -> bool | None:
    """`value` as a truth value, from one or from the words true and false; None otherwise."""
    if isinstance(value, bool):
        return value
    words = {"true": True, "false": False}
    return words.get(value.lower()) if isinstance(value, str) else None


def structured(value: Any) -> Any:
    """A structured value, or the value of a string of JSON.

    Raises:
        Cut: a string that ends in the middle of a JSON value.
        ValueError: a string that is no JSON, or nested too deeply.
    """
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except json.JSONDecodeError as error:
        if _ends_early(error):
            raise Cut("ends in the middle of a value") from error
        raise


def structured_or_none(value: Any) -> Any:
    """As `structured`, with None for what cannot be read."""
    try:
        return structured(value)
    except ValueError:
        return None


def _ends_early(error: json.JSONDecodeError) -> bool:
    rest = len(error.doc.rstrip()) - error.pos
    return bool(error.doc.strip()) and (rest <= 1 or error.msg.startswith(("Unterminated", "Invalid \\u")))


def indexed(attributes: Attributes, prefix: str) -> tuple[list[Any], bool]:
    """What was flattened under `prefix`: `prefix.0.role`, `prefix.10.contents.1.text` …, in the order of the numbers.

    Returns the list and whether every number from 0 on was there; a missing one means that attributes were dropped.
    """
    root: dict[str, Any] = {}
    start = prefix + "."
    for key, value in attributes.items():
        if key.startswith(start):
            _put(root, key[len(start) :].split(".", _MOST_SEGMENTS), value)
    found = _listed(root)
    if not isinstance(found, list):
        return [], True
    return found, sorted(int(k) for k in root if _is_index(k)) == list(range(len(found)))


def _put(node: dict[str, Any], path: list[str], value: Any) -> None:
    for segment in path[:-1]:
        below = node.get(segment)
        if not isinstance(below, dict):
            below = node[segment] = {}
        node = below
    if not isinstance(node.get(path[-1]), dict):
        node[path[-1]] = value


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) <= 6


def _listed(node: Any) -> Any:
    """Objects whose keys are numbers as lists; other keys beside numbers are left out."""
    if not isinstance(node, dict):
        return node
    numbers = sorted((int(k), k) for k in node if _is_index(k))
    if numbers:
        return [_listed(node[k]) for _, k in numbers]
    return {k: _listed(v) for k, v in node.items()}
