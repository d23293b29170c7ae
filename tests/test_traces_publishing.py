"""Results on their way back to the traces: what an event says, where it goes, and what a receiver makes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.config import load_gate
from harness.errors import ConfigError, DataError, InfrastructureError, LockError, StorageError
from harness.gate import run_gate
from harness.progress import Silent
from harness.traces import publishing
from harness.traces.freezing import FreezeOptions, Liking, freeze
from harness.traces.otlp import JSON, decode_logs
from harness.traces.records import LogEvent
from harness.traces.store import Store
from tests import scripted_project
from tests.shadow_set import asked, frozen, gate, row, scripted
from tests.shadow_store import plain, store_of

pytestmark = pytest.mark.slow  # servers, stores or frozen sets in every test


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [row(i) for i in range(80)]
    frozen(tmp_path, rows)
    good = dict.fromkeys(asked(rows), "Gladly.")
    bad = {text: "I cannot help with that." if i % 2 else "Gladly." for i, text in enumerate(good)}
    path = gate(tmp_path, scripted(tmp_path, "base", good), scripted(tmp_path, "worse", bad), metrics=["complied"])
    return run_gate(load_gate(path), Silent()).path


def events(run: Path) -> list[LogEvent]:
    return list(publishing.events_of(run, run.parents[1] / "goldensets"))


def test_an_event_stands_on_the_trace_that_its_call_came_from(run: Path) -> None:
    found = events(run)
    worse = next(e for e in found if e.span_id == f"{1:016x}" and e.attributes["harness.arm"] == "candidate")
    assert (worse.name, worse.trace_id) == ("gen_ai.evaluation.result", f"{1:032x}")
    expected = {
        "run_id": "run-1", "gen_ai.evaluation.name": "complied", "gen_ai.evaluation.score.value": 0.0,
        "gen_ai.evaluation.score.label": "lost", "harness.subject": "worse", "harness.verdict": "block",
        "harness.suite": "production", "harness.feedback.source": "code", "harness.run": run.name,
    }  # fmt: skip
    assert expected.items() <= worse.attributes.items()
    arms = [e.attributes["harness.arm"] for e in found]
    assert arms.count("baseline") == arms.count("candidate") > 20


def test_a_failed_score_has_an_error_and_no_value(tmp_path: Path) -> None:
    rows = [row(i) for i in range(20)]
    frozen(tmp_path, rows)
    answers = dict.fromkeys(asked(rows), "Gladly.")
    silent = dict(list(answers.items())[:1])
    path = gate(tmp_path, scripted(tmp_path, "base", answers), scripted(tmp_path, "none", silent), metrics=["complied"])
    result = run_gate(load_gate(path), Silent())
    failed = [e.attributes for e in events(result.path) if "error.type" in e.attributes]
    assert failed
    assert all("gen_ai.evaluation.score.value" not in a and a["error.type"] == "failed" for a in failed)
    assert {a["gen_ai.evaluation.score.label"] for a in failed} == {"failed"}


def test_a_file_of_results_is_read_by_the_import_and_is_never_overwritten(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    done = publishing.write(iter(events(run)), path)
    lines = path.read_bytes().splitlines()
    assert sum(len(decode_logs(line, JSON).items) for line in lines) == done.events == 2 * done.calls
    with pytest.raises(StorageError, match="cannot be written"):
        publishing.write(iter([]), path)


def test_a_run_without_production_calls_or_with_a_changed_set_is_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    plain_run = run_gate(load_gate(scripted_project.project(other, n=20)), Silent()).path
    with pytest.raises(DataError, match="none of its suites asked calls that came from traces"):
        list(publishing.events_of(plain_run, other / "goldensets"))
    samples = tmp_path / "goldensets" / "production" / "1" / "samples.jsonl"
    samples.write_text(samples.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(LockError, match="changed since"):
        events(run)


class _Endpoint(BaseHTTPRequestHandler):
    script: list[tuple[int, dict[str, str], bytes]]
    got: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append({"path": self.path, "headers": dict(self.headers), "size": len(body)})
        status, headers, said = self.script.pop(0) if self.script else (200, {}, b"{}")
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(said))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[tuple[str, type[_Endpoint]]]:
    handler = type("Endpoint", (_Endpoint,), {"script": [], "got": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()


def test_what_may_be_sent_again_is_and_what_was_rejected_is_told(
    run: Path, endpoint: tuple[str, type[_Endpoint]]
) -> None:
    url, handler = endpoint
    partial = json.dumps({"partialSuccess": {"rejectedLogRecords": "3"}}).encode()
    handler.script += [(503, {"Retry-After": "0"}, b"{}"), (200, {}, partial)]
    done = publishing.send(iter(events(run)[:10]), url, "a-token")
    assert (done.events, done.rejected, len(handler.got)) == (10, 3, 2)
    assert handler.got[1]["path"] == "/v1/logs"
    assert handler.got[1]["headers"]["Authorization"] == "Bearer a-token"


@pytest.mark.parametrize("status", [400, 401, 301])
def test_what_is_refused_ends_it_and_nobody_is_followed_elsewhere(
    run: Path, endpoint: tuple[str, type[_Endpoint]], status: int
) -> None:
    url, handler = endpoint
    handler.script += [(status, {"Location": f"{url}/elsewhere"}, b"no")]
    with pytest.raises(InfrastructureError, match=f"HTTP {status}") as raised:
        publishing.send(iter(events(run)[:10]), url, "a-token")
    assert len(handler.got) == 1
    assert "a-token" not in str(raised.value)


def test_an_endpoint_that_is_none_is_refused() -> None:
    for wrong in ("file:///etc/passwd", "127.0.0.1:4318", "ftp://x"):
        with pytest.raises(ConfigError, match="no URL"):
            publishing.send(iter([]), wrong)
    with pytest.raises(ConfigError, match="plain HTTP to another machine"):
        publishing.send(iter([]), "http://collector.example:4318", "token")


def test_no_error_repeats_a_token_or_a_login(endpoint: tuple[str, type[_Endpoint]], run: Path) -> None:
    url, handler = endpoint
    publishing.send(iter(events(run)[:1]), url, "a-token\n")  # as a file of one line gives it
    assert handler.got[-1]["headers"]["Authorization"] == "Bearer a-token"
    for where, token in ((url, "s3cret\nX: y"), (url, "s3cr\u00e9t"), ("https://me:s3cret@collector.example", "")):
        with pytest.raises(ConfigError) as raised:
            publishing.send(iter(events(run)[:1]), where, token)
        assert "s3cr" not in str(raised.value)
    with pytest.raises(InfrastructureError, match=r"127\.0\.0\.1:9"):
        publishing.send(iter([LogEvent()]), "http://127.0.0.1:9")


def test_published_results_join_their_calls_in_a_store_and_are_nobodys_liking(tmp_path: Path) -> None:
    path = store_of(tmp_path, plain(24))
    with Store.open(path) as store:
        freeze(store, tmp_path / "goldensets", FreezeOptions("production"))
        samples = (tmp_path / "goldensets/production/1/samples.jsonl").read_text(encoding="utf-8").splitlines()
        answers = dict.fromkeys(asked([json.loads(line) for line in samples]), "Done.")
        arms = [scripted(tmp_path, name, {**answers, name: name}) for name in ("base", "same")]
        result = run_gate(load_gate(gate(tmp_path, *arms, metrics=["complied"])), Silent())
        sent = list(publishing.events_of(result.path, tmp_path / "goldensets"))
        store.append("acme", logs=sent)
        store.compact()
        calls = {call.span_id: call for call in store.calls()}
    assert len(calls) == 24
    told = [f for call in calls.values() for f in call.feedback]
    assert len(told) == len({e.span_id for e in sent})  # equal results of both arms are one
    assert {(f.name, f.score, f.source, f.about) for f in told} == {("complied", 1.0, "code", "call")}
    assert {Liking().of(call.feedback) for call in calls.values()} == {None}
