"""The timing of `harness verify`, made small: it measures what it says, and prints a row for each command."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import verifying

pytestmark = pytest.mark.slow


def test_the_command_is_timed_beside_what_it_cannot_do_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verifying.verifying(tmp_path, mebibytes=1, rounds=1)
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row[:32].strip() for row in rows] == [
        "python, doing nothing", "SHA-256 of 1 MiB", "harness --help", "harness verify, 1 MiB",
    ]  # fmt: skip
