"""The receiver of production traces: an OTLP server that redacts before it stores, and stores before it answers

One process answers; it redacts as well, or hands that to a crew of others. One more puts the journal into segments,
with low priority. All end with the process that started them, and none can lose or double a span by being killed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

from harness.errors import ConfigError, HarnessError, InfrastructureError, PluginError
from harness.plugins import missing_extra
from harness.traces.receiver._crew import Crew
from harness.traces.receiver._intake import Intake
from harness.traces.receiver._taking import Taking
from harness.traces.receiver._tokens import Tokens, add_token, read_tokens
from harness.traces.receiver.app import Limits, build, intake
from harness.traces.store import Store, StoreOptions

__all__ = [
    "Limits", "ServeOptions", "Tokens", "add_token", "bounded_heads", "build", "intake", "is_loopback", "listen",
    "open_taking", "quiet_signals", "read_tokens", "serve",
]  # fmt: skip

PORT = 4318  # OTLP/HTTP's own
_COMPACT_SECONDS = 1.0
_LOOK_SECONDS = 2.0
_GRACE = 30
_MOST_HEAD = 2**16  # bytes of a request's line and headers
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where and how to serve. `grpc_port` starts OTLP/gRPC besides; `presidio` looks for names and places too."""

    store: Path
    host: str = "127.0.0.1"
    port: int = PORT
    token_file: Path | None = None
    segments: str | None = None
    workers: int = 1
    grpc_port: int | None = None
    presidio: bool = False
    limits: Limits = field(default_factory=Limits)


def serve(options: ServeOptions, started: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGINT or SIGTERM; what was acknowledged is on disk at any time. `started` is told the URL.

    Raises:
        ConfigError: a host that others can reach without tokens, or an option that makes no sense.
        StorageError: the store or the tokens cannot be used.
        PluginError: the extra `traces` (or `traces-grpc`) is not installed.
        InfrastructureError: the port is taken.
    """
    _check(options)
    _open(options).close()  # whatever is wrong with it is said here, once
    listener = listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    stopping = threading.Event()
    keeper = threading.Thread(target=_keep_compacting, args=(options, stopping), daemon=True)
    keeper.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        _run(options, listener, lambda: started(f"http://{shown}:{port}"))
    finally:
        stopping.set()
        keeper.join()
        listener.close()


def _check(options: ServeOptions) -> None:
    if options.token_file is None and not is_loopback(options.host):
        raise ConfigError(
            f"--host {options.host} can be reached by others, so it needs tokens: "
            "`harness shadow token TENANT --token-file FILE` makes one; pass --token-file FILE"
        )
    if options.segments is not None and options.segments.startswith("memory:"):
        raise ConfigError(f"--segments {options.segments}: memory is not shared with the process that writes segments")
    if not 1 <= options.workers <= 64:
        raise ConfigError(f"--workers {options.workers}: 1 to 64")
    if options.token_file is not None:
        read_tokens(options.token_file)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it; a name counts only where it cannot be anything else."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open(options: ServeOptions) -> Store:
    finders: Sequence[Any] = ()
    if options.presidio:
        from harness.redaction import presidio

        finders = (presidio.finder(),)
    return Store.open(options.store, segments=options.segments, options=StoreOptions(finders=finders))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there, on a free port for 0.

    Raises:
        InfrastructureError: the port is taken, or the address is none of this machine's.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InfrastructureError(f"{host}:{port} cannot be listened on: {error}") from error
    return listener


# ---------------------------------------------------------------- the process that answers


def bounded_heads() -> Any:
    """What uvicorn speaks HTTP with. httptools, where it is there, takes headers of any length from anybody.

    h11 has a bound of its own, `h11_max_incomplete_event_size`.
    """
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return "h11"

    class Bounded(HttpToolsProtocol):
        unread = 0  # bytes since the end of a head, a part of a body, or the end of a request: of headers or trailers

        def on_headers_complete(self) -> None:
            self.unread = 0
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self.unread = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self.unread = 0
            super().on_message_complete()

        def data_received(self, data: bytes) -> None:
            self.unread += len(data)
            super().data_received(data)
            if self.unread > _MOST_HEAD and not self.transport.is_closing():
                self.send_400_response("the head of the request is too large")

    return Bounded


def _run(options: ServeOptions, listener: socket.socket, ready: Callable[[], None]) -> None:
    try:
        import uvicorn
    except ImportError as error:
        raise PluginError(missing_extra("the receiver", error)) from error
    tokens = read_tokens(options.token_file) if options.token_file is not None else None
    into = intake(_open(options), options.limits, _crew(options))
    app = build(into, tokens, options.limits)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=_GRACE,
        server_header=False, date_header=False, http=bounded_heads(), h11_max_incomplete_event_size=_MOST_HEAD,
    )  # fmt: skip

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()  # not before: who reads that it listens may send at once

    try:
        with quiet_signals(), _with_grpc(options, into, tokens):
            Server(config).run(sockets=[listener])
    finally:
        into.close()  # which its end has done already, unless it could not begin


def _crew(options: ServeOptions) -> Crew | None:
    return Crew(partial(open_taking, options), options.workers) if options.workers > 1 else None


def open_taking(options: ServeOptions) -> Taking:
    """What takes requests in a process of the crew."""
    return Taking(_open(options), options.limits.most_body)


@contextlib.contextmanager
def _with_grpc(options: ServeOptions, into: Intake, tokens: Tokens | None) -> Iterator[None]:
    """OTLP/gRPC where it is asked for."""
    if options.grpc_port is None:
        yield
        return
    from harness.traces.receiver import _grpc

    server, _ = _grpc.start(into, tokens, options.host, options.grpc_port)
    try:
        yield
    finally:
        server.stop(_GRACE).wait()


@contextlib.contextmanager
def quiet_signals() -> Iterator[None]:
    """uvicorn raises the signal that ended it once more when it is done; here it has then done its work."""

    def nothing(number: int, frame: FrameType | None) -> None:
        pass

    before = {number: signal.signal(number, nothing) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- the process that compacts


def _keep_compacting(options: ServeOptions, stopping: threading.Event) -> None:
    """Have a compactor, and another when it was killed: without one the journal would grow until nothing is taken."""
    context = multiprocessing.get_context("spawn")
    compactor = _started(context, options)
    while not stopping.wait(_LOOK_SECONDS):
        if not compactor.is_alive():
            _LOG.warning("the compactor ended with code %s and is started again", compactor.exitcode)
            compactor = _started(context, options)
    compactor.terminate()
    compactor.join(_GRACE)
    if compactor.is_alive():
        compactor.kill()


def _started(context: SpawnContext, options: ServeOptions) -> SpawnProcess:
    process = context.Process(target=_compact_until_orphaned, args=(options,))
    process.start()
    return process


def _compact_until_orphaned(options: ServeOptions) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the parent stops this process when it is done
    os.nice(19)
    store = Store.open(options.store, segments=options.segments)
    while not _parent_ended_within(_COMPACT_SECONDS):
        try:
            store.compact()
        except HarnessError as error:  # a full disk, a busy catalogue: the journal keeps it until the next time
            _LOG.warning("the journal waits: %s", error)
    store.close()


def _parent_ended_within(seconds: float) -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and bool(wait([parent.sentinel], seconds))
