"""A stored run decided again: by its journal and evidence, and never by its verdict.json."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from harness import runs
from harness.deciding import decide_again
from harness.errors import StorageError
from tests.promotion_example import gated


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return gated(tmp_path)


def noted(run: Path, **changed: object) -> None:
    """Another end in the journal of a run."""
    manifest = runs.read_json(run / runs.MANIFEST)
    ended = runs.read_facts(run)[runs.ENDED]
    with closing(runs.RunDirectory(run.parent, run.name.rpartition("-")[0], manifest)) as opened:
        opened.note_fact(runs.ENDED, {**ended, **changed})


def test_the_verdict_file_is_not_asked(run: Path) -> None:
    (run / runs.VERDICT).unlink()
    manifest, verdict = decide_again(run)
    assert (manifest["candidate"]["name"], verdict.verdict) == ("after", "promote")


def test_a_run_that_was_stopped_stays_a_hold(run: Path) -> None:
    noted(run, stopped=["the budget of 100 calls is spent"])
    verdict = decide_again(run)[1]
    assert (verdict.verdict, verdict.reasons[0]) == ("hold", "the budget of 100 calls is spent")


def test_a_failed_check_stays_a_hold_whatever_the_verdict_file_says(run: Path) -> None:
    noted(run, checks=[{"name": "golden-lock", "passed": False, "detail": "changed"}])
    assert decide_again(run)[1].verdict == "hold"


def test_a_run_without_the_fact_is_decided_by_the_checks_that_it_stored(run: Path) -> None:
    lines = (run / runs.JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
    (run / runs.JOURNAL).write_text("".join(line for line in lines if '"ended"' not in line), encoding="utf-8")
    assert decide_again(run)[1].verdict == "promote"


def test_the_seal_names_what_changed_and_a_reader_changes_nothing(run: Path, tmp_path: Path) -> None:
    assert runs.unsealed(run) == []
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    with (copy / runs.JOURNAL).open("ab") as stream:
        stream.write(b'{"type": "chunk"')
    before = (copy / runs.JOURNAL).read_bytes()
    assert len(runs.read_entries(copy)) == len(runs.read_entries(run))
    assert (copy / runs.JOURNAL).read_bytes() == before, "reading a run must not write to it"
    assert runs.unsealed(copy) == [runs.JOURNAL]
    (copy / runs.SEAL).write_text("{}", encoding="utf-8")
    with pytest.raises(StorageError, match="not the seal of a run"):
        runs.unsealed(copy)
