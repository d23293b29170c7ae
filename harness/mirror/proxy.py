"""The proxy: users are answered by the champion byte for byte, and nothing else that happens here can change that

Bytes are passed on as they come, over aiohttp and past every library that would read an answer and write it anew. A
call is copied only after its user has been served, and only into a bounded room (`link`). Requests to other paths
below /v1, such as /v1/models, are passed on and not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from harness.mirror.calls import PATHS, Asked, read_request, session_of
from harness.mirror.comparer import cluster_of
from harness.mirror.config import Loaded, key_of
from harness.mirror.drawing import below
from harness.mirror.frames import Job
from harness.mirror.link import Link

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

TOKEN_HEADER = b"x-harness-token"
RUN_HEADER = b"x-run-id"
_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"trailers", b"transfer-encoding", b"upgrade",
})  # fmt: skip
_RUN_ID = re.compile(r"[\x21-\x7e]{1,128}")
_BAGGAGE = re.compile(r"(?:^|,)\s*run_id=([^;,\s]{1,128})")
_REFUSED = ("no", "0", "false", "off", "deny", "opt-out")
_GRANTED = ("yes", "1", "true", "on", "allow", "opt-in")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_KEPT_HEADERS = ("content-type", "content-encoding")


@dataclass(slots=True)
class Caller:
    """Who asks, and the headers that may be passed on."""

    tenant: str
    headers: Headers


@dataclass(slots=True)
class _Exchange:
    """One call on its way through: what came in, what went out, and when."""

    body: bytes | None  # None: larger than what is copied
    began: float = 0.0
    started: float = 0.0
    first: float | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    room: int = 0
    ended: float = 0.0
    outcome: str = ""
    arm: str = "champion"

    def answered(self, part: bytes) -> None:
        """A piece of the answer, kept as long as there is room for it."""
        self.first = self.first or time.monotonic() - self.started
        self.room -= len(part)
        if self.room >= 0:
            self.parts.append(part)
        elif not self.outcome:
            self.outcome = "too_large"
            self.parts.clear()


class Proxy:
    """An ASGI application for everything below /v1. `caller` says who asks, or answers with a refusal."""

    def __init__(self, loaded: Loaded, link: Link, caller: Callable[[Headers], Caller | str]) -> None:
        import aiohttp

        self._loaded, self._link, self._caller = loaded, link, caller
        self._aiohttp = aiohttp
        self._config, self._copying = loaded.config, loaded.config.copying
        self._champion = _Server(self._config.champion.api_base, key_of(self._config.champion.api_key_env))
        theirs = loaded.deployments[0]
        self._candidate = _Server(theirs.api_base or "", key_of(theirs.api_key_env), theirs.model.partition("/")[2])
        self._session: Any = None
        self._other: Any = None
        self._sessions = self._config.sessions.header.lower().encode()
        self._consent = self._config.consent_header.lower().encode()

    async def open(self) -> None:
        """Open the connections, those to the candidate apart from those to the champion."""
        self._session, self._other = self._pool(), self._pool()

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        await self._other.close()

    def _pool(self) -> Any:
        a = self._aiohttp
        return a.ClientSession(
            connector=a.TCPConnector(limit=0, keepalive_timeout=self._config.champion.keep_alive),
            cookie_jar=a.DummyCookieJar(), auto_decompress=False, read_bufsize=2**16,
            timeout=a.ClientTimeout(total=None, sock_connect=self._config.champion.connect_timeout),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        if any(_CONTROL.search(value) for _, value in scope["headers"]):
            await _say(send, 400, "a header holds a control character")  # RFC 9110, 5.5; some servers let it through
            return
        caller = self._caller(scope["headers"])
        if isinstance(caller, str):
            await _say(send, 401, caller)
            return
        path = scope["path"]
        # The path goes on as it came: an encoded slash behind /v1 would let what follows name another host.
        raw = scope.get("raw_path") or path.encode()
        if ".." in path or not (path.startswith("/v1/") and raw.startswith(b"/v1/")):
            await _say(send, 404, "no such path")
        elif path in PATHS and scope["method"] == "POST":
            await self._call(path, caller, scope, receive, send)
        else:
            has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
            body = _rest(receive) if has_body else b""
            await self._pass(self._champion, scope, caller, body, _Exchange(None), send, receive)

    async def _call(self, path: str, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """A call that may be copied: serve it, then say what becomes of it."""
        self._link.received(caller.tenant)
        given = dict(reversed(caller.headers))
        exchange, call = _Exchange(None), None
        try:
            head, whole = await _beginning(receive, self._copying.max_call_bytes)
            if head is None:
                exchange.outcome = "client_gone"
                return
            if whole and len(head) <= self._copying.max_call_bytes:
                exchange.body, exchange.room = head, self._copying.max_call_bytes - len(head)
            else:
                exchange.outcome = "too_large"
            arm = "champion"
            if self._config.split is not None and exchange.body is not None:
                call = self._read(path, caller.tenant, exchange.body, given)
                arm = self._arm(call)
            server = self._champion if arm == "champion" else self._candidate
            body: Any = head if whole else _rest(receive, head)
            if arm == "candidate" and call is not None:
                named = server.model or call.asked.body.get("model")
                body = json.dumps({**call.asked.copied(), "model": named}).encode()
            await self._pass(server, scope, caller, body, exchange, send, receive)
        finally:
            try:
                self._offer(path, caller.tenant, given, exchange, call)
            except Exception as error:  # a mistake of ours is counted; it must not reach a connection to a user
                self._link.dropped(caller.tenant, f"stumbled:{type(error).__name__}", ["all"])

    def _read(self, path: str, tenant: str, body: bytes, given: dict[bytes, bytes]) -> _Call:
        asked = read_request(path, body)
        session = session_of(asked, given.get(self._sessions, b"").decode("latin-1"))
        return _Call(asked, session, cluster_of(self._config.salt, tenant, session))

    def _arm(self, call: _Call) -> str:
        split = self._config.split
        drawn = split is not None and below(split.weight, "split", self._config.salt, call.cluster)
        return "candidate" if drawn and not self._link.off and not call.asked.obstacle else "champion"

    def _offer(
        self, path: str, tenant: str, given: dict[bytes, bytes], exchange: _Exchange, call: _Call | None
    ) -> None:
        """Copy the call, or count why not. The user has been served, so nothing of this is waited for."""
        kinds = ["all", "answered" if exchange.status == 200 else "error"]
        if call is None and exchange.body is not None:
            call = self._read(path, tenant, exchange.body, given)
        reason = self._choice(given, call)
        size = len(exchange.body or b"") + sum(map(len, exchange.parts))
        reason = reason or exchange.outcome or ("" if exchange.ended else "client_gone") or self._link.refusal(size)
        if call is not None and exchange.body is not None:
            kinds = _kinds(kinds, exchange.body, call.asked)
            if self._config.split is not None and not call.asked.obstacle:  # else it had no arm, see `_arm`
                kinds.append(exchange.arm)
            if not reason:
                self._link.offer(_Maker(path, tenant, given, exchange, call), tenant, size, kinds)
                return
        self._link.dropped(tenant, reason or "too_large", kinds)

    def _choice(self, given: dict[bytes, bytes], call: _Call | None) -> str:
        """Why nobody means to compare this call; empty where it is eligible."""
        if self._link.off:
            return "switched_off"
        said = given.get(self._consent, b"").decode("latin-1").strip().lower()
        if said in _REFUSED or (self._copying.opt_in and said not in _GRANTED):
            return "no_consent"
        mirror = self._config.mirror
        # A call too large to be read is drawn by itself, so that it counts as often as others do.
        cluster = call.cluster if call is not None else secrets.token_hex(16)
        drawn = mirror is None or below(mirror.share, "mirror", self._config.salt, cluster)
        return "" if drawn else "sampled_out"

    async def _pass(
        self,
        server: _Server,
        scope: Scope,
        caller: Caller,
        body: Any,
        exchange: _Exchange,
        send: Send,
        receive: Receive,
    ) -> None:
        """Send a request on, and what comes back to the user, piece by piece."""
        exchange.arm = "champion" if server is self._champion else "candidate"
        exchange.began, exchange.started = time.time(), time.monotonic()
        session = self._session if server is self._champion else self._other
        request = session.request(
            scope["method"], server.url(scope), data=body or None, allow_redirects=False,
            headers=server.headers(caller.headers, ours=server is self._champion),
        )  # fmt: skip
        begun = False
        try:
            async with _watched(receive if isinstance(body, bytes) else None, exchange), request as response:
                exchange.status = response.status
                exchange.headers = {n: response.headers[n] for n in _KEPT_HEADERS if n in response.headers}
                kept = _end_to_end(response.raw_headers)
                await send({"type": "http.response.start", "status": response.status, "headers": kept})
                begun = True
                async for part in response.content.iter_any():
                    exchange.answered(part)
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                exchange.ended = time.monotonic()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (self._aiohttp.ClientError, OSError, TimeoutError) as error:
            exchange.outcome = exchange.outcome or ("upstream_broke_off" if begun else "upstream_unreachable")
            if begun:
                raise _BrokenOff from error  # the server closes the connection, which is what the user would have seen
            await _say(send, 502, f"the model's server cannot be reached: {type(error).__name__}")


class _BrokenOff(Exception):
    """The upstream ended in the middle of its answer."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What a request says, and whose conversation it belongs to."""

    asked: Asked
    session: str
    cluster: str


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the job of a call once it has a number."""

    path: str
    tenant: str
    given: dict[bytes, bytes]
    exchange: _Exchange
    call: _Call

    def __call__(self, number: int) -> Job:
        e, said = self.exchange, self.call.session
        return Job(
            number, self.tenant, self.call.cluster, e.arm, self.path, e.status, e.headers, e.began,
            e.ended - e.started, e.first,
            run_id_of(self.given), said.removeprefix("id:") if said.startswith("id:") else "",
            self.given.get(b"traceparent", b"").decode("latin-1"), e.body or b"", b"".join(e.parts),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Server:
    """Where requests go. With a `key` the caller's own credentials do not; the candidate never gets them."""

    base: str
    key: str | None
    model: str = ""

    def url(self, scope: Scope) -> Any:
        """The address of a request, its path and query as they came."""
        from yarl import URL

        raw = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
        query = scope.get("query_string", b"").decode("latin-1")
        return URL(self.base + raw.removeprefix("/v1") + (f"?{query}" if query else ""), encoded=True)

    def headers(self, given: Headers, *, ours: bool) -> list[tuple[str, str]]:
        """What of a caller's headers goes along."""
        left_out = _HOP | _listed(given) | {b"host", TOKEN_HEADER, b"expect"}
        if self.key is not None:
            left_out |= {b"authorization"}
        if not ours:  # what identifies the user, or pays, stays here
            kept = [("content-type", "application/json")]
            kept += [
                (n.decode("latin-1"), v.decode("latin-1")) for n, v in given if n in (b"accept", b"accept-encoding")
            ]
        else:
            kept = [(_text(n), _text(v)) for n, v in given if n not in left_out]
        return [*kept, *([("authorization", f"Bearer {self.key}")] if self.key is not None else []),
                ("host", urlsplit(self.base).netloc)]  # fmt: skip


