"""One JSON request to the API of GitHub or GitLab, with the token that it needs and no way to lead it elsewhere."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import urlsplit

from harness.errors import ConfigError

MAX_BYTES = 64 * 2**20
"""A page of 100 comments of 65,536 characters, in UTF-8 with room to spare."""
TIMEOUT = 30.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class Unavailable(Exception):
    """The server cannot answer now; `after` is the number of seconds that it asks to wait, 0 where it does not say."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered: status, the JSON document (None where it sent none), and its headers."""

    status: int
    document: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether the token may not do this (GitHub says 404 for what it does not want to admit)."""
        return self.status in (401, 403, 404)

    @property
    def message(self) -> str:
        """What the server says of an error, bounded."""
        said = self.document.get("message") if isinstance(self.document, dict) else None
        return f"{self.status} {str(said or '')[:300]}".strip()


@dataclass(frozen=True, slots=True)
class Api:
    """An API at `base`, asked with `headers`, which hold the token.

    The token goes to that host alone: only https (or http on the same machine) is spoken, and no redirect is followed.

    Raises:
        ConfigError: `base` is no such address, or a header could not be one.
    """

    base: str
    headers: Mapping[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse an address that would carry the token in the clear, and a token that is none, without showing it."""
        for name, value in self.headers.items():
            if not (value.isascii() and value.isprintable()):
                raise ConfigError(f"the token for {name} has characters in it that no token has")
        parts = urlsplit(self.base)
        local = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if not (local or (parts.scheme == "https" and parts.hostname)):
            raise ConfigError(f"{self.base!r} is no https address; the token is not sent to it")

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        """The answer to one request; an error status is an answer, too.

        Raises:
            Unavailable: nobody answered, or the server asks to come back later.
        """
        data = None if body is None else json.dumps(body).encode("utf-8")
        headers = {**self.headers, "User-Agent": "promotion-harness", "Content-Type": "application/json"}
        request = urllib.request.Request(self.base.rstrip("/") + path, data, headers, method=method)  # noqa: S310 - above
        try:
            with _OPENER.open(request, timeout=TIMEOUT) as answer:
                return Reply(answer.status, _json(answer), _lower(answer.headers))
        except urllib.error.HTTPError as error:
            with error:
                return _of_error(error)
        except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
            raise Unavailable(f"{self.base}: {getattr(error, 'reason', None) or error}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the token along to wherever a redirect leads."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _of_error(error: urllib.error.HTTPError) -> Reply:
    headers = _lower(error.headers)
    reply = Reply(error.code, _json(error), headers)
    limited = error.code == 403 and ("retry-after" in headers or headers.get("x-ratelimit-remaining") == "0")
    if error.code in _AGAIN or limited:
        raise Unavailable(reply.message, _seconds(headers.get("retry-after", ""))) from None
    return reply


def _json(answer: Any) -> Any:
    text = answer.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise Unavailable(f"the answer is longer than {MAX_BYTES:,} bytes")
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _lower(headers: Message | None) -> dict[str, str]:
    return {} if headers is None else {name.lower(): value for name, value in headers.items()}


def _seconds(text: str) -> float:
    """A Retry-After in seconds; its other form, a date, is not asked for by either server."""
    return float(text) if text.isdecimal() and len(text) < 6 else 0.0
