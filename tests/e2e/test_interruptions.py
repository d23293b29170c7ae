"""Ctrl-C and a full disk: one clear message, exit code 4, and the same command goes on."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.scripted_project import N, project

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def heed_control_c() -> None:
    """A shell starts its background jobs deaf to Ctrl-C, and whoever they start; these tests may be such a job."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(path: Path, prepare: Callable[[], None] = heed_control_c) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "gate", str(path), "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def test_control_c_can_be_resumed(tmp_path: Path) -> None:
    path = project(tmp_path, lost=[0], sequential=False)
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["candidate"] |= {"delay": 0.3, "batch_size": 2}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    process = start(path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "asked-candidate.log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert json.loads(out)["error"]["kind"] == "Interrupted"
    assert "repeat the command" in err
    assert "Traceback" not in err
    document["candidate"] |= {"delay": 0.0}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    out, _ = start(path).communicate(timeout=120)
    assert json.loads(out)["verdict"] == "promote"


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: every write past it fails with an error of the system."""
    path = project(tmp_path, lost=range(0, N, 3), sequential=False)
    process = start(path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    assert json.loads(out)["error"]["kind"] == "StorageError"
    assert "free space" in err
    assert "Traceback" not in err
    resumed = start(path)
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 1, err
    assert json.loads(out)["comparisons"][0]["n_used"] == N
