"""Untrusted text made harmless to look at: control characters become visible, length is bounded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# C0 and C1 without tab and newline; lone surrogates and the two non-characters that XML refuses; the bidirectional
# overrides and isolates, which can make a line read differently from what it says.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_SECRET = re.compile(r"(?i)(^|[_\-.])(token|secret|password|passwd|api[_\-]?key|authorization|credential)s?$")


def visible(text: str) -> str:
    """`text` with line ends unified and every control character shown as a picture of itself."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub(lambda found: _picture(found.group()), unified)


def plain(text: str) -> str:
    """`text` without terminal escape sequences and control characters; lines stay lines."""
    return _CONTROL.sub("", _ANSI.sub("", text.replace("\r\n", "\n")))


def stripped(text: str) -> str:
    """`text` as `plain` leaves it, on one line."""
    return " ".join(plain(text).split())


def one_line(text: str, limit: int) -> str:
    """`text` visible, on one line, and at most `limit` characters long."""
    line = " ".join(visible(text[: 8 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def clipped(text: str, limit: int) -> str:
    """`text` visible and cut to `limit` characters; what was cut is counted at the end."""
    if len(text) <= limit:
        return visible(text)
    return f"{visible(text[:limit])}\n… {len(text) - limit:,} more characters"


def without_secrets(value: Any) -> Any:
    """`value` as plain JSON: values of keys named like a secret are withheld, texts are made visible."""
    if isinstance(value, Mapping):
        return {
            visible(str(key)): "(withheld)" if _SECRET.search(str(key)) else without_secrets(inner)
            for key, inner in value.items()
        }
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [without_secrets(inner) for inner in value]
    plain_json = value is None or (isinstance(value, int | float) and math.isfinite(value))
    return value if plain_json else visible(str(value))


def _picture(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF):
        return "\N{REPLACEMENT CHARACTER}"
    return f"⟨U+{code:04X}⟩"
