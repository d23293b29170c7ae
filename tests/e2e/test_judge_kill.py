"""`kill -9` while a judge is asked: the resumed gate ends with the same verdict, and what was received stays paid."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import runs
from tests.judge_project import N, honest, project
from tests.loopback_model import LoopbackModel

KILLS = 6
CONCURRENCY = 4
ROOT = Path(__file__).parents[2]


def start(path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "harness", "gate", str(path), "--json"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_killed_gate_pays_again_only_for_what_was_under_way(tmp_path: Path) -> None:
    rng = random.Random(4)
    with LoopbackModel(honest, latency=0.02) as server:
        by = {"model": "openai/m", "api_base": server.base, "concurrency": CONCURRENCY}
        path = project(tmp_path, server.base, worse=range(4), by=by)
        for kill in range(1, KILLS + 1):
            process = start(path)
            wanted = server.answered.total() + rng.randint(3, 15)
            until = time.monotonic() + 60
            while server.answered.total() < wanted and process.poll() is None and time.monotonic() < until:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            # Twice: a question takes the place of one whose answer is just being written.
            assert sum(n - 1 for n in server.answered.values()) <= 2 * kill * CONCURRENCY
        last = start(path)
        said, _ = last.communicate(timeout=120)
        paid_twice = sum(n - 1 for n in server.answered.values())
    verdict = json.loads(said)
    assert verdict["verdict"] == "promote"
    assert last.returncode == 0
    assert paid_twice <= 2 * KILLS * CONCURRENCY
    entries = runs.read_entries(Path(verdict["run"]))
    scored = {e.sample_id: tuple(s.value for s in e.scores["worth"]) for e in entries}
    assert scored == {f"e{i:03}": (3.0, 1.0 if i < 4 else 3.0) for i in range(N) if f"e{i:03}" in scored}
