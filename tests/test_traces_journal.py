"""What the journal says is durable is in its files, whole, whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import StorageError
from harness.traces.store import _journal
from harness.traces.store._journal import Journal, JournalFull, Record, backlog, oldest_ns, read, ready

RECORD = Record("traces", "acme", 1_700_000_000_000_000_000, b"body" * 10)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path, spare_bytes=0)
    yield opened
    opened.close()


def test_what_was_appended_is_read_back(journal: Journal, tmp_path: Path) -> None:
    counts = Record("counts", "acme", 5, json.dumps({"traces rejected: span-id": 2}).encode())
    journal.append(RECORD, counts).result()
    journal.close()
    (path,) = ready(tmp_path)
    assert list(read(path)) == [RECORD, counts]
    assert counts.counts() == {"traces rejected: span-id": 2}


def test_a_file_in_use_is_not_handed_over_and_rolling_hands_it_over(journal: Journal, tmp_path: Path) -> None:
    journal.append(RECORD).result()
    assert ready(tmp_path) == []
    journal.roll()
    assert len(ready(tmp_path)) == 1
    journal.append(RECORD).result()
    journal.roll()
    assert len(ready(tmp_path)) == 2
    assert oldest_ns(tmp_path) == min(int(p.name[:20]) for p in ready(tmp_path))


def test_a_full_file_is_handed_over_without_being_asked(tmp_path: Path) -> None:
    journal = Journal(tmp_path, roll_bytes=100, spare_bytes=0)
    for _ in range(3):
        journal.append(RECORD).result()
    journal.close()
    assert sum(len(list(read(path))) for path in ready(tmp_path)) == 3
    assert len(ready(tmp_path)) >= 2


def test_a_torn_or_damaged_record_ends_the_file(journal: Journal, tmp_path: Path) -> None:
    journal.append(RECORD).result()
    journal.append(RECORD).result()
    journal.close()
    (path,) = ready(tmp_path)
    whole = path.read_bytes()
    for cut in range(len(_journal._HEADER) + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert list(read(path)) == [RECORD] * (cut >= len(_journal._HEADER) + len(RECORD.pack()))
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert list(read(path)) == [RECORD]
    path.write_bytes(whole[: len(_journal._HEADER)] + b"\xff" * 64)
    assert list(read(path)) == []


def test_another_file_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "x.wal").write_bytes(b"something else entirely")
    with pytest.raises(StorageError, match="not a journal"):
        list(read(tmp_path / "x.wal"))


@pytest.mark.parametrize("step", ["write", "fdatasync"])
def test_a_disk_that_fills_up_keeps_all_of_a_request_or_nothing(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    journal.append(RECORD).result()

    def half(handle: int, content: memoryview) -> int:
        if len(content) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, content[: len(content) // 2])

    def fails(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    real: Callable[..., int] = os.write
    monkeypatch.setattr(os, step, half if step == "write" else fails)
    with pytest.raises(JournalFull, match="cannot be written"):
        journal.append(RECORD, RECORD).result()
    monkeypatch.undo()
    journal.append(RECORD).result()
    journal.close()
    assert sum(len(list(read(path))) for path in ready(tmp_path)) == 2


def test_nothing_is_taken_without_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path, spare_bytes=2**60)
    with pytest.raises(JournalFull, match="bytes are free"):
        journal.append(RECORD).result()
    journal.close()
    journal = Journal(tmp_path, spare_bytes=0, roll_bytes=10, most_bytes=100)
    for _ in range(2):
        journal.append(RECORD).result()
    with pytest.raises(JournalFull, match="wait for the compactor"):
        journal.append(RECORD).result()
    journal.close()
    assert backlog(tmp_path) > 100


def test_a_closed_journal_takes_nothing(journal: Journal) -> None:
    journal.close()
    with pytest.raises(StorageError, match="closed"):
        journal.append(RECORD).result()


def test_what_a_killed_process_acknowledged_is_found(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from harness.traces.store._journal import Journal, Record\n"
        "j = Journal(Path(sys.argv[1]), spare_bytes=0)\n"
        "j.append(Record('traces', 'acme', 1, b'kept')).result()\n"
        "print('ready', flush=True); sys.stdin.readline()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdin=-1, stdout=-1, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert ready(tmp_path) == []  # it lives, and holds its file
    child.communicate("\n")
    (path,) = ready(tmp_path)
    assert [record.body for record in read(path)] == [b"kept"]
