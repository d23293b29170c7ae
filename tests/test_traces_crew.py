"""Several processes that take requests: as one does, and whatever becomes of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks.ingest_bench.payloads import payloads
from harness.errors import InfrastructureError
from harness.traces.otlp import PROTOBUF
from harness.traces.receiver import ServeOptions, open_taking
from harness.traces.receiver._answers import Refusal
from harness.traces.receiver._crew import Crew
from harness.traces.receiver._taking import Request
from harness.traces.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    made = Crew(partial(open_taking, ServeOptions(tmp_path / "store")), 2)
    yield made
    made.close()


def requests(count: int) -> list[Request]:
    return [Request("default", "traces", p.body, PROTOBUF, "gzip") for p in payloads(count, spans=4, templates=2)]


def kept(tmp_path: Path) -> int:
    with Store.open(tmp_path / "store") as store:
        store.compact()
        return store.stats().spans


def test_what_a_crew_takes_is_on_disk_and_what_it_refuses_says_why(crew: Crew, tmp_path: Path) -> None:
    for request in requests(6):
        assert dict(crew.take(request).rejected) == {}
    with pytest.raises(Refusal) as damaged:
        crew.take(Request("default", "traces", b"\xff\xff", PROTOBUF, ""))
    assert (damaged.value.status, damaged.value.retry_after) == (400, None)
    with pytest.raises(Refusal) as unknown:
        crew.take(Request("default", "traces", b"", PROTOBUF, "brotli"))
    assert unknown.value.status == 415
    crew.close()
    assert kept(tmp_path) == 24


def test_a_process_that_is_killed_costs_its_request_a_503_and_is_started_again(crew: Crew, tmp_path: Path) -> None:
    first, *rest = requests(4)
    before = [member.pid for member in crew.members]
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for _ in before:
        with pytest.raises(Refusal) as refused:
            crew.take(first)
        assert (refused.value.status, refused.value.retry_after) == (503, 1)
    for request in [first, *rest]:
        crew.take(request)
    assert not set(before) & {member.pid for member in crew.members}
    crew.close()
    assert kept(tmp_path) == 16


def test_a_store_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(InfrastructureError, match="ended before it could take anything"):
        Crew(partial(open_taking, ServeOptions(tmp_path / "store")), 1)
