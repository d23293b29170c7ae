"""Segments in S3: a store is filled, compacted, counted, frozen from and forgotten in, over S3's real protocol.

The server is moto's, on 127.0.0.1. It is no dependency of this project (it brings half of AWS with it): `pip install
'moto[s3,server]'` for this test.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness import goldens
from harness.errors import ConfigError
from harness.traces.freezing import FreezeOptions, freeze
from harness.traces.store import Store
from tests.receiving import PROTOBUF
from tests.shadow_store import plain
from tests.trace_requests import chat, traces


def _has_s3fs() -> bool:
    """Whether there is an s3fs that DuckDB can read from: pip falls back to one of 2020 where botocore is too new."""
    try:
        return int(version("s3fs").partition(".")[0]) >= 2024
    except PackageNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _has_s3fs(), reason="needs s3fs 2024.6 or later"),
    pytest.mark.skipif(find_spec("moto") is None, reason="no S3 server: pip install 'moto[s3,server]'"),
]


def asked(port: int, method: str, path: str, body: bytes = b"", kind: str = "") -> int:
    """The status of the answer to one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"content-type": kind} if kind else {})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """moto's server in a process of its own, with one bucket; fsspec remembers where it is for as long as we run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while True:
            try:
                assert asked(port, "PUT", "/bucket") == 200
                break
            except OSError:
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{tmp_path.name}"


def test_a_store_with_its_segments_in_s3_goes_through_its_whole_life(tmp_path: Path, bucket: str) -> None:
    with Store.open(tmp_path / "store", segments=bucket) as store:
        for begin in (0, 20, 40):  # several segments of a day
            assert not store.append("acme", plain(20, begin=begin, per_session=4))
            store.compact()
        stats = store.stats()
        assert (stats.spans, stats.calls, stats.replayable, stats.sessions) == (60, 60, 60, 15)
        assert len(list(store.calls("acme"))) == 60
        assert len(store.calls_sample(5, salt="x", tenant="acme")) == 5
        made = freeze(store, tmp_path / "goldensets", FreezeOptions("production", samples=12))
        assert (made.samples, made.sessions) == (12, 3)
        assert store.forget("u1", "acme") > 0
        assert store.stats().calls == 56
        assert not any(call.session == "s1" for call in store.calls("acme"))
    assert len(goldens.load(tmp_path / "goldensets", "production@1").samples) == 12
    assert not (tmp_path / "store" / "segments").exists()
    with Store.open(tmp_path / "store") as again:  # where they are is remembered
        assert again.stats().calls == 56
        assert again.expire("2026-01-01") > 0
        assert again.stats().calls == 0
    with pytest.raises(ConfigError, match="keeps its segments at s3://"):
        Store.open(tmp_path / "store", segments="s3://bucket/elsewhere")


def test_small_segments_of_a_day_are_merged_there_too(tmp_path: Path, bucket: str) -> None:
    with Store.open(tmp_path / "store", segments=bucket) as store:
        for number in range(18):
            store.append("acme", plain(1, begin=number))
            store.compact()
        assert store.stats().calls == 18
        assert len(store._catalogue.segments("calls")) < 18


def test_a_receiver_writes_to_s3_and_the_verbs_read_from_there(tmp_path: Path, bucket: str) -> None:
    harness = [sys.executable, "-m", "harness"]
    serve = [*harness, "shadow", "serve", "--store", str(tmp_path / "store"), "--segments", bucket, "--port", "0"]
    process = subprocess.Popen(serve, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        url = process.stderr.readline().split()[2].rstrip(",")
        body = traces(*[chat(f"Question {n}", **{"user.id": "u"}) for n in range(7)]).SerializeToString()
        assert asked(int(url.rpartition(":")[2]), "POST", "/v1/traces", body, PROTOBUF) == 200
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()

    def verb(*arguments: str) -> str:
        done = subprocess.run(
            [*harness, "shadow", *arguments, "--store", str(tmp_path / "store")], capture_output=True, text=True,
            timeout=300, check=True, cwd=tmp_path, env=os.environ | {"COLUMNS": "200"},
        )  # fmt: skip
        return done.stdout

    Store.open(tmp_path / "store").compact()
    assert json.loads(verb("stats", "--json"))["calls"] == 7
    assert json.loads(verb("freeze", "--root", str(tmp_path / "sets"), "--likeness", "2", "--json"))["samples"] == 7
    verb("forget", "u")
    assert json.loads(verb("stats", "--json"))["calls"] == 0
