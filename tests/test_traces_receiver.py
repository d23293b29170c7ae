"""The receiver answers as OTLP says it must, takes nothing beyond its limits, and acknowledges only what is on disk."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from harness.errors import ConfigError, InfrastructureError, StorageError
from harness.traces import otlp
from harness.traces.receiver import Limits, ServeOptions, add_token, read_tokens, serve
from harness.traces.receiver._answers import Refusal
from harness.traces.receiver._bodies import decompress
from harness.traces.store import JournalFull, Store
from tests.receiving import JSON, PROTOBUF, Receiving
from tests.trace_examples import calls, fixture
from tests.trace_requests import chat, logs, traces

pytestmark = pytest.mark.slow  # servers, cryptography or DuckDB in every test

BODY = traces(chat("one"), chat("two")).SerializeToString()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiving]:
    with Receiving(tmp_path / "store") as running:
        yield running


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiving]:
    with Receiving(tmp_path_factory.mktemp("shared")) as running:
        yield running


def as_json(request: Any) -> bytes:
    spans = otlp.decode_traces(request.SerializeToString()).items
    return otlp.encode_traces(spans, otlp.JSON)


def test_both_encodings_are_answered_in_kind_and_kept(receiver: Receiving) -> None:
    answer = receiver.post(BODY)
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, PROTOBUF, b"")
    answer = receiver.post(as_json(traces(chat("three"))), kind=f"{JSON}; charset=utf-8")
    assert (answer.status, answer.headers["content-type"], answer.json) == (200, JSON, {})
    answer = receiver.post(logs("x", trace=b"t" * 16).SerializeToString(), path="/v1/logs")
    assert (answer.status, answer.body) == (200, b"")
    stats = receiver.compacted().stats()
    assert (stats.spans, stats.calls, stats.logs) == (3, 3, 1)


@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
def test_an_empty_request_succeeds(receiver: Receiving, kind: str) -> None:
    assert receiver.post(b"" if kind == PROTOBUF else b"{}", kind=kind).status == 200
    assert receiver.request("GET", "/healthz").json == {"status": "ok"}


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:100]) + gzip.compress(BODY[100:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY)[2:-4]),
        ("zstd", zstandard.compress(BODY)),
        ("zstd", zstandard.compress(BODY[:100]) + zstandard.compress(BODY[100:])),
        ("identity", BODY),
        ("GZIP", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY) + gzip.compress(b"") * 63),
        ("zstd", zstandard.compress(BODY) + zstandard.compress(b"") * 63),
    ],
)
def test_compressed_bodies_are_unpacked(encoding: str, packed: bytes) -> None:
    assert decompress(packed, encoding, len(BODY)) == BODY


@pytest.mark.parametrize(
    ("encoding", "packed", "status"),
    [
        ("gzip", gzip.compress(bytes(2**24)), 413),
        ("gzip", gzip.compress(bytes(2**19)) * 100, 413),
        ("deflate", zlib.compress(bytes(2**24)), 413),
        ("zstd", zstandard.compress(bytes(2**24)), 413),
        ("zstd", zstandard.compress(bytes(2**19)) * 100, 413),
        ("identity", bytes(2**20 + 1), 413),
        ("gzip", b"not gzip", 400),
        ("gzip", gzip.compress(BODY)[:-9], 400),
        ("gzip", gzip.compress(BODY) + b"trailing", 400),
        ("deflate", b"\x78\x9c\xff\xff", 400),
        ("zstd", b"not zstd", 400),
        ("zstd", zstandard.compress(BODY)[:-1], 400),
        ("gzip", gzip.compress(b"") * 65, 400),  # four megabytes of these held everybody up for two minutes
        ("zstd", zstandard.compress(b"") * 65, 400),
        ("br", b"x", 415),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 415),
    ],
)
def test_bombs_and_damage_are_refused(encoding: str, packed: bytes, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        decompress(packed, encoding, 2**20)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"\xff\xff", {}, 400, 3),
        (b"{", {"kind": JSON}, 400, 3),
        (b"[]", {"kind": JSON}, 400, 3),
        (b'{"resourceSpans": NaN}', {"kind": JSON}, 400, 3),
        (b'{"resourceSpans": 1}', {"kind": JSON}, 400, 3),
        (b"[" * 100_000, {"kind": JSON}, 400, 3),
        (b"\x0a\x02\x0a\x00" * 3 + b"\x0a", {}, 400, 3),
        (b"x", {"content_encoding": "br"}, 415, 3),
        (b"x", {"kind": "text/plain"}, 415, 3),
        (b"x", {"kind": ""}, 415, 3),
        (b"x", {"path": "/v1/metrics"}, 404, 5),
        (BODY, {"x_harness_tenant": "somebody-else"}, 403, 7),
        (BODY, {"host": "evil.example:4318"}, 403, 7),  # a name that its owner points to this machine (DNS rebinding)
        (BODY, {"origin": "https://evil.example"}, 403, 7),
        (BODY, {"sec_fetch_site": "cross-site"}, 403, 7),
    ],
)
def test_a_refusal_is_a_status_in_the_encoding_of_the_request(
    shared: Receiving, body: bytes, headers: dict[str, str], status: int, code: int
) -> None:
    answer = shared.post(body, **headers)
    assert answer.status == status
    if headers.get("kind", PROTOBUF) == PROTOBUF:
        assert answer.headers["content-type"] == PROTOBUF
        assert Status.FromString(answer.body).code == code
        assert Status.FromString(answer.body).message
    else:
        assert answer.json["code"] == code


@pytest.mark.parametrize(
    "host", ["localhost:4318", "127.0.0.1", "[::1]:4318", "0.0.0.0:4318", "host.docker.internal:4318", "collector"]
)
def test_a_program_on_this_machine_needs_no_token_whatever_it_calls_the_machine(receiver: Receiving, host: str) -> None:
    assert receiver.post(BODY, host=host).status == 200


def test_another_method_is_405_and_says_which_is_right(receiver: Receiving) -> None:
    answer = receiver.request("GET", "/v1/traces", headers={"content-type": PROTOBUF})
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert Status.FromString(answer.body).code == 12


def test_what_was_not_taken_is_a_partial_success_in_either_encoding(receiver: Receiving) -> None:
    request = traces(chat(), {"_span": b"short"}, {"_start": 5, "_end": 6})
    answer = ExportTraceServiceResponse.FromString(receiver.post(request.SerializeToString()).body)
    assert answer.partial_success.rejected_spans == 1
    assert answer.partial_success.error_message == (
        "rejected 1 (span-id: 1); 1 with an impossible time, which was replaced by that of arrival"
    )
    document = json.loads(as_json(traces(chat())))
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["spanId"] = "xyz"
    answer_json = receiver.post(json.dumps(document).encode(), kind=JSON).json
    assert answer_json == {"partialSuccess": {"rejectedSpans": "1", "errorMessage": "rejected 1 (span-id: 1)"}}
    request_logs = logs("a", "b", trace=b"t" * 15)
    got = ExportLogsServiceResponse.FromString(receiver.post(request_logs.SerializeToString(), path="/v1/logs").body)
    assert got.partial_success.rejected_log_records == 2
    assert receiver.compacted().stats().counted["traces rejected: span-id"] == 2


def test_a_body_that_says_or_shows_that_it_is_too_large_is_413(tmp_path: Path) -> None:
    with Receiving(tmp_path, limits=Limits(most_body=1000)) as receiver:
        assert receiver.post(bytes(1001)).status == 413
        assert receiver.post(gzip.compress(bytes(1001)), content_encoding="gzip").status == 413
        with socket.create_connection(("127.0.0.1", receiver.port)) as raw:
            head = (
                f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF}\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            raw.sendall(head.encode() + b"1000\r\n" + bytes(0x1000) + b"\r\n")
            assert b" 413 " in raw.recv(4096)


@pytest.mark.parametrize("more", [b"", b"Transfer-Encoding: chunked\r\n\r\n0\r\n"])
def test_headers_and_trailers_without_an_end_are_cut_off(receiver: Receiving, more: bytes) -> None:
    """They come before anybody has said who sends them, and a hundred megabytes held everybody up for a minute."""
    sent = 0
    with socket.create_connection(("127.0.0.1", receiver.port), 20) as connection:
        connection.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n" + more + b"X: ")
        with contextlib.suppress(ConnectionError):
            while sent < 2**25:
                sent += connection.send(b"a" * 2**16)
    assert sent < 2**25
    many = {f"x-{i}": "a" * 1000 for i in range(50)}
    assert receiver.post(BODY, **many).status == 200
    assert receiver.post(BODY * 2**8).status == 200  # a body is no head, and has a bound of its own


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    with Receiving(tmp_path, limits=Limits(body_seconds=0.2)) as receiver:
        with socket.create_connection(("127.0.0.1", receiver.port)) as raw:
            raw.sendall(
                f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF}\r\nContent-Length: 9\r\n\r\n".encode()
            )
            assert b" 408 " in raw.recv(4096)
        assert receiver.post(BODY).status == 200


def test_too_much_at_once_is_503_with_a_time_and_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    answers: list[Any] = []
    with Receiving(tmp_path, limits=Limits(most_wait=1e-9)) as receiver:
        bodies = [traces(*(chat(f"{i} {n}" * 50) for n in range(60))).SerializeToString() for i in range(12)]
        threads = [threading.Thread(target=lambda b=b: answers.append(receiver.post(b))) for b in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [a for a in answers if a.status == 503]
        assert refused
        assert all(a.headers["retry-after"] == "1" and Status.FromString(a.body).code == 14 for a in refused)
        taken = len(answers) - len(refused)
        assert taken >= 1
        assert receiver.compacted().stats().spans == 60 * taken


def test_a_full_disk_is_503_and_nothing_is_half_written(receiver: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, needed: int) -> None:
        raise JournalFull("no room")

    monkeypatch.setattr("harness.traces.store._journal.Journal._room", full)
    answer = receiver.post(BODY)
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    monkeypatch.undo()
    assert receiver.post(BODY).status == 200
    assert receiver.compacted().stats().spans == 2


def test_it_acknowledges_only_what_is_on_disk(receiver: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def noting(handle: int) -> None:
        real(handle)
        synced.append(handle)

    monkeypatch.setattr(os, "fdatasync", noting)
    assert receiver.post(BODY).status == 200
    assert synced


# ---------------------------------------------------------------- tenants


def test_a_token_decides_whose_a_span_is_and_the_data_does_not(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    acme, other = add_token(path, "acme"), add_token(path, "other")
    assert acme not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    span = chat(**{"tenant": "other", "user.id": "user-1"})
    with Receiving(tmp_path / "store", read_tokens(path)) as receiver:
        body = traces(span, resource={"tenant": "other"}).SerializeToString()
        assert receiver.post(body, authorization=f"Bearer {acme}").status == 200
        assert receiver.post(body, authorization=f"bearer {other}", x_harness_tenant="other").status == 200
        refused = receiver.post(body)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert receiver.post(body, authorization=f"Bearer {acme}x").status == 401
        assert receiver.post(body, authorization=f"Basic {acme}").status == 401
        assert receiver.post(body, authorization=f"Bearer {acme}", x_harness_tenant="other").status == 403
        store = receiver.compacted()
        assert store.stats().tenants == {"acme": 1, "other": 1}
        assert store.stats().users == 2  # two tenants with one user id have two users


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("acme secret-in-the-clear\n", r"tokens:1: not `tenant sha256:HEX`"),
        ("# nobody\n\n", "no token"),
        ("../x sha256:" + "0" * 64, "a name is 1 to 64"),
    ],
)
def test_a_wrong_file_of_tokens_is_one_clear_error_that_repeats_no_secret(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=message) as error:
        read_tokens(path)
    assert "secret-in-the-clear" not in str(error.value)
    path.chmod(0o644)
    with pytest.raises(StorageError, match="others may read"):
        read_tokens(path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])  # noqa: S104 - what is refused
def test_a_host_that_others_reach_needs_tokens(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r"needs tokens: .*--token-file"):
        serve(ServeOptions(tmp_path, host=host))


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(InfrastructureError, match="cannot be listened on"),
    ):
        serve(ServeOptions(tmp_path, port=other.getsockname()[1]))
    with pytest.raises(ConfigError, match="memory is not shared"):
        serve(ServeOptions(tmp_path, segments="memory://x"))


# ---------------------------------------------------------------- real clients


@pytest.mark.parametrize("compressed", ["none", "gzip", "deflate"])
def test_the_sdk_exports_spans_and_logs_over_http(receiver: Receiving, compressed: str) -> None:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(f"{receiver.url}/v1/traces", compression=Compression(compressed))
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("agent") as parent:
        parent.set_attribute("session.id", "s1")
        with provider.get_tracer("test").start_as_current_span("chat m") as span:
            span.set_attributes(chat("I am jane@example.org"))
            span.add_event("exception", {"exception.message": "jane@example.org failed"})
    provider.shutdown()
    (call,) = receiver.compacted().calls()
    assert call.messages[0].text.startswith("I am <EMAIL_")
    assert (call.session, call.trace_id) == ("s1", format(span.get_span_context().trace_id, "032x"))
    messages = receiver.store.query("SELECT message FROM spans")["message"].to_pylist()
    assert not any(b"jane@example.org" in message for message in messages)


@pytest.mark.parametrize("scenario", ["chat", "tools", "tool_result", "stream", "error"])
def test_traceais_spans_come_through_the_sdk_as_its_register_sends_them(receiver: Receiving, scenario: str) -> None:
    """What traceAI's instrumentation really wrote, sent by the SDK's exporter with the resource that it registers."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind, Status, StatusCode

    project = {"project_name": "shop", "project_type": "observe", "metadata": "{}", "semantic_convention": "fi"}
    provider = TracerProvider(resource=Resource.create({"service.name": "shop", **project}))
    headers = {"X-Api-Key": "unused", "X-Secret-Key": "unused"}
    exporter = OTLPSpanExporter(f"{receiver.url}/v1/traces", headers=headers)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("traceai_openai")
    (recorded,), _ = fixture(f"traceai/{scenario}")
    user = {"session.id": "s1", "user.id": "jane@example.org", "metadata": '{"run_id": "run-7"}'}
    with (
        tracer.start_as_current_span("turn", attributes={"gen_ai.span.kind": "CHAIN", **user}),
        tracer.start_as_current_span(recorded.name, kind=SpanKind.CLIENT, attributes=recorded.attributes) as span,
    ):
        for event in recorded.events:
            span.add_event(event.name, dict(event.attributes))
        span.set_status(Status(StatusCode.ERROR if recorded.status == "error" else StatusCode.OK))
    provider.shutdown()
    (call,), (alone,) = receiver.compacted().calls(), calls(recorded).calls
    assert (call.dialect, call.session, call.run_id, call.replayable) == ("traceai", "s1", "run-7", alone.replayable)
    assert (call.messages, call.tools, call.parameters) == (alone.messages, alone.tools, alone.parameters)
    assert (call.outputs, call.error is None) == (alone.outputs, scenario != "error")
    assert call.user.startswith("<USER_")


