"""Outputs by content: (subject fingerprint, request hash) → output, in one SQLite file.

The baseline is asked once for all candidates, and a run that was killed asks nothing twice. The fingerprint is part
of the key because two subjects given the same request are exactly what a gate compares: an output served to another
subject would be a silent tie. Failures are not stored: a failed observation may succeed when it is asked again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from harness.errors import StorageError
from harness.records import Output, Request, request_hash

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outputs (
  subject TEXT NOT NULL, request TEXT NOT NULL, output TEXT NOT NULL, PRIMARY KEY (subject, request)
) WITHOUT ROWID
"""
_LOOKUP = 500  # bound variables a statement; SQLite's default limit is 999 in old builds


class OutputCache:
    """A durable map of outputs. Several processes may share one file.

    Raises:
        StorageError: the file cannot be opened, read or written (disk full, read-only, not a cache).
    """

    def __init__(self, path: Path) -> None:
        """Open or create the cache at `path`."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60)
            # WAL with FULL: a batch that was acknowledged survives kill -9 and a power cut.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            with self._db:
                self._db.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from error

    def __enter__(self) -> OutputCache:
        """Use as a context manager to close it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; what was put is already durable."""
        self._db.close()

    def get(self, subject: str, requests: Sequence[Request]) -> dict[int, Output]:
        """Index in `requests` → stored output, for those that `subject` has answered before."""
        index_of: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            index_of.setdefault(request_hash(request), []).append(index)
        try:
            rows = list(self._rows(subject, list(index_of)))
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return {i: Output.from_json(json.loads(output)) for key, output in rows for i in index_of[key]}

    def put(self, subject: str, answers: Sequence[tuple[Request, Output]]) -> None:
        """Store answers durably before returning; failures are left out, and what is there already stays."""
        rows = [
            (subject, request_hash(request), json.dumps(output.as_json(), allow_nan=False))
            for request, output in answers
            if output.failure is None
        ]
        try:
            with self._db:
                self._db.executemany("INSERT OR IGNORE INTO outputs VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _rows(self, subject: str, keys: list[str]) -> Iterator[tuple[str, str]]:
        for start in range(0, len(keys), _LOOKUP):
            part = keys[start : start + _LOOKUP]
            marks = ",".join("?" * len(part))
            # Only question marks are put into the statement; every value is bound.
            query = f"SELECT request, output FROM outputs WHERE subject = ? AND request IN ({marks})"  # noqa: S608
            yield from self._db.execute(query, (subject, *part))

    def _broken(self, error: Exception) -> StorageError:
        return StorageError(
            f"output cache {self.path}: {error}. Nothing finished is lost; free space or choose another folder "
            "with the key `cache`, then repeat the command."
        )
