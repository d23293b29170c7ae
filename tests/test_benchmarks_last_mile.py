"""The timings of the last mile, made small: they measure what they say, and print a row for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import last_mile

pytestmark = pytest.mark.slow


def test_the_command_is_timed_beside_what_it_cannot_do_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last_mile.verifying(tmp_path, mebibytes=1, rounds=1)
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row[:32].strip() for row in rows] == [
        "python, doing nothing", "SHA-256 of 1 MiB", "harness --help", "harness verify, 1 MiB",
    ]  # fmt: skip


def test_a_history_is_timed_anew_again_and_with_one_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last_mile.history(tmp_path, 2)
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row[:32].strip() for row in rows] == ["2 runs, from nothing", "again, nothing new", "again, one run more"]
    assert len(list((tmp_path / "site/data").glob("*.js"))) == 3
