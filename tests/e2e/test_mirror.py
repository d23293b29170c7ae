"""A whole mirror: users get the champion's bytes whatever the candidate does, and the books add up."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.judging.calibration import CHECK
from harness.mirror.ledger import Ledger
from harness.traces.freezing import FreezeOptions, freeze
from harness.traces.receiver import add_token
from harness.traces.store import Store
from tests.loopback_model import Fault, LoopbackModel, wait_for
from tests.mirroring import QUICK, Mirroring, adds_up, ask, chat, settings, verdict_of, wait_for_pairs

pytestmark = pytest.mark.slow

RAW = {
    "plain": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Odd: a b\r\nx-odd: c\r\n"
    b"Content-Length: 17\r\n\r\n"
    b'{"choices": "\xc3\xa9"}',
    "gzip": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%s"
    % (len(gzip.compress(b"{}" * 500, mtime=0)), gzip.compress(b"{}" * 500, mtime=0)),
    "error": b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\ncontent-length: 4\r\n\r\nslow",
    "rejected": b"HTTP/1.1 422 Nope\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nno",
    "chunked": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'c\r\ndata: {"a":1\r\n5\r\n}\n\n: \r\n0\r\n\r\n',
    "empty": b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
    "redirect": b"HTTP/1.1 307 There\r\nLocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
    "not-json": b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n\x00\xff<html>\x80\n",
}


@contextmanager
def raw_upstream() -> Iterator[str]:
    """A server that answers a call with the bytes of RAW that its message names."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                sizes = [int(h.split(b":")[1]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length")]
                body = json.loads(await reader.readexactly(sizes[0]))
                writer.write(RAW[body["messages"][0]["content"]])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        ready.set()
        while not over.is_set():
            await asyncio.sleep(0.02)
        server.close()

    port: list[int] = []
    ready, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    ready.wait()
    yield f"http://127.0.0.1:{port[0]}/v1"
    over.set()
    thread.join()


