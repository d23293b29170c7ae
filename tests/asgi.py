"""An ASGI application in this process, asked without a socket: ten thousand requests then take seconds, not minutes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from tests.receiving import Answer

_Result = TypeVar("_Result")
_SECONDS = 60


class Asgi:
    """A context manager around a Starlette application, its lifespan included, in an event loop of its own thread.

    What the application raises is raised here, though a server would have answered 500: no test may miss it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Asgi:
        self._thread.start()
        self._lifespan = self._app.router.lifespan_context(self._app)
        self.run(self._lifespan.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._lifespan.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """The result of a coroutine in the application's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Sequence[bytes] = b"",
        headers: Mapping[str, str] | Iterable[tuple[bytes, bytes]] = (),
        *,
        query: bytes = b"",
        gone: bool = False,
    ) -> Answer:
        """The answer to one request, from outside of the loop; see `ask`."""
        return self.run(self.ask(method, path, body, headers, query=query, gone=gone))

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | Sequence[bytes] = b"",
        headers: Mapping[str, str] | Iterable[tuple[bytes, bytes]] = (),
        *,
        query: bytes = b"",
        gone: bool = False,
    ) -> Answer:
        """Send a request; a list of bytes comes piece by piece, and with `gone` the client leaves before its end."""
        parts = [body] if isinstance(body, bytes) else list(body)
        named = headers.items() if isinstance(headers, Mapping) else headers
        raw = [(_bytes(n).lower(), _bytes(v)) for n, v in named]
        if not any(n == b"host" for n, _ in raw):
            raw.insert(0, (b"host", b"127.0.0.1:4318"))
        if isinstance(body, bytes) and body and not any(n == b"content-length" for n, _ in raw):
            raw.append((b"content-length", str(len(body)).encode()))
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": path, "raw_path": quote(path).encode(), "query_string": query,
            "root_path": "", "headers": raw, "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 4318), "state": {},
        }  # fmt: skip
        return await self._exchange(scope, parts, gone)

    async def _exchange(self, scope: dict[str, Any], parts: list[bytes], gone: bool) -> Answer:
        waiting = [
            {"type": "http.request", "body": part, "more_body": gone or i + 1 < len(parts)}
            for i, part in enumerate(parts)
        ]
        sent: list[Mapping[str, Any]] = []
        done = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop(0)
            if not gone:
                await done.wait()  # a client that stays says nothing more
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        try:
            await self._app(scope, receive, send)
        finally:
            done.set()
        begun = [m for m in sent if m["type"] == "http.response.start"]
        if not begun:
            return Answer(0, {}, b"")
        headers = {n.decode("latin-1").lower(): v.decode("latin-1") for n, v in begun[0]["headers"]}
        body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
        assert len(begun) == 1
        assert not sent[-1].get("more_body", False), "the answer has no end"
        return Answer(begun[0]["status"], headers, body)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1", "replace")