def test_the_sdk_sends_again_what_was_refused_for_now(receiver: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    refusals = iter([True])
    real = receiver.intake.check

    def once(self: Any, size: int) -> None:
        if next(refusals, False):
            raise Refusal(503, "later", retry_after=1)
        real(size)

    monkeypatch.setattr(type(receiver.intake), "check", once)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{receiver.url}/v1/traces")))
    with provider.get_tracer("test").start_as_current_span("chat m") as span:
        span.set_attributes(chat())
    provider.shutdown()
    assert receiver.compacted().stats().calls == 1


def test_the_sdk_exports_over_grpc_and_errors_have_their_codes(tmp_path: Path) -> None:
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from harness.traces.receiver import _grpc, intake

    token = add_token(tmp_path / "tokens", "acme")
    with Store.open(tmp_path / "store") as store:
        into = intake(store, Limits(most_body=2**20))
        server, port = _grpc.start(into, read_tokens(tmp_path / "tokens"), "127.0.0.1", 0)
        address, headers = f"127.0.0.1:{port}", (("authorization", f"Bearer {token}"),)
        provider = TracerProvider()
        exporter = OTLPSpanExporter(address, insecure=True, headers=headers)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        with provider.get_tracer("test").start_as_current_span("chat m") as span:
            span.set_attributes(chat())
        provider.shutdown()
        with grpc.insecure_channel(address) as channel:
            export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
            for body, metadata, code in [
                (b"\xff", headers, grpc.StatusCode.INVALID_ARGUMENT),
                (BODY, (), grpc.StatusCode.UNAUTHENTICATED),
                (bytes(2**21), headers, grpc.StatusCode.RESOURCE_EXHAUSTED),
            ]:
                with pytest.raises(grpc.RpcError) as error:
                    export(body, metadata=metadata)
                assert error.value.code() == code
            partial = ExportTraceServiceResponse.FromString(
                export(traces({"_span": b"x"}).SerializeToString(), metadata=headers)
            )
        server.stop(5).wait()
        assert partial.partial_success.rejected_spans == 1
        store.compact()
        assert (store.stats().calls, store.stats().tenants) == (1, {"acme": 1})


LITELLM = """
import sys, litellm
from litellm.integrations.opentelemetry import OpenTelemetry, OpenTelemetryConfig
config = OpenTelemetryConfig(exporter="otlp_http", endpoint=sys.argv[1] + "/v1/traces")
litellm.callbacks = [OpenTelemetry(config=config)]
for text in ("what is 2+2?", "write to jane@example.org"):
    litellm.completion(model="openai/m", api_base=sys.argv[2], api_key="none", user="customer-17", temperature=0.5,
                       messages=[{"role": "user", "content": text}])
from opentelemetry import trace
import time; time.sleep(1)
trace.get_tracer_provider().force_flush()
"""


@pytest.mark.slow
def test_litellms_own_callback_is_understood(receiver: Receiving) -> None:
    from tests.loopback_model import LoopbackModel

    with LoopbackModel(lambda messages: f"answer to {messages[-1]['content']}") as model:
        subprocess.run(
            [sys.executable, "-c", LITELLM, receiver.url, model.base], check=True, timeout=120,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )  # fmt: skip
    calls = sorted(receiver.compacted().calls(), key=lambda call: call.time_ns)
    assert [c.messages[-1].text[:11] for c in calls] == ["what is 2+2", "write to <E"]
    assert calls[1].outputs[0].text.startswith("answer to write to <EMAIL_")
    assert all(c.replayable and c.parameters.temperature == 0.5 for c in calls)
    messages = receiver.store.query("SELECT message FROM spans")["message"].to_pylist()
    assert not any(b"jane@example.org" in message for message in messages)


# ---------------------------------------------------------------- the whole command


@pytest.mark.slow
def test_it_serves_with_several_processes_and_stops_cleanly_when_told(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from harness.traces.receiver import ServeOptions, serve\n"
        "if __name__ == '__main__':\n"
        "    serve(ServeOptions(Path(sys.argv[1]), port=0, workers=2), lambda url: print(url, flush=True))\n"
    )
    (tmp_path / "serve.py").write_text(program)
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "serve.py"), str(tmp_path / "store")], stdout=-1, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    try:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        running = Receiving.__new__(Receiving)
        running.port = int(url.rsplit(":", 1)[1])
        for _ in range(20):
            assert running.post(traces(chat()).SerializeToString()).status == 200
        child.terminate()
        assert child.wait(60) == 0
        child.stdout.close()
    finally:
        child.kill()
    with Store.open(tmp_path / "store") as store:
        store.compact()
        assert store.stats().calls == 20
    deadline = time.monotonic() + 20
    while _lives(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(child.pid)  # nothing of it is left, the compactor included


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
