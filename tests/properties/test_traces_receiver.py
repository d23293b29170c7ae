"""Whatever is sent to the receiver, the answer is one that OTLP knows, and never a 500.

Requests go to the application itself, without a socket. HARNESS_FUZZ_EXAMPLES says how many each test sends: of each
signal, in each encoding.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from harness.traces.receiver import Limits, add_token, build, intake, read_tokens
from harness.traces.store import Store, StoreOptions
from tests.asgi import Asgi
from tests.endpoint_fuzz import EXAMPLES, TOGETHER, Odd, fuzzed_together
from tests.receiving import JSON, PROTOBUF, Answer
from tests.trace_requests import chat, logs, traces

MOST = 2**20
PATHS = {
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse, traces(chat(), chat())),
    "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse, logs("a", [{"b": 1.5}], trace=b"t" * 16)),
}
ZEROS = bytes(4 * MOST)
BOMBS = {
    "gzip": gzip.compress(ZEROS), "deflate": zlib.compress(ZEROS), "zstd": zstandard.ZstdCompressor().compress(ZEROS),
}  # fmt: skip


@dataclass
class Receiver:
    """The application over a store, and how many requests it took."""

    app: Asgi
    store: Store
    taken: int = 0

    def post(self, body: bytes, path: str, kind: str, **headers: str) -> Answer:
        return self.app.run(self.sent(body, path, kind, **headers))

    async def sent(self, body: bytes, path: str, kind: str, **headers: str) -> Answer:
        named = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        answer = await self.app.ask("POST", path, body, named)
        self.taken += answer.status == 200
        return answer


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    limits = Limits(most_body=MOST, most_wait=60)
    store = Store.open(tmp_path_factory.mktemp("fuzz"), options=StoreOptions(spare=0))
    with Asgi(build(intake(store, limits), None, limits)) as app:
        yield Receiver(app, store)


def check(answer: Answer, path: str, kind: str, statuses: tuple[int, ...] = (200, 400, 413)) -> None:
    """The status is one of OTLP's, and the body what goes with it, in the encoding of the request."""
    assert answer.status in statuses, answer
    assert answer.headers["content-type"] == kind
    if kind == JSON:
        assert set(answer.json) <= ({"partialSuccess"} if answer.status == 200 else {"code", "message"})
    elif answer.status == 200:
        PATHS[path][1].FromString(answer.body)
    else:
        assert Status.FromString(answer.body).message


both_paths = pytest.mark.parametrize("path", sorted(PATHS))
both_kinds = pytest.mark.parametrize("kind", [PROTOBUF, JSON])


@both_kinds
@both_paths
def test_any_bytes(receiver: Receiver, path: str, kind: str) -> None:
    async def ask(odd: Odd) -> None:
        check(await receiver.sent(odd.bytes(200), path, kind), path, kind)

    fuzzed_together(receiver.app, ask)
    for deep in (b"[" * 200_000, b'{"resourceSpans":' * 50_000, b'{"resourceSpans": NaN}', b"\x0a" * 200_000):
        check(receiver.post(deep, path, kind), path, kind)


@both_paths
def test_a_good_request_with_some_bytes_changed(receiver: Receiver, path: str) -> None:
    message, _, good = PATHS[path]
    whole = good.SerializeToString()

    async def ask(odd: Odd) -> None:
        body = bytearray(whole)
        for _ in range(1 + odd.below(4)):
            body[odd.below(len(body))] = odd.below(256)
        packed = gzip.compress(bytes(body), 1) if odd.chance(0.5) else bytes(body)
        named = {"content_encoding": "gzip"} if packed != body else {}
        answer = await receiver.sent(packed, path, PROTOBUF, **named)
        check(answer, path, PROTOBUF)
        try:
            message.FromString(bytes(body))
        except DecodeError:
            assert answer.status == 400
        else:
            assert answer.status == 200

    fuzzed_together(receiver.app, ask)


NAMES = {
    "/v1/traces": ("resourceSpans", "scopeSpans", "spans"),
    "/v1/logs": ("resourceLogs", "scopeLogs", "logRecords"),
}
WORDS = (
    "resource", "scope", "attributes", "key", "value", "stringValue", "intValue", "doubleValue", "boolValue",
    "bytesValue", "arrayValue", "kvlistValue", "values", "events", "links", "status", "code", "name", "timeUnixNano",
    "traceId", "spanId", "body", "eventName",
)  # fmt: skip
FIELDS = (
    "parentSpanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano", "events", "links", "status", "body",
    "timeUnixNano", "unknown", "droppedAttributesCount", "severityNumber", "eventName",
)  # fmt: skip


