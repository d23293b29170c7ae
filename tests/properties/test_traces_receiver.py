"""Whatever is sent to the receiver, the answer is one that OTLP knows, and never a 500.

Requests go to the application itself, without a socket. HARNESS_FUZZ_EXAMPLES says how many each test sends: of each
signal, in each encoding.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from harness.traces.receiver import Limits, add_token, build, intake, read_tokens
from harness.traces.store import Store, StoreOptions
from tests.asgi import Asgi
from tests.receiving import JSON, PROTOBUF, Answer
from tests.trace_requests import chat, logs, traces

EXAMPLES = int(os.environ.get("HARNESS_FUZZ_EXAMPLES", "60"))
MANY = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
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
        named = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        answer = self.app.request("POST", path, body, named)
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
    @MANY
    @given(st.binary(max_size=200))
    @example(b"[" * 200_000)
    @example(b'{"resourceSpans":' * 50_000)
    @example(b'{"resourceSpans": NaN}')
    @example(b"\x0a" * 200_000)
    def ask(body: bytes) -> None:
        check(receiver.post(body, path, kind), path, kind)

    ask()


@both_paths
def test_a_good_request_with_some_bytes_changed(receiver: Receiver, path: str) -> None:
    message, _, good = PATHS[path]
    whole = good.SerializeToString()
    changes = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4)

    @MANY
    @given(changes)
    def ask(changed: list[tuple[int, int]]) -> None:
        body = bytearray(whole)
        for place, value in changed:
            body[place] = value
        answer = receiver.post(gzip.compress(bytes(body), 1), path, PROTOBUF, content_encoding="gzip")
        check(answer, path, PROTOBUF)
        try:
            message.FromString(bytes(body))
        except DecodeError:
            assert answer.status == 400
        else:
            assert answer.status == 200

    ask()


WEIRD = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10),
        st.sampled_from(["0" * 32, "f" * 16, "18446744073709551616", "-1", "NaN", "2"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
VALUE = st.one_of(
    WEIRD,
    st.builds(dict, stringValue=WEIRD), st.builds(dict, intValue=WEIRD), st.builds(dict, doubleValue=WEIRD),
    st.builds(dict, arrayValue=st.builds(dict, values=st.lists(WEIRD, max_size=2))),
    st.builds(dict, kvlistValue=st.builds(dict, values=st.lists(WEIRD, max_size=2))), st.builds(dict, bytesValue=WEIRD),
)  # fmt: skip
KEY = st.one_of(st.text(max_size=8), st.just("gen_ai.input.messages"), WEIRD)
ATTRIBUTE = st.one_of(WEIRD, st.builds(dict, key=KEY, value=VALUE))
ID = st.one_of(st.just("ab" * 16), st.just("cd" * 8), WEIRD)
SPAN = st.one_of(WEIRD, st.fixed_dictionaries({"traceId": ID, "spanId": ID}, optional={
    "parentSpanId": ID, "name": WEIRD, "kind": WEIRD, "startTimeUnixNano": WEIRD, "endTimeUnixNano": WEIRD,
    "attributes": st.one_of(WEIRD, st.lists(ATTRIBUTE, max_size=3)), "events": WEIRD, "links": WEIRD, "status": WEIRD,
    "body": VALUE, "timeUnixNano": WEIRD, "unknown": WEIRD,
}))  # fmt: skip


def document(names: tuple[str, str, str]) -> Any:
    scopes = st.one_of(WEIRD, st.lists(st.fixed_dictionaries({names[2]: st.lists(SPAN, max_size=3)}), max_size=2))
    groups = st.one_of(
        WEIRD, st.lists(st.fixed_dictionaries({names[1]: scopes}, optional={"resource": WEIRD}), max_size=2)
    )
    return st.fixed_dictionaries({names[0]: groups}, optional={"more": WEIRD})


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/v1/traces", ("resourceSpans", "scopeSpans", "spans")),
        ("/v1/logs", ("resourceLogs", "scopeLogs", "logRecords")),
    ],
)
def test_documents_that_are_nearly_otlp(receiver: Receiver, path: str, names: tuple[str, str, str]) -> None:
    @MANY
    @given(document(names))
    def ask(value: Any) -> None:
        check(receiver.post(json.dumps(value).encode(), path, JSON), path, JSON)

    ask()


ENCODINGS = st.sampled_from(["", "identity", "gzip", "x-gzip", "GZIP", "deflate", "zstd", "br", "gzip, gzip", "é"])
KINDS = st.sampled_from([PROTOBUF, JSON, JSON + "; charset=utf-8", "text/plain", "", "APPLICATION/JSON", ";"])
LENGTHS = st.sampled_from(["", "0", "1", "-1", "9" * 30, "x", "٣", "10000000"])


@both_paths
def test_headers_that_contradict_the_body(receiver: Receiver, path: str) -> None:
    """Encodings, types, lengths and tenants that are not what the body is; bodies in pieces, cut off, or bombs."""
    bodies = st.binary(max_size=60) | st.sampled_from([
        b"", b"{}", PATHS[path][2].SerializeToString(), gzip.compress(b"{}"), gzip.compress(gzip.compress(b"{}")),
        *BOMBS.values(), BOMBS["gzip"][:100], b"\x1f\x8b" * 20,
    ])  # fmt: skip

    @MANY
    @given(bodies, ENCODINGS, KINDS, LENGTHS, st.booleans(), st.booleans(), st.sampled_from(["", "default", "other"]))
    def ask(body: bytes, encoding: str, kind: str, length: str, cut: bool, gone: bool, tenant: str) -> None:
        headers = {"content-type": kind, "content-encoding": encoding, "x-harness-tenant": tenant}
        headers |= {"content-length": length} if length else {}
        parts = [body[:7], body[7:]] if cut else [body]
        named = {n: v for n, v in headers.items() if v}
        answer = receiver.app.request("POST", path, parts, named, gone=gone)
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

    ask()


@both_paths
@pytest.mark.parametrize("encoding", sorted(BOMBS))
def test_a_bomb_is_refused_before_it_has_grown(receiver: Receiver, path: str, encoding: str) -> None:
    answer = receiver.post(BOMBS[encoding], path, PROTOBUF, content_encoding=encoding)
    assert answer.status == 413


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_not_are_kept_in_protobuf(receiver: Receiver, number: float) -> None:
    body = traces({"x": number, "y": [number]}).SerializeToString()
    assert receiver.post(body, "/v1/traces", PROTOBUF).status == 200


METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"])
NAMES = st.sampled_from([
    b"host", b"authorization", b"sec-fetch-site", b"cookie", b"accept", b"content-type", b"x-harness-tenant", b"range",
])  # fmt: skip
VALUES = st.binary(max_size=20) | st.sampled_from([
    b"127.0.0.1", b"localhost:4318", b"[::1]", b"evil.example", b"Basic Og==", b"Basic \xff", b"Bearer x",
    b"same-origin", b"cross-site", b"Basic " + b"A" * 40,
])  # fmt: skip
QUERIES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30)  # uvicorn refuses all else itself
SOMEWHERE = st.sampled_from(["/", "/healthz", "/v1/traces", "/v1/logs", "/v1/metrics", "//", "/..", "/\x00"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=12
).map(lambda text: "/" + text)


@pytest.mark.parametrize("with_tokens", [False, True], ids=["loopback", "tokens"])
def test_the_live_page_and_every_other_address(tmp_path_factory: pytest.TempPathFactory, with_tokens: bool) -> None:
    folder = tmp_path_factory.mktemp("page")
    tokens = _tokens(folder) if with_tokens else None
    store = Store.open(folder / "store", options=StoreOptions(spare=0))
    with Asgi(build(intake(store), tokens)) as app:

        @MANY
        @given(METHODS, SOMEWHERE, st.lists(st.tuples(NAMES, VALUES), max_size=4), QUERIES)
        def ask(method: str, path: str, headers: list[tuple[bytes, bytes]], query: str) -> None:
            answer = app.request(method, path, b"", headers, query=query.encode())
            assert answer.status in (200, 400, 401, 403, 404, 405, 415, 307), answer
            if path == "/" and method == "GET":
                hosts = [v for n, v in headers if n == b"host"]
                assert answer.status in ((401,) if with_tokens or b"evil.example" in hosts[:1] else (200, 401))
            if answer.status == 200 and path == "/":
                assert "default-src 'none'" in answer.headers["content-security-policy"]

        ask()


def _tokens(folder: Path) -> Any:
    add_token(folder / "tokens", "acme")
    return read_tokens(folder / "tokens")


def test_what_was_taken_of_all_this_can_be_compacted_and_counted(receiver: Receiver) -> None:
    assert receiver.post(traces(chat("last")).SerializeToString(), "/v1/traces", PROTOBUF).status == 200
    receiver.store.compact()
    stats = receiver.store.stats()
    assert stats.spans >= stats.calls >= 1
    assert stats.waiting_bytes == 0
    assert "traces whose calls cannot be read" not in stats.counted
