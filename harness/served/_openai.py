"""Speaks OpenAI's API with a server, over aiohttp (litellm's own transport)

A call through `litellm.acompletion` or the openai package costs several milliseconds of processor time, whatever the
server does; sixty-four of them under way at a time keep a core busy with nothing. This one costs a fraction of one.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from harness.errors import PluginError
from harness.plugins import missing_extra
from harness.served import Question
from harness.served._failures import Problem, of_status
from harness.served._payload import content, parameters

_LARGEST = 32 * 2**20  # bytes of a body; no answer is that long
_IDLE = 4.0  # seconds that a connection is kept; a server that closes it first, as uvicorn after 5, costs a request
_MODELS = 10.0  # seconds for the list of models


class OpenAIWire:
    """One server at `api_base`. Its connections live in the event loop, where everything but the constructor runs."""

    def __init__(self, model: str, api_base: str, key: str | None) -> None:
        """Nothing is sent yet.

        Raises:
            PluginError: aiohttp is not installed.
        """
        try:
            import aiohttp
        except ImportError as error:
            raise PluginError(missing_extra("a served model", error)) from error
        self._aiohttp = aiohttp
        self._model, self._base = model, api_base.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None

    def unsupported(self, question: Question, *, schema: bool) -> tuple[str, ...]:
        """Nothing is left out: the server itself says what it does not take."""
        return ()

    async def send(self, question: Question, *, schema: bool) -> Any:
        """The JSON that the server answers with.

        Raises:
            Problem: there is none.
        """
        path = "/completions" if question.raw else "/chat/completions"
        body = {"model": self._model, **content(question), **parameters(question, schema=schema)}
        return await self._exchange("POST", path, json.dumps(body).encode(), self._headers)

    async def models(self) -> Any:
        """What the server lists at /models.

        Raises:
            Problem: it lists nothing.
        """
        # On a connection of its own: some servers fail at this, and close the connection under the next request.
        own = {**self._headers, "Connection": "close"}
        return await self._exchange("GET", "/models", None, own, self._aiohttp.ClientTimeout(total=_MODELS))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: Any = None
    ) -> Any:
        try:
            async with self._open().request(
                method, self._base + path, data=body, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                return _decoded(response.status, await _bounded(response.content), response.headers)
        except self._aiohttp.ClientPayloadError as error:
            raise Problem("connection", f"the answer was cut off: {error}", passes=True, perhaps_charged=True) from None
        except TimeoutError:
            raise Problem("timeout", "no answer in time", passes=True, perhaps_charged=True) from None
        except self._aiohttp.ServerDisconnectedError:
            detail = "the server closed the connection without an answer"
            raise Problem("connection", detail, passes=True, perhaps_charged=True) from None
        except self._aiohttp.InvalidURL as error:
            raise Problem("rejected", f"api_base is no URL: {error}") from None
        except (self._aiohttp.ClientError, OSError) as error:
            raise Problem("connection", f"{type(error).__name__}: {error}", passes=True) from None

    def _open(self) -> Any:
        if self._session is None:
            # How many are under way and for how long is limited by whoever asks.
            self._session = self._aiohttp.ClientSession(
                connector=self._aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE),
                timeout=self._aiohttp.ClientTimeout(total=None),
                trust_env=not _local(self._base),  # a proxy, where the environment names one
                cookie_jar=self._aiohttp.DummyCookieJar(),
            )
        return self._session


async def _bounded(stream: Any) -> bytes:
    parts, size = [], 0
    async for part in stream.iter_any():
        parts.append(part)
        size += len(part)
        if size > _LARGEST:
            raise Problem("unreadable", f"the server's answer is larger than {_LARGEST >> 20} MiB")
    return b"".join(parts)


def _decoded(status: int, raw: bytes, headers: Mapping[str, str]) -> Any:
    if status != 200:
        raise of_status(status, raw.decode("utf-8", "replace"), headers)
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        # A gateway's page or half an answer: what speaks here is not the model, so it is worth another attempt.
        start = raw[:2000].decode("utf-8", "replace")
        detail = f"the server answered with something that is not JSON: {start!r}"
        raise Problem("server", detail, passes=True, perhaps_charged=True) from None


def _local(base: str) -> bool:
    host = urlsplit(base).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