def _text(value: bytes) -> str:
    """A header as aiohttp, which writes UTF-8, has to have it for the same bytes to be sent."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def run_id_of(given: dict[bytes, bytes]) -> str:
    """The caller's run id, by its header or by W3C baggage; a new one where there is none."""
    named = given.get(RUN_HEADER, b"").decode("latin-1").strip()
    if _RUN_ID.fullmatch(named):
        return named
    carried = _BAGGAGE.search(given.get(b"baggage", b"").decode("latin-1"))
    return carried[1] if carried and _RUN_ID.fullmatch(carried[1]) else secrets.token_hex(16)


def _kinds(kinds: list[str], body: bytes, asked: Asked) -> list[str]:
    long = "long" if len(body) > 8192 else "short"
    return [*kinds, long, "stream" if asked.stream else "whole", *(["tools"] if asked.body.get("tools") else [])]


def _listed(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Headers that `Connection` says are of this hop alone (RFC 9110, 7.6.1)."""
    return {n.strip().lower() for name, value in headers if name.lower() == b"connection" for n in value.split(b",")}


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    held = list(headers)
    left_out = _HOP | _listed(held)
    return [(name, value) for name, value in held if name.lower() not in left_out]


async def _beginning(receive: Receive, most: int) -> tuple[bytes | None, bool]:
    """The body until it has more than so many bytes, and whether that is all; None where the caller has gone.

    Whoever asks for more of a body that is whole waits for as long as its sender stays.
    """
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None, False
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if not message.get("more_body", False):
            return b"".join(parts), True
        if size > most:
            return b"".join(parts), False


async def _rest(receive: Receive, head: bytes = b"") -> AsyncIterator[bytes]:
    """The body as it comes, behind what was read of it."""
    yield head
    while True:
        message = await receive()
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


@contextlib.asynccontextmanager
async def _watched(receive: Receive | None, exchange: _Exchange) -> AsyncIterator[None]:
    """Give a request up when its user has gone: nobody is served by the rest. A body under way cannot be watched."""
    serving = asyncio.current_task()

    async def watch(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if serving is not None and not exchange.ended:
            exchange.outcome = "client_gone"
            serving.cancel()

    watching = asyncio.ensure_future(watch(receive)) if receive is not None else None
    try:
        yield
    except asyncio.CancelledError:
        if exchange.outcome != "client_gone" or serving is None or serving.uncancel():
            raise
    finally:
        if watching is not None:
            watching.cancel()


async def _say(send: Send, status: int, message: str) -> None:
    """An error of the proxy's own, in the API's shape."""
    body = json.dumps({"error": {"message": message, "type": "proxy_error", "param": None, "code": None}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
