"""`pytest --harness-gate`: every guard is a test, the gate runs once, and without the option nothing is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.scripted_project import project

ROOT = Path(__file__).parents[1]


def run(folder: Path, *arguments: str, code: int) -> str:
    """pytest in a process of its own, as a user starts it."""
    # Named as the entry point is, so that it makes no difference whether this checkout is the one that is installed.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "harness.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "-q",
        *arguments,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def asked(folder: Path) -> list[str]:
    log = folder / "asked-candidate.log"
    return log.read_text("utf-8").splitlines() if log.exists() else []


def test_without_the_option_nothing_else_is_imported() -> None:
    script = (
        "import sys, pytest; before = set(sys.modules); import harness.pytest_plugin; "
        "print(sorted(m for m in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['harness', 'harness.pytest_plugin']"


@pytest.mark.slow
def test_each_guard_is_a_test_of_its_own_outcome(tmp_path: Path) -> None:
    project(tmp_path, lost=range(40))
    said = run(tmp_path, "--harness-gate", "gate.yaml", "-rA", "--junitxml=out.xml", code=1)
    assert "2 failed, 2 skipped" in said
    assert "BLOCK: Regressed: −40.0 pts" in said
    assert "advisory, Regressed" in said
    assert "Traceback" not in said
    assert "report.html" in said
    cases = {
        c.get("name"): [e.tag for e in c if e.tag != "properties"]
        for c in ET.parse(tmp_path / "out.xml").iter("testcase")  # noqa: S314 - pytest wrote it
    }
    assert cases == {
        "verdict": ["failure"], "sums/exact_match": ["failure"], "advisory: sums/exact_match[even]": ["skipped"],
        "advisory: sums/exact_match[odd]": ["skipped"],
    }  # fmt: skip


@pytest.mark.slow
def test_an_undecided_guard_fails_as_a_hold_and_a_promoted_gate_passes(tmp_path: Path) -> None:
    project(tmp_path / "hold", silent=range(60))
    said = run(tmp_path / "hold", "--harness-gate", "gate.yaml", "-k", "exact_match and not advisory", code=1)
    assert "HOLD: Undecided" in said
    assert "1 failed" in said
    project(tmp_path / "good")
    (tmp_path / "good" / "test_mine.py").write_text("def test_mine(): pass\n", "utf-8")
    # An advisory slice may be open when the required guard is decided, and the gate stops.
    assert "4 passed, 1 skipped" in run(tmp_path / "good", "--harness-gate", "gate.yaml", code=0)


@pytest.mark.slow
def test_collecting_runs_no_gate_and_workers_run_it_once(tmp_path: Path) -> None:
    project(tmp_path, lost=range(40))
    said = run(tmp_path, "--harness-gate", "gate.yaml", "--collect-only", "-k", "odd", code=0)
    assert "gate.yaml::advisory: sums/exact_match[odd]" in said
    assert not (tmp_path / "runs").exists()
    assert asked(tmp_path) == []
    run(tmp_path, "--harness-gate", "gate.yaml", "-p", "xdist", "-n", "2", code=1)
    assert len(asked(tmp_path)) == len(set(asked(tmp_path))) > 0
    assert len(list((tmp_path / "runs").glob("*/"))) == 1


@pytest.mark.slow
def test_a_gate_that_cannot_run_fails_every_guard_once_over(tmp_path: Path) -> None:
    path = project(tmp_path)
    (tmp_path / "before.jsonl").write_text("no answer\n", "utf-8")
    said = run(tmp_path, "--harness-gate", "gate.yaml", code=1)
    assert said.count("the gate could not run: ") >= 4
    assert "before.jsonl:1" in said
    path.write_text(path.read_text("utf-8").replace("margin", "margn"), "utf-8")
    assert "did you mean 'margin'?" in run(tmp_path, "--harness-gate", "gate.yaml", code=2)
    run(tmp_path, "--harness-gate", "nowhere.yaml", code=4)
