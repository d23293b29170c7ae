"""A proxy that shows a candidate live traffic without anyone noticing, and a gate that reads along

`proxy` answers users with the champion's own bytes; `link` hands copies of calls, within bounds, to `comparer`, a
process of its own that asks the `candidate`, scores both answers, keeps the books (`ledger`) and decides (`evidence`).
Or the proxy splits traffic between the two, and the answers of both arms are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, PluginError
from harness.mirror.config import Loaded, MirrorConfig, json_schema, load_mirror
from harness.mirror.link import Link
from harness.mirror.proxy import TOKEN_HEADER, Caller, Headers, Proxy
from harness.plugins import missing_extra
from harness.traces import live
from harness.traces.receiver import Tokens, bounded_heads, is_loopback, listen, quiet_signals, read_tokens
from harness.traces.store import DEFAULT_TENANT

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Loaded", "MirrorConfig", "build", "json_schema", "load_mirror", "serve"]

PORT = 4300
_GRACE = 30
_SWITCH_SECONDS = 0.5
SWITCH = "OFF"
"""Name of the file in the state's folder that stops all copying as long as it is there."""

Tell = Callable[[str], None]


def serve(
    loaded: Loaded, *, host: str = "127.0.0.1", port: int = PORT, started: Tell = lambda _: None,
    tell: Tell = lambda _: None,
) -> None:  # fmt: skip
    """Serve until SIGINT or SIGTERM. SIGUSR1 switches copying off, SIGUSR2 on again; `started` is told the URL.

    Raises:
        ConfigError: a host that others can reach without tokens, or a state that holds another comparison.
        PluginError: starlette, uvicorn or aiohttp is not installed.
        StorageError: the state or the tokens cannot be used.
        InfrastructureError: the port is taken, or another mirror keeps its state there.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise PluginError(missing_extra("the mirror", error)) from error
    tokens = _tokens(loaded, host)
    _try_state(loaded)
    listener = listen(host, port)
    link = Link(loaded, tell)
    app = build(loaded, link, tokens)
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, lifespan="on", timeout_graceful_shutdown=_GRACE,
        server_header=False, date_header=False, http=bounded_heads(), h11_max_incomplete_event_size=2**16,
    )  # fmt: skip
    bound, number = listener.getsockname()[:2]

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started(f"http://{f'[{bound}]' if ':' in bound else bound}:{number}")

    try:
        with quiet_signals():
            Server(config).run(sockets=[listener])
    finally:
        link.kill()
        listener.close()


def build(loaded: Loaded, link: Link, tokens: Tokens | None = None) -> Starlette:
    """The application; it starts and ends the comparing process."""
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route

    proxy, switch = Proxy(loaded, link, _callers(tokens)), _Switch(loaded.folder / SWITCH, link)
    pages = _Pages(loaded, switch, tokens)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await proxy.open()
        await link.start()
        watching = asyncio.create_task(switch.watch())
        yield
        watching.cancel()
        await link.stop()
        await proxy.close()

    async def whole_path(scope: Any, receive: Any, send: Any) -> None:
        await proxy(scope, receive, send)

    return Starlette(
        routes=[
            Route("/", pages.page, methods=["GET"]),
            Route("/healthz", _healthy, methods=["GET"]),
            Route("/-/mirror/{state}", pages.switch, methods=["POST"]),
            Mount("/", app=whole_path),
        ],
        lifespan=lifespan,
    )


# ---------------------------------------------------------------- who asks


def _tokens(loaded: Loaded, host: str) -> Tokens | None:
    path = loaded.resolved(loaded.config.token_file)
    if path is None:
        if not is_loopback(host):
            raise ConfigError(
                f"--host {host} can be reached by others, so it needs tokens: "
                "`harness shadow token TENANT --token-file FILE` makes one; name the file as token_file"
            )
        return None
    return read_tokens(path)


def _callers(tokens: Tokens | None) -> Callable[[Headers], Caller | str]:
    """Who asks, by a token in its own header or as the bearer; a token of ours is passed on to nobody."""
    if tokens is None:
        return _on_this_machine

    def caller(headers: Headers) -> Caller | str:
        for name, token in _candidates(headers):
            tenant = tokens.tenant(token)
            if tenant is not None:
                return Caller(tenant, [h for h in headers if h[0] != name])
        return "send a token: `x-harness-token: …` or `Authorization: Bearer …`"

    return caller


def _on_this_machine(headers: Headers) -> Caller | str:
    """Without tokens the address is loopback's, and the only strangers there are pages in a browser."""
    if live.page_elsewhere({name.decode("latin-1"): value.decode("latin-1") for name, value in headers}):
        return "a page of another site may not ask here without a token"
    return Caller(DEFAULT_TENANT, headers)


