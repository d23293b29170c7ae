"""A file of JSON lines of which each holds the SHA-256 of the line before it: what is in it cannot be changed unnoticed

A row has the keys `number`, counted from 1, and `previous`, beside its own. Writers hold a lock of their own; a reader
needs none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import RecordError, StorageError, at
from harness.registry.dsse import canonical

GENESIS = "0" * 64
_MAX_LINE = 2**20


def digest(row: Mapping[str, Any]) -> str:
    """What the next row holds as `previous`."""
    return hashlib.sha256(canonical(row) + b"\n").hexdigest()


def read(path: Path, *, strict: bool = False) -> list[dict[str, Any]]:
    """Every row, after the chain proved to be whole; none where there is no file.

    A last line without its end is still being written and is left out, or with `strict` is refused.

    Raises:
        RecordError: a line was changed, added or taken out; with its number.
        StorageError: the file cannot be read.
    """
    rows: list[dict[str, Any]] = []
    previous = GENESIS
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(_MAX_LINE + 1), b""), start=1):
                if not line.endswith(b"\n"):
                    if strict or len(line) > _MAX_LINE:
                        raise RecordError(f"{at(path, number)}has no end: it was changed, or a writer was killed; the "
                                          "next promotion or rollback mends the latter")  # fmt: skip
                    break
                row = _row(at(path, number), line)
                if row.get("number") != number or row.get("previous") != previous:
                    raise RecordError(f"{at(path, number)}does not follow the line before it: something was changed")
                previous = hashlib.sha256(line).hexdigest()
                rows.append(row)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    return rows


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add one row durably: all of it or nothing. What a crash left half written is cut off before.

    Raises:
        StorageError: the file cannot be written.
    """
    line = canonical(row) + b"\n"
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            whole = _end_of_rows(handle)
            os.ftruncate(handle, whole)
            try:
                if os.write(handle, line) != len(line):
                    raise OSError(28, "No space left on device")
                os.fsync(handle)
            except OSError:  # whoever is told that nothing was written must not find it later
                os.ftruncate(handle, whole)
                raise
        finally:
            os.close(handle)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; nothing was changed") from error


def _end_of_rows(handle: int) -> int:
    """Where the last whole line ends, in bytes."""
    size = os.fstat(handle).st_size
    start = max(0, size - _MAX_LINE - 1)
    os.lseek(handle, start, os.SEEK_SET)
    return start + os.read(handle, size - start).rfind(b"\n") + 1


def _row(where: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}not JSON: it was changed") from error
    if not isinstance(row, dict) or canonical(row) + b"\n" != line:
        raise RecordError(f"{where}not as it was written: it was changed")
    return row
