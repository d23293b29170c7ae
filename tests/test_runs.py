"""A journal survives being cut off anywhere, and evidence comes back as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness import runs
from harness.drift import AnswerDrift
from harness.errors import StorageError
from harness.records import Evidence, MetricSpec, Output, PairedScore, Score


def entry(name: str) -> runs.Entry:
    return runs.Entry(
        "suite", name, "prompt", "target", ("tag",), (Output(text="a"),), (Output(failure="too long"),),
        {"m": (Score.of(1), Score.failed("too long"))},
    )  # fmt: skip


def test_the_same_manifest_resumes_and_another_does_not(tmp_path: Path) -> None:
    first = runs.RunDirectory(tmp_path, "name", {"a": 1})
    first.append([entry("1"), entry("2")])
    first.note_fact("noise", {"x": 1})
    first.close()
    again = runs.RunDirectory(tmp_path, "name", {"a": 1})
    other = runs.RunDirectory(tmp_path, "name", {"a": 2})
    assert again.path == first.path
    assert again.entries == [entry("1"), entry("2")]
    assert again.fact("noise") == {"x": 1}
    assert other.path != first.path
    assert other.entries == []
    again.close()
    other.close()


def test_drift_comes_back_as_it_was_and_older_journals_have_none(tmp_path: Path) -> None:
    moved = dataclasses.replace(entry("1"), drift=(AnswerDrift(2, 2, 5, 0.125, 1), AnswerDrift(None, 3, 3, None, 0)))
    run = runs.RunDirectory(tmp_path, "name", {})
    run.append([moved, entry("2")])
    run.close()
    assert runs.read_entries(run.path) == [moved, entry("2")]
    assert run.path.joinpath(runs.JOURNAL).read_text("utf-8").count('"drift"') == 1


def test_a_journal_cut_off_at_any_byte_keeps_every_whole_line(tmp_path: Path) -> None:
    run = runs.RunDirectory(tmp_path, "name", {})
    run.append([entry("1")])
    run.append([entry("2")])
    run.close()
    journal = run.path / runs.JOURNAL
    whole = journal.read_bytes()
    first_line = whole.index(b"\n") + 1
    for cut in {*range(0, len(whole), 41), first_line - 1, first_line, first_line + 1, len(whole) - 1}:
        journal.write_bytes(whole[:cut])
        resumed = runs.RunDirectory(tmp_path, "name", {})
        assert len(resumed.entries) == (cut >= first_line)
        resumed.append([entry("again")])
        resumed.close()
        reopened = runs.RunDirectory(tmp_path, "name", {})
        assert reopened.entries[-1].sample_id == "again"
        reopened.close()


def test_damage_inside_the_journal_is_refused_by_line(tmp_path: Path) -> None:
    run = runs.RunDirectory(tmp_path, "name", {})
    run.append([entry("1")])
    run.close()
    (run.path / runs.JOURNAL).write_bytes(b"{broken\n" + (run.path / runs.JOURNAL).read_bytes())
    with pytest.raises(StorageError, match=r"journal\.jsonl:1"):
        runs.RunDirectory(tmp_path, "name", {})


def test_evidence_round_trip_keeps_states_order_and_unasked(tmp_path: Path) -> None:
    pairs = (
        PairedScore("b", "c1", ("x", "y"), Score.of(0.1), Score.failed("why")),
        PairedScore("a", "", (), Score.abstained("unsure"), Score.of(1)),
        PairedScore("c"),
    )
    evidence = [Evidence("s", MetricSpec("m", False, (0, 100), 25.0), pairs), Evidence("s", MetricSpec("n"), pairs)]
    runs.write_evidence(tmp_path / "e.parquet", evidence)
    assert runs.read_evidence(tmp_path / "e.parquet") == evidence


def test_a_full_disk_is_one_clear_error_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "verdict.json"
    runs.write_json(path, {"old": True})

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", no_space)
    with pytest.raises(StorageError, match="No space left") as caught:
        runs.write_json(path, {"new": True})
    assert caught.value.exit_code == 4
    assert runs.read_json(path) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]
