"""Outputs by content: (subject fingerprint, request hash) → output, in one SQLite file.

The baseline is asked once for all candidates, and a run that was killed asks nothing twice. The fingerprint is part
of the key because two subjects given the same request are exactly what a gate compares: an output served to another
subject would be a silent tie. Failures are not stored: a failed observation may succeed when it is asked again.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from harness.errors import StorageError
from harness.records import Output, Request, request_hash

_LOOKUP = 500  # bound variables a statement; SQLite's default limit is 999 in old builds


class Memory:
    """A durable map (subject, key) → JSON document, in one SQLite file that several threads and processes may share.

    A subclass names its `table` and its two columns, and says what is stored in it.

    Raises:
        StorageError: the file cannot be opened, read or written (disk full, read-only, not a database).
    """

    what: ClassVar[str]
    table: ClassVar[str]
    columns: ClassVar[tuple[str, str]]

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`."""
        self.path = path
        self._lock = threading.Lock()  # one connection: a transaction must not be another thread's too
        key, value = self.columns
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
            # WAL with FULL: a batch that was acknowledged survives kill -9 and a power cut.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            with self._db:
                self._db.execute(
                    f"CREATE TABLE IF NOT EXISTS {self.table} (subject TEXT NOT NULL, {key} TEXT NOT NULL, "
                    f"{value} TEXT NOT NULL, PRIMARY KEY (subject, {key})) WITHOUT ROWID"
                )
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from error

    def __enter__(self) -> Self:
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

    def _found(self, subject: str, keys: Sequence[str]) -> list[tuple[str, Any]]:
        """(key, document) for those of `keys` that are there."""
        try:
            with self._lock:
                return [(key, json.loads(text)) for key, text in self._rows(subject, keys)]
        except (sqlite3.Error, ValueError) as error:
            raise self._broken(error) from error

    def _keep(self, subject: str, documents: Iterable[tuple[str, Any]]) -> None:
        """Store documents durably before returning; what is there already stays."""
        rows = [(subject, key, json.dumps(document, allow_nan=False)) for key, document in documents]
        try:
            with self._lock, self._db:
                # Only the names of the class are put into a statement; every value is bound.
                self._db.executemany(f"INSERT OR IGNORE INTO {self.table} VALUES (?, ?, ?)", rows)  # noqa: S608
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _rows(self, subject: str, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
        key, value = self.columns
        for start in range(0, len(keys), _LOOKUP):
            part = keys[start : start + _LOOKUP]
            marks = ",".join("?" * len(part))
            query = f"SELECT {key}, {value} FROM {self.table} WHERE subject = ? AND {key} IN ({marks})"  # noqa: S608
            yield from self._db.execute(query, (subject, *part))

    def _broken(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self.what} {self.path}: {error}. Nothing finished is lost; free space or choose another folder "
            "with the key `cache`, then repeat the command."
        )


class OutputCache(Memory):
    """A durable map of outputs."""

    what = "output cache"
    table = "outputs"
    columns = ("request", "output")

    def get(self, subject: str, requests: Sequence[Request]) -> dict[int, Output]:
        """Index in `requests` → stored output, for those that `subject` has answered before."""
        index_of: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            index_of.setdefault(request_hash(request), []).append(index)
        found = self._found(subject, list(index_of))
        return {i: Output.from_json(record) for key, record in found for i in index_of[key]}

    def put(self, subject: str, answers: Sequence[tuple[Request, Output]]) -> None:
        """Store answers durably before returning; failures are left out, and what is there already stays."""
        self._keep(
            subject,
            [(request_hash(request), output.as_json()) for request, output in answers if output.failure is None],
        )
