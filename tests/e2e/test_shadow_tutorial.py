"""The tutorial on production traces: every command of it, in its order, as a reader would type it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "shadow-tutorial.md"


def script(port: int) -> str:
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"))
    assert len(blocks) == 8
    # A failed command ends a test, where a reader would see it.
    return "set -euo pipefail\n" + "\n".join(blocks).replace("4318", str(port))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def commands(folder: Path) -> Path:
    """`harness` and `python` as they would be in the environment that `make install` makes."""
    folder.mkdir()
    for name, words in (("harness", "-m harness"), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs_and_the_careless_adapter_is_blocked(tmp_path: Path) -> None:
    work = tmp_path / "checkout"
    work.mkdir()
    for name in ("harness", "tests"):
        (work / name).symlink_to(ROOT / name)
    path = f"{commands(tmp_path / 'bin')}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-c", script(free_port())], cwd=work, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        told, _ = process.communicate(timeout=550)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, told
    (run,) = (work / "tutorial" / "runs").glob("*/")
    verdict = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["verdict"] == "block"
    assert (verdict["comparisons"][0]["estimand"], verdict["comparisons"][0]["outcome"]) == ("population", "regressed")
    assert re.search(r"sessions that show it.*customer-\d+ \(\d\)", told)
    assert re.search(r"\d+ results of \d+ calls published", told)
    assert "cluster customer-" in (run / "report.html").read_text(encoding="utf-8")
