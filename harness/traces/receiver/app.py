"""The receiver's ASGI application: OTLP/HTTP on /v1/traces and /v1/logs, the live page on /, and /healthz"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.traces import live
from harness.traces.otlp import JSON
from harness.traces.receiver._answers import Refusal, encoding_of, refusal, success, warning
from harness.traces.receiver._intake import Intake, Taker
from harness.traces.receiver._page import StorePage
from harness.traces.receiver._taking import Request as Body
from harness.traces.receiver._taking import Signal, Taken, Taking
from harness.traces.receiver._tenancy import tenant_of
from harness.traces.receiver._tokens import Tokens
from harness.traces.store import Store

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


@dataclass(frozen=True, slots=True)
class Limits:
    """What a receiver takes: bytes of a body, also after decompression, bytes and seconds of work that may wait,
    and seconds in which a body has to be there."""

    most_body: int = 64 * 2**20
    most_bytes: int = 256 * 2**20
    most_wait: float = 0.2
    body_seconds: float = 30.0


def intake(store: Store, limits: Limits | None = None, taker: Taker | None = None) -> Intake:
    """What takes requests into an open store within limits: in this process, or where `taker` does."""
    bounds = limits or Limits()
    if taker is None:
        taker = Taking(store, bounds.most_body)
        taker.warm()
    return Intake(store, taker, bounds.most_body, bounds.most_bytes, bounds.most_wait)


def build(into: Intake, tokens: Tokens | None = None, limits: Limits | None = None) -> Starlette:
    """The application; without tokens whoever reaches it sends as tenant `default`. It closes the store at its end."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    receiver = _Receiver(into, tokens, (limits or Limits()).body_seconds)
    page = StorePage(into.store, tokens)

    async def shown(request: Request) -> Response:
        return await page(request)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        page.close()
        into.close()

    return Starlette(
        routes=[
            Route("/v1/traces", receiver.traces, methods=["POST"]),
            Route("/v1/logs", receiver.logs, methods=["POST"]),
            Route("/", shown, methods=["GET"]),
            Route("/healthz", _healthy, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _failed},
        lifespan=lifespan,
    )


class _Receiver:
    def __init__(self, into: Intake, tokens: Tokens | None, seconds: float) -> None:
        self._intake, self._tokens, self._seconds = into, tokens, seconds

    async def traces(self, request: Request) -> Response:
        return await self._take(request, "traces")

    async def logs(self, request: Request) -> Response:
        return await self._take(request, "logs")

    async def _take(self, request: Request, signal: Signal) -> Response:
        from starlette.responses import Response

        kind = encoding_of(request.headers.get("content-type", ""))
        try:
            if self._tokens is None and live.page_elsewhere(request.headers):
                raise Refusal(403, "a page of another site may not send here without a token")
            tenant = tenant_of(request.headers, self._tokens)
            if kind is None:
                raise Refusal(415, "send application/x-protobuf or application/json")
            taken = await self._kept(request, signal, tenant, kind)
        except Refusal as error:
            return _refused(error, kind)
        return Response(success(signal, kind, taken.rejected, warning(taken.clamped)), media_type=kind)

    async def _kept(self, request: Request, signal: Signal, tenant: str, kind: str) -> Taken:
        body = bytearray()
        try:
            await self._read(request, body)
            encoding = request.headers.get("content-encoding", "")
            return await self._intake.take(Body(tenant, signal, bytes(body), kind, encoding))
        finally:
            self._intake.release(len(body))

    async def _read(self, request: Request, body: bytearray) -> None:
        """The body as it comes; one that says or shows that it is too large is not read on."""
        from starlette.requests import ClientDisconnect

        most = self._intake.most_body
        said = request.headers.get("content-length", "0")
        size = int(said) if said.isascii() and said.isdigit() and len(said) < 20 else most + 1
        if size > most:
            raise Refusal(413, f"the body is larger than {most} bytes; send smaller batches")
        self._intake.check(size)
        try:
            async with asyncio.timeout(self._seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > most:
                        raise Refusal(413, f"the body is larger than {most} bytes; send smaller batches")
                    self._intake.reserve(len(chunk))
                    body += chunk
        except ClientDisconnect:
            raise Refusal(400, "the body ended too early") from None
        except TimeoutError:
            raise Refusal(408, f"the body did not come within {self._seconds:g} s") from None


def _refused(error: Refusal, kind: str | None) -> Response:
    from starlette.responses import Response

    body, media_type = refusal(error.status, error.message, kind)
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status in (413, 503):
        headers["connection"] = "close"  # what is left of the body need not be read
    return Response(body, error.status, headers, media_type)


async def _http_error(request: Request, error: Any) -> Response:
    kind = encoding_of(request.headers.get("content-type", "")) or JSON
    answer = _refused(Refusal(error.status_code, f"{request.url.path[:80]}: {error.detail}"), kind)
    answer.headers.update(error.headers or {})
    return answer


async def _failed(request: Request, error: Exception) -> Response:
    # The message may repeat what was sent, so only the kind of the error is told.
    return _refused(
        Refusal(500, f"internal error: {type(error).__name__}"), encoding_of(request.headers.get("content-type", ""))
    )


async def _healthy(_: Request) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"status": "ok"})