def record(odd: Odd) -> Any:
    """Nearly a span or a log record."""
    if odd.chance(0.2):
        return odd.json(WORDS)
    made = {"traceId": odd.pick(("ab" * 16, "0" * 32, odd.text())), "spanId": odd.pick(("cd" * 8, odd.text()))}
    made |= {odd.pick(FIELDS): odd.json(WORDS) for _ in range(odd.below(4))}
    keys = ("gen_ai.input.messages", "gen_ai.operation.name", "user.id", "a")
    attributes = [
        {
            "key": odd.pick(keys),
            "value": {odd.pick(WORDS[5:12]): odd.json(WORDS)} if odd.chance(0.8) else odd.json(WORDS),
        }
        for _ in range(odd.below(4))
    ]
    return {**made, "attributes": attributes if odd.chance(0.9) else odd.json(WORDS)}


def document(odd: Odd, path: str) -> Any:
    """Nearly an export request."""
    groups, scopes, records = NAMES[path]
    scope = {records: [record(odd) for _ in range(odd.below(4))] if odd.chance(0.9) else odd.json(WORDS)}
    group = {scopes: [scope] if odd.chance(0.9) else odd.json(WORDS), "resource": odd.json(WORDS)}
    return {groups: [group] if odd.chance(0.95) else odd.json(WORDS), "more": odd.json(WORDS, 2)}


@both_paths
def test_documents_that_are_nearly_otlp(receiver: Receiver, path: str) -> None:
    async def ask(odd: Odd) -> None:
        check(await receiver.sent(json.dumps(document(odd, path)).encode(), path, JSON), path, JSON)

    fuzzed_together(receiver.app, ask)


ENCODINGS = ("", "identity", "gzip", "x-gzip", "GZIP", "deflate", "zstd", "br", "gzip, gzip", "é")
KINDS = (PROTOBUF, JSON, JSON + "; charset=utf-8", "text/plain", "", "APPLICATION/JSON", ";")
LENGTHS = ("", "", "0", "1", "-1", "9" * 30, "x", "\xb2", "10000000")


@both_paths
def test_headers_that_contradict_the_body(receiver: Receiver, path: str) -> None:
    """Encodings, types, lengths and tenants that are not what the body is; bodies in pieces, cut off, or bombs."""
    bodies = (
        b"", b"{}", PATHS[path][2].SerializeToString(), gzip.compress(b"{}"), gzip.compress(gzip.compress(b"{}")),
        *BOMBS.values(), BOMBS["gzip"][:100], b"\x1f\x8b" * 20,
    )  # fmt: skip

    async def ask(odd: Odd) -> None:
        body, kind, length = odd.pick(bodies) if odd.chance(0.6) else odd.bytes(60), odd.pick(KINDS), odd.pick(LENGTHS)
        tenant, gone = odd.pick(("", "", "default", "other")), odd.chance(0.2)
        headers = {"content-type": kind, "content-encoding": odd.pick(ENCODINGS), "x-harness-tenant": tenant}
        named = {n: v for n, v in (headers | {"content-length": length}).items() if v}
        parts = [body[:7], body[7:]] if odd.chance(0.5) else [body]
        answer = await receiver.app.ask("POST", path, parts, named, gone=gone)
        spoken = kind.partition(";")[0].strip().lower()
        known = spoken if spoken in (PROTOBUF, JSON) else JSON
        check(answer, path, known, (200, 400, 403, 413, 415))
        if tenant == "other":
            assert answer.status == 403
        elif spoken not in (PROTOBUF, JSON):
            assert answer.status == 415
        elif len(length) > 6:
            assert answer.status == 413
        if answer.status == 200:
            assert not gone
            receiver.taken += 1

    fuzzed_together(receiver.app, ask)