def _candidates(headers: Headers) -> list[tuple[bytes, str]]:
    found = []
    for name, value in headers:
        text = value.decode("latin-1")
        if name == TOKEN_HEADER:
            found.append((name, text.strip()))
        elif name == b"authorization" and text[:7].lower() == "bearer ":
            found.append((name, text[7:].strip()))
    return found


# ---------------------------------------------------------------- the page and the switch


class _Pages:
    def __init__(self, loaded: Loaded, switch: _Switch, tokens: Tokens | None) -> None:
        self._operators, self._switch, self._tokens = loaded.config.operators, switch, tokens

    async def page(self, request: Request) -> Response:
        """The live page."""
        from starlette.responses import Response

        if not self._may(request):
            return live.locked()
        made = await self._switch.link.page()
        if made is None:
            return Response("the comparing process does not answer; users are served on", 503, media_type="text/plain")
        return live.response(*made)

    async def switch(self, request: Request) -> Response:
        """Stop copying, or go on. A browser cannot send the header by itself, so no other page can press this."""
        from starlette.responses import JSONResponse

        state = request.path_params["state"]
        if state not in ("on", "off"):
            return JSONResponse({"error": "POST /-/mirror/off or /-/mirror/on"}, 404)
        if "x-harness-switch" not in request.headers or not self._may(request):
            return JSONResponse({"error": "send x-harness-switch: 1, and an operator's token where there are any"}, 401)
        self._switch.turn(off=state == "off")
        return JSONResponse({"mirror": state})

    def _may(self, request: Request) -> bool:
        """Whether an operator asks: by bearer, or as a browser's password."""
        if self._tokens is None:
            return live.same_machine(request)
        return self._tokens.tenant(live.token_of(request)) in self._operators


async def _healthy(_: Request) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"status": "ok"})


@dataclass(frozen=True, slots=True)
class _Switch:
    """A file in the state's folder: whoever can write there can stop copying, and a restart does not start it again."""

    path: Path
    link: Link

    def turn(self, *, off: bool) -> None:
        """Stop copying at once, or go on."""
        with contextlib.suppress(OSError):  # a disk that takes no file must not keep anybody from stopping
            if off:
                self.path.touch()
            else:
                self.path.unlink(missing_ok=True)
        self.link.switch(off=off)

    async def watch(self) -> None:
        """Follow the file, and the signals SIGUSR1 (off) and SIGUSR2 (on)."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError, ValueError):  # signals are for the main thread
            loop.add_signal_handler(signal.SIGUSR1, lambda: self.turn(off=True))
            loop.add_signal_handler(signal.SIGUSR2, lambda: self.turn(off=False))
        there = False
        while True:
            if self.path.exists() != there:
                there = not there
                self.link.switch(off=there)
            await asyncio.sleep(_SWITCH_SECONDS)


def _try_state(loaded: Loaded) -> None:
    """Whatever is wrong with the state or the candidate is said here, once, and not by a process that restarts."""
    from harness.mirror.candidate import candidate, prices_of
    from harness.mirror.ledger import Ledger

    Ledger(loaded.folder, loaded.comparison_digest()).close()
    prices_of(loaded)
    loaded.guards()  # the judge's rubric is read for them
    if loaded.mode == "mirror":
        candidate(loaded)
    store = loaded.resolved(loaded.config.store)
    if store is not None:
        from harness.traces.store import Store

        Store.open(store).close()