def raw_exchange(port: int, body: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Status, headers but those of framing in their order, and the decoded body, off the wire."""
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nConnection: close\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        parts = []
        while part := connection.recv(65536) if not _whole(b"".join(parts)) else b"":
            parts.append(part)
    head, _, rest = b"".join(parts).partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    chunked = any(h.lower().startswith(b"transfer-encoding") for h in headers)
    kept = [h for h in headers if h.split(b":")[0].lower() not in (b"transfer-encoding", b"connection")]
    return status.split(b" ")[1], [_lower_name(h) for h in kept], _unchunked(rest) if chunked else rest


def _lower_name(header: bytes) -> bytes:
    name, _, value = header.partition(b":")
    return name.lower() + b":" + value.strip()


def _unchunked(rest: bytes) -> bytes:
    out = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        out += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return out


def _whole(got: bytes) -> bool:
    head, found, rest = got.partition(b"\r\n\r\n")
    if not found:
        return False
    lower = head.lower()
    if b"transfer-encoding" in lower:
        return rest.endswith(b"0\r\n\r\n")
    sizes = [int(h.split(b":")[1]) for h in lower.split(b"\r\n") if h.startswith(b"content-length")]
    return len(rest) >= (sizes[0] if sizes else 0)


def test_users_get_the_bytes_that_the_champion_sent_whatever_the_candidate_does(tmp_path: Path) -> None:
    with raw_upstream() as champion, LoopbackModel() as candidate:
        direct = {name: raw_exchange(int(champion.split(":")[2][:-3]), chat(name)) for name in RAW}
        with Mirroring(tmp_path, settings(champion, candidate.base, breaker={"failures": 1000})) as mirror:
            for fault in ("", "hang", "cut", "500", "garbage"):
                candidate.faults = {fault: 1.0} if fault else {}
                for name in RAW:
                    assert raw_exchange(mirror.port, chat(name)) == direct[name], (fault, name)
            os.kill(mirror.link.pid or 0, signal.SIGKILL)
            for name in RAW:
                assert raw_exchange(mirror.port, chat(name)) == direct[name]
            mirror.request("POST", "/-/mirror/off", headers={"x-harness-switch": "1"})
            for name in RAW:
                assert raw_exchange(mirror.port, chat(name)) == direct[name]
            assert mirror.link.off
    counts = mirror.books()
    assert counts["received"] == 7 * len(RAW)
    assert adds_up(counts)
    assert counts["switched_off"] == len(RAW)


def test_books_add_up_under_load_with_faults_a_full_queue_and_a_process_that_is_killed(tmp_path: Path) -> None:
    faults = {"500": 0.1, "cut": 0.1, "garbage": 0.1, "prose": 0.05, "429": 0.05}
    section = {"share": 0.8, "queue_calls": 12, "queue_bytes": 6000, "max_call_bytes": 2000, "concurrency": 4}
    with (
        LoopbackModel(faults={"500": 0.05}, seed=1) as champion,
        LoopbackModel(faults=faults, latency=0.03) as candidate,
    ):
        config = settings(
            champion.base,
            candidate.base,
            mirror=section,
            budget={"calls": 150},
            breaker={"failures": 6, "seconds": 0.3},
        )
        draw = random.Random(5)
        with Mirroring(tmp_path, config) as mirror:
            bodies = [
                chat(f"question {i} " + "x" * draw.choice([10, 10, 300, 3000]), stream=i % 3 == 0,
                     **({"tools": [{"type": "web_search"}]} if i % 17 == 0 else {}))
                for i in range(400)
            ]  # fmt: skip
            headers = [
                {"x-session-id": f"s{i % 90}", **({"x-shadow-consent": "no"} if i % 29 == 0 else {})}
                for i in range(400)
            ]

            def call(i: int) -> int:
                if i == 150:
                    os.kill(mirror.link.pid or 0, signal.SIGKILL)
                return mirror.post(bodies[i], **headers[i]).status

            statuses: set[int] = set()
            for part in (range(30), range(30, 200), range(200, 400)):  # the process dies in the second, and is back
                with ThreadPoolExecutor(12) as pool:
                    statuses |= set(pool.map(call, part))
                assert wait_for(lambda: mirror.link.refusal(1) == "" and not mirror.link._held, 60)
            assert statuses == {200, 500}
        assert mirror.link.most_held[0] <= 12
        assert mirror.link.most_held[1] <= 6000
    counts = mirror.books()
    assert counts["received"] == 400
    assert adds_up(counts), counts
    assert {"compared", "sampled_out", "no_consent", "too_large"} <= counts.keys(), counts
    assert counts["comparer_died"] + counts.get("comparer_down", 0) > 0
    assert candidate.requests.total() <= 150


def test_everything_of_a_call_is_redacted_stored_under_one_run_id_and_joined_to_its_arm(tmp_path: Path) -> None:
    with LoopbackModel() as champion, LoopbackModel(lambda m: "no", key="secret-of-the-candidate") as candidate:
        os.environ["MIRROR_TEST_KEY"] = "secret-of-the-candidate"
        config = settings(champion.base, candidate.base, store="traces")
        config["candidate"]["deployments"][0]["api_key_env"] = "MIRROR_TEST_KEY"
        with Mirroring(tmp_path, config) as mirror:
            for i, stream in enumerate((False, True)):
                mirror.post(
                    chat(f"I am jane.doe@example.com {i}", stream=stream, user="u-77", metadata={"a": "b"},
                         temperature=0.5),
                    authorization="Bearer sk-user-secret-0123456789", cookie="c=1", x_run_id=f"run-{i}",
                    x_session_id="s",
                    traceparent="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01",
                )  # fmt: skip
            wait_for_pairs(mirror.loaded, 1)
            candidate.faults = {"400": 1.0}  # its message repeats the key that it was sent
            mirror.post(chat("once more"), x_session_id="t", x_run_id="jane.doe@example.com")
            wait_for_pairs(mirror.loaded, 2)
    assert mirror.books()["compared"] == 3
    for asked in candidate.asked[:2]:
        assert asked.headers["authorization"] == "Bearer secret-of-the-candidate"
        assert not {"cookie", "x-run-id", "x-session-id", "traceparent"} & asked.headers.keys()
        assert not {"user", "metadata"} & asked.body.keys()
        assert asked.body["temperature"] == 0.5
    assert [a.headers["authorization"] for a in champion.asked[:2]] == ["Bearer sk-user-secret-0123456789"] * 2
    assert {a.body.get("stream", False) for a in candidate.asked[:2]} == {False, True}
    with Store.open(tmp_path / "traces") as store:
        store.compact()
        calls = list(store.calls())
        frozen = freeze(store, tmp_path / "goldensets", FreezeOptions("shop", tenant="default"))
    assert frozen.samples == 3
    assert frozen.left_out["copied to a candidate"] == 3
    calls = [call for call in calls if call.session == "s"]
    assert sorted((c.run_id, c.metadata["arm"]) for c in calls) == [
        ("run-0", "candidate"), ("run-0", "champion"), ("run-1", "candidate"), ("run-1", "champion"),
    ]  # fmt: skip
    assert {c.trace_id for c in calls if c.metadata["arm"] == "champion"} == {"ab" * 16}
    assert all(c.replayable and c.user.startswith("<USER_") and c.outputs[0].text for c in calls), [
        c.why_not for c in calls
    ]
    kept = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "mirror.yaml")
    for secret in (b"jane.doe", b"sk-user-secret", b"secret-of-the-candidate", b"u-77"):
        assert secret not in kept


def test_the_gate_blocks_a_candidate_that_refuses_and_shows_where(tmp_path: Path) -> None:
    def careless(messages: object) -> str:
        return "I'm sorry, but I can't help with that." if "0" in str(messages) else "yes"

    with LoopbackModel(lambda m: "yes") as champion, LoopbackModel(careless) as candidate:
        config = settings(champion.base, candidate.base)
        config["guards"] = [{"metric": "complied", "margin": 0.1}]
        with Mirroring(tmp_path, config) as mirror, ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: mirror.post(chat(f"q {i} <b>x</b> {'0' if i % 2 else '1'}")), range(120)))
            assert wait_for(lambda: verdict_of(mirror.loaded).get("verdict") == "block", 60)
            page = mirror.request("GET", "/")
    said = verdict_of(mirror.loaded)
    assert "complied regressed" in said["reasons"][0]
    assert said["coverage"] == 1.0
    text = page.body.decode()
    assert "BLOCK" in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "<b>x" not in text
    done = subprocess.run(
        [sys.executable, "-m", "harness", "shadow", "verdict", str(mirror.loaded.path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout.startswith("BLOCK")


def test_a_policy_is_trusted_once_it_has_seen_no_difference_where_there_is_none(tmp_path: Path) -> None:
    policy = {"look_seconds": 0.2, "margin": 0.2, "tried": True}
    with LoopbackModel(lambda m: "yes") as champion, LoopbackModel(lambda m: "yes") as candidate:
        config = settings(champion.base, candidate.base, policy=policy)
        config["guards"] = [{"metric": "complied"}]
        for phase, (aa, expected) in enumerate(((False, "hold"), (True, "promote"), (False, "promote"))):
            before = len(candidate.asked)
            with Mirroring(tmp_path, config, aa=aa) as mirror, ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda i, phase=phase: mirror.post(chat(f"{phase} {i}")), range(60)))
                said = wait_for_pairs(mirror.loaded, 60, "complied")
                assert wait_for(lambda e=expected: verdict_of(mirror.loaded)["verdict"] == e, 20), said["reasons"]
            assert (len(candidate.asked) == before) is aa
        tried = next(c for c in verdict_of(mirror.loaded)["checks"] if c["name"] == "A/A trial")
        assert tried["passed"]


def test_a_split_keeps_a_session_on_its_arm_and_compares_the_arms(tmp_path: Path) -> None:
    with LoopbackModel(lambda m: "champion") as champion, LoopbackModel(lambda m: "candidate") as candidate:
        config = settings(champion.base, candidate.base, split={"weight": 0.5})
        with Mirroring(tmp_path, config) as mirror:
            said: dict[str, set[str]] = {}
            for i in range(60):
                answer = mirror.post(
                    chat(f"q {i}"), x_session_id=f"s{i % 20}", authorization="Bearer sk-user-secret-01"
                )
                said.setdefault(f"s{i % 20}", set()).add(answer.json["choices"][0]["message"]["content"])
            n = sum("candidate" in arms for arms in said.values())
            wait_for_pairs(mirror.loaded, min(n, 20 - n))
            mirror.request("POST", "/-/mirror/off", headers={"x-harness-switch": "1"})
            assert all(
                mirror.post(chat("q"), x_session_id=f"s{i}").json["choices"][0]["message"]["content"] == "champion"
                for i in range(20)
            )
    assert all(len(arms) == 1 for arms in said.values())
    assert 3 <= n <= 17
    assert not any("authorization" in asked.headers for asked in candidate.asked)
    assert adds_up(mirror.books())


def test_tokens_say_whose_call_it_is_and_open_page_and_switch_for_operators_alone(tmp_path: Path) -> None:
    shop, bank, operator = (add_token(tmp_path / "tokens", name) for name in ("shop", "bank", "operator"))
    with LoopbackModel() as champion, LoopbackModel() as candidate:
        config = settings(champion.base, candidate.base, token_file="tokens")  # noqa: S106
        with Mirroring(tmp_path, config) as mirror:
            assert mirror.post(chat("hello")).status == 401
            assert mirror.post(chat("hello"), authorization="Bearer wrong").status == 401
            assert mirror.post(chat("hello"), authorization=f"Bearer {shop}", x_session_id="same").status == 200
            own = {"x_harness_token": bank, "authorization": "Bearer of-the-user", "x_session_id": "same"}
            assert mirror.post(chat("hello"), **own).status == 200
            wait_for_pairs(mirror.loaded, 2)
            for token, status in ((shop, 401), (operator, 200), ("", 401)):
                headers = {"authorization": f"Bearer {token}", "x-harness-switch": "1"}
                assert mirror.request("GET", "/", headers=headers).status == status
                assert mirror.request("POST", "/-/mirror/on", headers=headers).status == status
            assert (
                mirror.request("POST", "/-/mirror/off", headers={"authorization": f"Bearer {operator}"}).status == 401
            )
    assert [a.headers.get("authorization") for a in champion.asked] == [None, "Bearer of-the-user"]
    ledger = Ledger(mirror.loaded.folder, mirror.loaded.comparison_digest())
    assert ledger.counts("shop") == ledger.counts("bank") == {"compared": 1, "received": 1}
    assert len({session.cluster for session, _ in ledger.settled(0)}) == 2
    ledger.close()


def test_a_mirror_that_is_killed_goes_on_with_its_books(tmp_path: Path) -> None:
    with LoopbackModel() as champion, LoopbackModel(latency=0.05) as candidate:
        config = settings(champion.base, candidate.base)
        import yaml

        (tmp_path / "mirror.yaml").write_text(yaml.safe_dump(config))
        total = 0
        for _ in range(2):
            command = [
                sys.executable,
                "-m",
                "harness",
                "shadow",
                "mirror",
                str(tmp_path / "mirror.yaml"),
                "--port",
                "0",
            ]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            said = next(line for line in process.stderr if line.startswith("listening"))
            port = int(said.split()[2].rpartition(":")[2].removesuffix("/v1"))
            for i in range(40):
                total += ask(port, "POST", "/v1/chat/completions", chat(f"q {i}")).status == 200
            time.sleep(0.5)
            process.kill()
            process.wait()
            process.stderr.close()
    with Mirroring(tmp_path, config) as mirror:
        mirror.post(chat("last"))
    counts = mirror.books()
    assert adds_up(counts), counts
    assert total == 80
    assert 70 <= counts["received"] <= 81  # the last fifth of a second before a kill may be lost, with all it says


def test_a_candidate_behind_litellms_router_is_asked_too(tmp_path: Path) -> None:
    with (
        LoopbackModel(lambda m: "yes it is") as champion,
        LoopbackModel(lambda m: "yes") as one,
        LoopbackModel(lambda m: "yes") as two,
    ):
        config = settings(champion.base, one.base)
        config["candidate"]["deployments"] = [
            {"model": "hosted_vllm/m", "api_base": one.base}, {"model": "openai/m", "api_base": two.base, "weight": 2},
        ]  # fmt: skip
        config["candidate"]["timeout"] = 60  # litellm loads at the first call, which is no failure of the candidate
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        with Mirroring(tmp_path, config) as mirror:
            for i in range(12):
                mirror.post(chat(f"q {i}", stream=i % 2 == 0, **({"tools": tools} if i % 3 == 0 else {})))
            said = wait_for_pairs(mirror.loaded, 12)
        assert one.asked
        assert two.asked
    assert said["counts"]["compared"] == 12
    assert all(c["n_failed"] == 0 for c in said["comparisons"] if c["metric"] in ("answered", "complied", "finished"))


def test_a_candidate_that_hangs_trips_the_breaker_and_fails_are_counted_as_failures(tmp_path: Path) -> None:
    def hang(messages: object) -> Fault:
        return Fault("hang")

    with LoopbackModel() as champion, LoopbackModel(hang) as candidate:
        config = settings(champion.base, candidate.base, breaker={"failures": 2, "seconds": 60})
        config["candidate"]["timeout"] = 0.3
        with Mirroring(tmp_path, config) as mirror:
            for i in range(12):
                assert mirror.post(chat(f"q {i}")).status == 200
                time.sleep(0.1)
            assert wait_for(lambda: not mirror.link._held, 20)
            assert "open" in mirror.request("GET", "/").body.decode()
    counts = mirror.books()
    assert counts["breaker"] > 0
    assert adds_up(counts)
    assert verdict_of(mirror.loaded)["verdict"] == "hold"
    assert QUICK["policy"]["look_seconds"] == 0.2


def test_a_judge_reads_redacted_answers_and_its_guard_holds_until_it_is_calibrated(tmp_path: Path) -> None:
    def judging(messages: object) -> str:
        return '{"reason": "because", "score": 2}' if "worse" in str(messages) else '{"reason": "b", "score": 4}'

    folder = tmp_path / "judges"
    folder.mkdir()
    for name in ("helpfulness.yaml", "helpfulness.prompt.md"):
        (folder / name).write_text((Path(__file__).parents[2] / "judges" / name).read_text())
    with (
        LoopbackModel(lambda m: "a better answer") as champion,
        LoopbackModel(lambda m: "a worse answer") as candidate,
        LoopbackModel(judging) as judge,
    ):
        by = {"model": "openai/m", "api_base": judge.base}
        config = settings(champion.base, candidate.base, judge={"rubric": "helpfulness", "by": by})
        config["guards"] = [{"metric": "helpfulness", "margin": 0.5}]
        with Mirroring(tmp_path, config) as mirror:
            for i in range(6):
                mirror.post(chat(f"help jane.doe@example.com {i}"))
            assert wait_for(lambda: len(judge.asked) >= 12, 60)
            said = wait_for_pairs(mirror.loaded, 6, "complied")
    assert said["verdict"] == "hold"
    assert [check["name"] for check in said["checks"] if not check["passed"]] == [CHECK]
    means = [(c["baseline_mean"], c["candidate_mean"]) for c in said["comparisons"] if c["metric"] == "helpfulness"]
    assert means == [(4.0, 2.0)]
    assert "jane.doe" not in str([a.body for a in judge.asked])


def test_pieces_are_passed_on_as_they_come_and_a_request_ends_with_its_user(tmp_path: Path) -> None:
    """The server sends the rest only after the first piece has been seen, and notes that it was hung up on."""
    go_on, hung_up, port = threading.Event(), threading.Event(), list[int]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await writer.drain()
        await asyncio.to_thread(go_on.wait, 20)
        writer.write(b"4\r\nlast\r\n")
        await writer.drain()
        assert await reader.read() == b""
        writer.close()
        hung_up.set()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(hung_up.wait, 60)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert wait_for(lambda: bool(port))
    with (
        LoopbackModel() as candidate,
        Mirroring(tmp_path, settings(f"http://127.0.0.1:{port[0]}/v1", candidate.base)) as mirror,
    ):
        body = chat("hi", stream=True)
        with socket.create_connection(("127.0.0.1", mirror.port), timeout=20) as user:
            user.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            got = b""
            while b"first" not in got:
                got += user.recv(4096)
            go_on.set()
            while b"last" not in got:
                got += user.recv(4096)
        assert hung_up.wait(20)
        thread.join(20)
    assert mirror.books() == {"client_gone": 1, "received": 1}
    assert not candidate.asked


def test_other_paths_pass_through_uncounted_and_a_server_that_is_not_there_is_a_502(tmp_path: Path) -> None:
    with (
        LoopbackModel() as champion,
        LoopbackModel() as candidate,
        Mirroring(tmp_path, settings(champion.base, candidate.base)) as mirror,
    ):
        direct = ask(champion.port, "GET", "/v1/models")
        assert mirror.request("GET", "/v1/models").body == direct.body
        assert mirror.request("POST", "/v1/other", b"{}").status == 404
        for path in ("/v1/%2e%2e/admin", "/metrics", "/v1", "/v1%2F@evil.example/x", "/%761/models"):
            assert mirror.request("GET", path).status == 404
        assert mirror.request("GET", "/", headers={"host": "evil.example"}).status == 401
        assert mirror.request("GET", "/", headers={"sec-fetch-site": "cross-site"}).status == 401
        assert mirror.post(chat("x"), sec_fetch_site="cross-site").status == 401
        # A name that its owner points to this machine (DNS rebinding), and a browser that says nothing but its origin.
        assert mirror.request("GET", "/v1/models", headers={"host": f"evil.example:{mirror.port}"}).status == 401
        assert mirror.post(chat("x"), origin="https://evil.example").status == 401
        assert mirror.request("POST", "/-/mirror/off").status == 401
        champion.close()
        gone = mirror.post(chat("hello"))
        assert gone.status == 502
        assert gone.json["error"]["type"] == "proxy_error"
    assert mirror.books() == {"received": 1, "upstream_unreachable": 1}
    assert not candidate.asked
