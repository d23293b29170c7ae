"""What went wrong with one attempt: of which kind it is, whether another may do better, and what may be told of it"""

from __future__ import annotations

import email.utils
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harness.served import FailureKind

_TOLD = 500  # characters of a server's own words
_FILTERS = ("content_filter", "content_policy", "responsibleai")
_URL_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
_BEARER = re.compile(r"(?i)(authorization\W+)?\b(bearer|basic)\s+[\w.+/=~-]{6,}")
_SECRET_NAMES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")


@dataclass(frozen=True, slots=True)
class Used:
    """Tokens that a server says it has read and written."""

    prompt: int = 0
    completion: int = 0


@dataclass(slots=True, eq=False)
class Problem(Exception):
    """An attempt without an answer.

    `passes`: another attempt may do better. `retry_after`: seconds that the server asks to wait. `used`: tokens by the
    server's count. `perhaps_charged`: nobody knows whether the server has worked, and charges for it.
    """

    kind: FailureKind
    detail: str
    passes: bool = False
    retry_after: float | None = None
    used: Used | None = None
    perhaps_charged: bool = False


def of_status(status: int, body: str, headers: Mapping[str, str]) -> Problem:
    """The problem behind an HTTP status other than 200, or behind the error that a server puts into a 200."""
    message, code = _error_of(body)
    detail = f"HTTP {status}: {message or 'no message'}"
    wait = retry_after(headers, datetime.now(UTC))
    if any(name in code for name in _FILTERS):
        return Problem("filtered", detail)
    if status in (401, 403):
        return Problem("authentication", detail)
    if status == 429:
        # A spent quota has the status of a rate limit, and no amount of waiting mends it.
        return Problem("rate-limited", detail, passes="insufficient_quota" not in code, retry_after=wait)
    if status == 408:
        return Problem("timeout", detail, passes=True, retry_after=wait)
    if status in (409, 425) or status >= 500:
        return Problem("server", detail, passes=True, retry_after=wait)
    if 300 <= status < 400:
        return Problem("rejected", f"{detail}; the server is somewhere else, give its address as api_base")
    return Problem("rejected", detail)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait by the header Retry-After (RFC 9110, 10.2.3: seconds or a date) or retry-after-ms; else None."""
    lower = {name.lower(): value for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(lower[name]) / unit
        except (KeyError, ValueError):
            continue
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    try:
        date = email.utils.parsedate_to_datetime(lower["retry-after"])
    except (KeyError, ValueError, IndexError, OverflowError):
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max((date - now).total_seconds(), 0.0)


class Mask:
    """Takes secrets out of what is told: the key, whatever the environment calls one, logins in addresses."""

    def __init__(self, *secrets: str | None) -> None:
        named = (v for k, v in os.environ.items() if k.upper().endswith(_SECRET_NAMES))
        found = {s for s in (*secrets, *(v for v in named if len(v) >= 8)) if s}
        self._secrets = sorted(found, key=len, reverse=True)  # a secret may contain another

    def __call__(self, text: str) -> str:
        """`text` without secrets and control characters, on one line, of bounded length."""
        text = text[: 20 * _TOLD]
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = _BEARER.sub("***", _URL_LOGIN.sub("***@", text))
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= _TOLD else text[: _TOLD - 1] + "…"


def _error_of(body: str) -> tuple[str, str]:
    """A server's message and, in lower case, everything that it gives as a code of its error."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return body[:_TOLD], ""
    error = said.get("error", said) if isinstance(said, dict) else said
    if not isinstance(error, dict):
        return str(error)[:_TOLD], ""
    message = error.get("message") or error.get("detail") or said
    return str(message)[: 4 * _TOLD], " ".join(_codes(error)).lower()


def _codes(error: Mapping[str, Any]) -> Iterable[str]:
    inner = error.get("innererror")
    for where in (error, inner if isinstance(inner, dict) else {}):
        yield from (str(where[name]) for name in ("code", "type") if where.get(name) is not None)
