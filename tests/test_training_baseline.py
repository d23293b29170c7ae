"""The baseline before a training: what could not be measured is never a number."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import load_gate
from harness.errors import SubjectError
from harness.gate import make_plan
from harness.progress import Silent
from harness.training.baseline import measure_baseline
from tests.scripted_project import N, project


class Noted(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def without(path: Path, count: int) -> None:
    """The last `count` recorded answers are lost."""
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[: len(lines) - count]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("lost", [0, 1, N // 2])
def test_what_failed_is_said_and_too_much_of_it_ends_the_run(tmp_path: Path, lost: int) -> None:
    config = project(tmp_path)
    without(tmp_path / "before.jsonl", lost)
    plan, observer = make_plan(load_gate(config)), Noted()
    if lost == N // 2:
        with pytest.raises(SubjectError, match="nothing is trained"):
            measure_baseline(plan, observer)
        return
    assert measure_baseline(plan, observer)
    assert bool(observer.notes) == bool(lost)
