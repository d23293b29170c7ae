"""From foreign records to spans: ids, times, and values that attributes can hold"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

_HEX = frozenset("0123456789abcdef")
_SCALES = ((1e11, 10**9), (1e14, 10**6), (1e17, 10**3), (1e20, 1))


def trace_id(value: Any) -> str:
    """A trace id of 32 hex digits: the id itself where it is one (a UUID is), otherwise a hash of it."""
    return _hex(value, 32)


def span_id(value: Any) -> str:
    """A span id of 16 hex digits: the id itself where it is one, otherwise a hash of it."""
    return _hex(value, 16)


def _hex(value: Any, digits: int) -> str:
    plain = str(value).lower().replace("-", "")
    if len(plain) == digits and set(plain) <= _HEX and set(plain) != {"0"}:
        return plain
    return hashlib.sha256(str(value).encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def nanoseconds(value: Any) -> int:
    """A time as nanoseconds since 1970, 0 where there is none: ISO 8601 (UTC if it does not say), or a number.

    A number is taken for seconds, milli-, micro- or nanoseconds by its size, which is clear for all times since 1973.

    Raises:
        ValueError: it is no time.
    """
    if value is None or value == "":
        return 0
    if isinstance(value, str):
        return _moment(_parsed(value))
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:50]!r} is no time")
    for most, scale in _SCALES:
        if 0 <= value < most:
            return int(value * scale)
    raise ValueError(f"{str(value)[:50]!r} is no time")


def _parsed(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:50]!r} is no time") from None


def _moment(moment: datetime) -> int:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    whole = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return max(0, (whole.days * 86_400 + whole.seconds) * 10**9 + whole.microseconds * 1000)


def plain(value: Any) -> Any:
    """A value that an attribute can hold, from what Parquet or JSON gave; keys without a value are left out."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | bool | int | float | bytes):
        return value
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if isinstance(value, date) else str(value)


def flattened(prefix: str, value: Any) -> dict[str, Any]:
    """A nested value as attributes `prefix.key.0.key`; lists of plain values stay lists."""
    if isinstance(value, Mapping) and value:
        return {k: v for key, inner in value.items() for k, v in flattened(f"{prefix}.{key}", inner).items()}
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return {k: v for i, item in enumerate(value) for k, v in flattened(f"{prefix}.{i}", item).items()}
    return {} if value is None else {prefix: value}
