"""kill -9 under load, again and again: every acknowledged span is in the store, once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ingest_bench.load import Load
from benchmarks.ingest_bench.payloads import payloads
from benchmarks.ingest_bench.receiving import Receiver
from harness.traces.store import Store

ROUNDS = 3


@pytest.mark.slow
def test_a_receiver_that_is_killed_loses_and_doubles_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    store, acknowledged = tmp_path / "store", set[str]()
    sent = list(payloads(ROUNDS * 200, spans=16, templates=4))
    for number in range(ROUNDS):
        part = sent[number * 200 : (number + 1) * 200]
        receiver = Receiver(store, tmp_path / "serve.py", workers=1 + number % 2)
        load = Load(receiver.port, [*part, *part], connections=4, retries=True)
        killer = threading.Timer(1.0 + 0.5 * number, receiver.kill)
        killer.start()
        acknowledged |= set(load.run().acknowledged)
        killer.join()
    assert acknowledged
    with Store.open(store) as opened:
        opened.compact()
        rows = opened.query("SELECT lower(hex(span_id)) AS id, count(*) AS n FROM spans GROUP BY 1").to_pylist()
        assert opened._segments.found() == opened._catalogue.paths()
    assert acknowledged - {row["id"] for row in rows} == set()
    assert [row for row in rows if row["n"] > 1] == []


@pytest.mark.slow
def test_a_compactor_that_is_killed_is_started_again(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "store", tmp_path / "serve.py")
    try:
        first = wait_for(receiver.helpers)
        os.kill(first[0], signal.SIGKILL)
        second = wait_for(lambda: [pid for pid in receiver.helpers() if pid != first[0]])
        assert second != first
        (sent,) = payloads(1, spans=16, templates=1)
        acknowledged = Load(receiver.port, [sent], connections=1, retries=True).run().acknowledged
        assert len(acknowledged) == 16
        wait_for(lambda: list((tmp_path / "store" / "segments").rglob("*.parquet")))
    finally:
        receiver.stop()


def wait_for(found: Callable[[], list[Any]]) -> list[Any]:
    deadline = time.monotonic() + 60
    while not (what := found()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert what
    return what
