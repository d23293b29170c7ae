"""How often a frozen set was looked at: counted once a run, chained, and in the clear."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from harness.errors import RecordError, StorageError
from harness.registry.wear import FILE, looks_at, note_decision, read_decisions

MANIFEST = {
    "suites": {
        "sums": {"digest": "d1", "locked": {"set": "sums@1"}},
        "chat": {"digest": "d2", "locked": {"set": "sums@1"}},
        "mmlu": {"digest": "d3"},
    }
}


def test_every_run_counts_once_for_each_set_that_it_was_decided_on(tmp_path: Path) -> None:
    assert len(note_decision(tmp_path, MANIFEST, "run-1", "promote")) == 3
    assert note_decision(tmp_path, MANIFEST, "run-1", "promote") == []
    note_decision(tmp_path, MANIFEST, "run-2", "block")
    assert (looks_at(tmp_path, "sums@1"), looks_at(tmp_path, "sums@1", "d1"), looks_at(tmp_path, "mmlu")) == (2, 2, 2)
    assert looks_at(tmp_path, "sums@2") == 0
    assert [look.verdict for look in read_decisions(tmp_path)] == ["promote"] * 3 + ["block"] * 3


def test_a_decision_that_is_taken_out_shows(tmp_path: Path) -> None:
    for number in range(3):
        note_decision(tmp_path, MANIFEST, f"run-{number}", "hold")
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(RecordError, match=r"decisions\.jsonl:3"):
        read_decisions(tmp_path)
    with pytest.raises(RecordError):
        note_decision(tmp_path, MANIFEST, "run-9", "hold")


def _note(folder: Path, name: str) -> None:
    for number in range(5):
        note_decision(folder, MANIFEST, f"{name}-{number}", "hold")


def test_several_processes_lose_no_decision(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_note, args=(tmp_path, str(n))) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert looks_at(tmp_path, "sums@1") == 20


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="was not noted"):
        note_decision(tmp_path / "file", MANIFEST, "run", "hold")
