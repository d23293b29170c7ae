"""`kill -9` at random moments: the resumed verdict is byte for byte the uninterrupted one; nothing is asked twice."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from harness.cache import OutputCache
from harness.records import Generate
from harness.subjects.scripted import Options, ScriptedSubject, _read_answers
from tests.scripted_project import N, project

KILLS = 20
ROOT = Path(__file__).parents[2]


def prepare(folder: Path) -> Path:
    folder.mkdir()
    path = project(folder, lost=range(0, N, 17), sequential=False, noise_probe=6)
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for arm in ("baseline", "candidate"):
        document[arm] |= {"delay": 0.05, "batch_size": 4}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def start(path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "harness", "gate", str(path), "--json"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finished(folder: Path, arm: str) -> set[str]:
    """Prompts whose answer is durable."""
    answers = folder / {"baseline": "before.jsonl", "candidate": "after.jsonl"}[arm]
    subject = ScriptedSubject(answers, _read_answers(answers), Options(answers=answers.name), None)
    requests = [Generate(f"{i} + {i} =", ("\n",), 8) for i in range(N)]
    with OutputCache(folder / ".harness-cache" / "outputs.sqlite") as cache:
        return {str(requests[i].prompt) for i in cache.get(subject.fingerprint, requests)}


def asked(folder: Path, arm: str) -> Counter[str]:
    log = folder / f"asked-{arm}.log"
    return Counter(json.loads(line)[1] for line in log.read_text("utf-8").splitlines()) if log.exists() else Counter()


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    whole = prepare(tmp_path / "whole")
    began = time.monotonic()
    assert start(whole).wait() == 1  # 8 of 120 lost: a drop of 6.7 points against a margin of 5
    length = time.monotonic() - began
    (finished_run,) = (tmp_path / "whole" / "runs").glob("*/")

    folder = tmp_path / "killed"
    path = prepare(folder)
    rng = random.Random(7)
    repeated = 0
    for _ in range(KILLS):
        known = {arm: finished(folder, arm) for arm in ("baseline", "candidate")}
        before = {arm: asked(folder, arm) for arm in known}
        process = start(path)
        try:
            process.wait(timeout=rng.uniform(0.2, 1.0) * length)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for arm, prompts in known.items():
            again = asked(folder, arm) - before[arm]
            # The noise probe asks the baseline's first samples a second time on purpose, until its result is stored.
            repeated += sum(again[p] for p in prompts) if arm == "candidate" else 0
            assert sum(again[p] for p in prompts) <= (6 if arm == "baseline" else 0)
    assert repeated == 0
    assert start(path).wait() == 1
    (resumed_run,) = (folder / "runs").glob("*/")
    for name in ("verdict.json", "evidence.parquet", "manifest.json", "report.html", "report.md", "junit.xml"):
        assert (resumed_run / name).read_bytes() == (finished_run / name).read_bytes(), name
    shutil.rmtree(folder)
