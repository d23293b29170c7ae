"""The catalogue of a store, one SQLite file: which segments there are, what is deleted from them, and what was counted

A segment is there when its row is. Everything that one compaction changes is one transaction, so that a process killed
at any moment leaves either the state before or the state after.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import StorageError

Table = Literal["spans", "logs", "calls"]

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments (
  path TEXT PRIMARY KEY, kind TEXT NOT NULL, tenant TEXT NOT NULL, day TEXT NOT NULL, run INTEGER NOT NULL,
  rows INTEGER NOT NULL, bytes INTEGER NOT NULL, first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS segments_by_part ON segments (kind, tenant, day);
CREATE TABLE IF NOT EXISTS done (journal TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS renewed (
  tenant TEXT NOT NULL, trace_id BLOB NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (tenant, trace_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten (
  tenant TEXT NOT NULL, user_key TEXT NOT NULL, before_ns INTEGER NOT NULL, settled INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, user_key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (
  tenant TEXT NOT NULL, day TEXT NOT NULL, what TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (tenant, day, what)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Segment:
    """A Parquet file of one table, tenant and day (UTC); `run` is the compaction that wrote it, times its rows'."""

    path: str
    kind: Table
    tenant: str
    day: str
    run: int
    rows: int
    bytes: int
    first_ns: int
    last_ns: int


@dataclass(slots=True)
class Change:
    """What a compaction or deletion changes, all at once or not at all."""

    added: list[Segment]
    removed: Sequence[str] = ()
    journals: Sequence[str] = ()
    renewed: Iterable[tuple[str, bytes, int]] = ()
    counts: Mapping[tuple[str, str, str], int] | None = None
    settled: Sequence[tuple[str, str]] = ()


class Catalogue:
    """The SQLite file; may be open in several processes.

    Raises:
        StorageError: the file cannot be used, or is from a later version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._guarded():
            self._db = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        known = self.fact("version", str(VERSION))
        if known != str(VERSION):
            raise StorageError(f"{path}: a store of version {known}; this program reads version {VERSION}")

    def close(self) -> None:
        """Close the file; what was changed is durable."""
        self._db.close()

    def fact(self, name: str, default: str) -> str:
        """A fact of the store, set to `default` when it has none yet."""
        with self._guarded():
            self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, default))
            return str(self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0])

    def next_run(self) -> int:
        """A number above those of all runs before."""
        with self._guarded():
            self._db.execute("INSERT OR IGNORE INTO facts VALUES ('run', '0')")
            self._db.execute("UPDATE facts SET value = CAST(value AS INTEGER) + 1 WHERE name = 'run'")
            return int(self._db.execute("SELECT value FROM facts WHERE name = 'run'").fetchone()[0])

    def apply(self, change: Change) -> None:
        """Make a change durable."""
        with self._guarded():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._write(change)
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _write(self, change: Change) -> None:
        many = self._db.executemany
        many("DELETE FROM segments WHERE path = ?", [(path,) for path in change.removed])
        many(
            "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(s.path, s.kind, s.tenant, s.day, s.run, s.rows, s.bytes, s.first_ns, s.last_ns) for s in change.added],
        )
        many("INSERT OR IGNORE INTO done VALUES (?)", [(name,) for name in change.journals])
        many("INSERT OR REPLACE INTO renewed VALUES (?, ?, ?)", change.renewed)
        many(
            "INSERT INTO counts VALUES (?, ?, ?, ?) ON CONFLICT (tenant, day, what) DO UPDATE SET n = n + excluded.n",
            [(*key, n) for key, n in (change.counts or {}).items()],
        )
        many("UPDATE forgotten SET settled = 1 WHERE tenant = ? AND user_key = ?", change.settled)

    def segments(self, kind: Table, tenant: str | None = None, days: Sequence[str] | None = None) -> list[Segment]:
        """Segments of a table, by tenant and days where given, oldest first."""
        where, values = ["kind = ?"], list[str]([kind])
        if tenant is not None:
            where.append("tenant = ?")
            values.append(tenant)
        if days is not None:
            where.append(f"day IN ({','.join('?' * len(days))})")
            values += days
        query = f"SELECT * FROM segments WHERE {' AND '.join(where)} ORDER BY run, path"  # noqa: S608 - fixed words
        return [Segment(*row) for row in self._rows(query, values)]

    def paths(self) -> set[str]:
        """Every segment's path."""
        return {row[0] for row in self._rows("SELECT path FROM segments")}

    def tenants(self) -> list[str]:
        """Tenants of whom there is a segment."""
        return [row[0] for row in self._rows("SELECT DISTINCT tenant FROM segments ORDER BY tenant")]

    def done(self) -> set[str]:
        """Journal files that are in segments already."""
        return {row[0] for row in self._rows("SELECT journal FROM done")}

    def undone(self, names: Iterable[str]) -> None:
        """Forget journal files that are gone."""
        with self._guarded():
            self._db.executemany("DELETE FROM done WHERE journal = ?", [(name,) for name in names])

    def forget(self, tenant: str, user_key: str, before_ns: int) -> None:
        """Hide what a user's traces hold, from now on, up to a time of arrival."""
        with self._guarded():
            self._db.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?, 0)", (tenant, user_key, before_ns))

    def forgotten(self) -> list[tuple[str, str, int]]:
        """(tenant, user, time of arrival) of what is hidden and not yet rewritten."""
        return self._rows("SELECT tenant, user_key, before_ns FROM forgotten WHERE settled = 0")

    def renewed(self, tenant: str) -> list[tuple[bytes, int]]:
        """(trace, run) of a tenant's traces whose calls were read again; calls of earlier runs do not count."""
        return self._rows("SELECT trace_id, run FROM renewed WHERE tenant = ?", (tenant,))

    def prune(self) -> None:
        """Forget which traces were read again where no segment is left that is older."""
        with self._guarded():
            self._db.execute(
                "DELETE FROM renewed WHERE NOT EXISTS (SELECT 1 FROM segments s WHERE s.kind = 'calls'"
                " AND s.tenant = renewed.tenant AND s.run < renewed.run)"
            )

    def counts(self, tenant: str | None = None) -> dict[str, int]:
        """What was counted, summed over days."""
        clause, values = ("WHERE tenant = ?", [tenant]) if tenant is not None else ("", [])
        return dict(self._rows(f"SELECT what, SUM(n) FROM counts {clause} GROUP BY what ORDER BY what", values))  # noqa: S608

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._guarded():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: the catalogue cannot be used: {error}") from error