@both_paths
@pytest.mark.parametrize("encoding", sorted(BOMBS))
def test_a_bomb_is_refused_before_it_has_grown(receiver: Receiver, path: str, encoding: str) -> None:
    answer = receiver.post(BOMBS[encoding], path, PROTOBUF, content_encoding=encoding)
    assert answer.status == 413


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not_are_kept_in_protobuf(receiver: Receiver, number: float) -> None:
    body = traces({"x": number, "y": [number]}).SerializeToString()
    assert receiver.post(body, "/v1/traces", PROTOBUF).status == 200


METHODS = ("GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X")
SENT = ("host", "authorization", "sec-fetch-site", "cookie", "accept", "content-type", "x-harness-tenant", "range")
VALUES = (
    "127.0.0.1", "localhost:4318", "[::1]", "evil.example", "Basic Og==", "Basic \xff", "Bearer x", "same-origin",
    "cross-site", "Basic " + "A" * 40,
)  # fmt: skip
SOMEWHERE = ("/", "/", "/", "/healthz", "/v1/traces", "/v1/logs", "/v1/metrics", "//", "/..", "/\x00")


@pytest.mark.parametrize("with_tokens", [False, True], ids=["loopback", "tokens"])
def test_the_live_page_and_every_other_address(tmp_path_factory: pytest.TempPathFactory, with_tokens: bool) -> None:
    folder = tmp_path_factory.mktemp("page")
    tokens = _tokens(folder) if with_tokens else None
    store = Store.open(folder / "store", options=StoreOptions(spare=0))
    with Asgi(build(intake(store), tokens)) as app:

        async def ask(odd: Odd) -> None:
            method, path = odd.pick(METHODS), odd.pick(SOMEWHERE) if odd.chance(0.7) else "/" + odd.latin()
            headers = odd.headers(SENT, VALUES)
            query = bytes(0x21 + odd.below(0x5E) for _ in range(odd.below(30)))  # uvicorn refuses all else itself
            answer = await app.ask(method, path, b"", headers, query=query)
            assert answer.status in (200, 400, 401, 403, 404, 405, 415, 307), answer
            if path == "/" and method == "GET":
                strange = with_tokens or headers.get("host") == "evil.example"
                assert answer.status in ((401,) if strange else (200, 401))
            if answer.status == 200 and path == "/":
                assert "default-src 'none'" in answer.headers["content-security-policy"]

        fuzzed_together(app, ask)


def _tokens(folder: Path) -> Any:
    add_token(folder / "tokens", "acme")
    return read_tokens(folder / "tokens")


@pytest.mark.parametrize("signal", ["traces", "logs"])
def test_exports_over_grpc(tmp_path_factory: pytest.TempPathFactory, signal: str) -> None:
    """The same intake behind gRPC: every answer has a code of OTLP's."""
    grpc = pytest.importorskip("grpc")
    from harness.traces.receiver import _grpc

    store = Store.open(tmp_path_factory.mktemp("grpc"), options=StoreOptions(spare=0))
    into = intake(store, Limits(most_body=MOST, most_wait=60))
    server, port = _grpc.start(into, None, "127.0.0.1", 0)
    good = PATHS[f"/v1/{signal}"][2].SerializeToString()
    service = {"traces": "trace.v1.TraceService", "logs": "logs.v1.LogsService"}[signal]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        export = channel.unary_unary(f"/opentelemetry.proto.collector.{service}/Export")

        def batch(odd: Odd) -> None:
            sent = [export.future(_changed(odd, good)) for _ in range(TOGETHER)]
            for answer in sent:
                if answer.exception() is None:
                    PATHS[f"/v1/{signal}"][1].FromString(answer.result())
                assert answer.code() in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)

        for seed in range(-(-EXAMPLES // TOGETHER)):
            batch(Odd(seed))
    server.stop(5).wait()
    into.close()


def _changed(odd: Odd, good: bytes) -> bytes:
    body = bytearray(good if odd.chance(0.5) else odd.bytes(200))
    if body:
        body[odd.below(len(body))] = odd.below(256)
    return bytes(body)


def test_what_was_taken_of_all_this_can_be_compacted_and_counted(receiver: Receiver) -> None:
    assert receiver.post(traces(chat("last")).SerializeToString(), "/v1/traces", PROTOBUF).status == 200
    receiver.store.compact()
    stats = receiver.store.stats()
    assert stats.spans >= stats.calls >= 1
    assert stats.waiting_bytes == 0
    assert "traces whose calls cannot be read" not in stats.counted
