"""The books of a comparison in one SQLite file: what became of every call, the pairs, the sessions, what was spent

Counts and the evidence that they speak of are changed in one transaction, so that a process killed at any moment leaves
books that add up: `received` is the sum of all that became of calls, and of those still under way. One process writes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, InfrastructureError, StorageError
from harness.records import Score

RECEIVED, COMPARED, INTERRUPTED = "received", "compared", "interrupted"
BY_CHOICE = frozenset({"sampled_out", "no_consent", "switched_off", "enough"})
"""What becomes of calls that nobody meant to compare; all others are eligible."""
_SHOWN, _SHOWN_SECONDS = 50, 7 * 86_400.0
_MINUTES = 24 * 60
_VERSION = "1"
_KNOWN_REASON = re.compile(r"HTTP \d{3}|no answer within [\d.]+ s|no answer")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (tenant TEXT, what TEXT, n INTEGER NOT NULL, PRIMARY KEY (tenant, what))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS kinds (kind TEXT, compared INTEGER, n INTEGER NOT NULL, PRIMARY KEY (kind, compared))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS minutes (minute INTEGER, what TEXT, n INTEGER NOT NULL, PRIMARY KEY (minute, what))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
  place INTEGER PRIMARY KEY, cluster TEXT UNIQUE NOT NULL, arm TEXT NOT NULL, began REAL NOT NULL, last REAL NOT NULL,
  calls INTEGER NOT NULL, complete INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS pairs (job TEXT PRIMARY KEY, place INTEGER NOT NULL, scores TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pairs_by_session ON pairs (place);
CREATE TABLE IF NOT EXISTS finished (epoch TEXT, job INTEGER, PRIMARY KEY (epoch, job)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
  at REAL NOT NULL, metric TEXT NOT NULL, n INTEGER NOT NULL, difference REAL, low REAL, high REAL,
  outcome TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS shown (job TEXT PRIMARY KEY, at REAL NOT NULL, tenant TEXT NOT NULL, held TEXT NOT NULL)
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (day TEXT PRIMARY KEY, calls INTEGER, tokens INTEGER, dollars REAL) WITHOUT ROWID;
"""

Pair = Mapping[str, tuple[Score, Score]]


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation: `place` is its number in order of its first call; times are seconds since 1970."""

    place: int
    cluster: str
    arm: str
    calls: int
    complete: bool


class Ledger:
    """See the module.

    Raises:
        ConfigError: the file holds another comparison.
        StorageError: the file cannot be used.
        InfrastructureError: another process writes to it, and does not stop within `patience` seconds.
    """

    def __init__(self, folder: Path, comparison: str, *, patience: float = 15.0) -> None:
        self.folder = folder
        self._path = folder / "mirror.db"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"{folder}: the state cannot be kept here: {error}") from error
        self._lock = _locked(folder / "lock", patience)
        with self._guarded():
            self._db = sqlite3.connect(self._path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            self._db.execute("BEGIN")
        if self.fact("version", _VERSION) != _VERSION:
            raise StorageError(f"{self._path}: written by another version; give another folder with `state`")
        if self.fact("comparison", comparison) != comparison:
            raise ConfigError(
                f"{folder}: holds the evidence of another comparison (endpoints, policy, sessions or salt differ); "
                "give another folder with `state`, or remove this one"
            )
        self.commit()

    def close(self) -> None:
        """Commit and let go."""
        self.commit()
        self._db.close()
        os.close(self._lock)

    def commit(self) -> None:
        """Make everything so far durable against the death of the process."""
        with self._guarded():
            self._db.execute("COMMIT")
            self._db.execute("BEGIN")

    def fact(self, name: str, default: str) -> str:
        """A fact, set to `default` when there is none yet."""
        self._run("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, default))
        return str(self._rows("SELECT value FROM facts WHERE name = ?", (name,))[0][0])

    def set_fact(self, name: str, value: str) -> None:
        """Replace a fact."""
        self._run("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # ------------------------------------------------------------ counts

    def count(self, tenant: str, what: str, n: int = 1, *, minute: int | None = None) -> None:
        """Count something that became of `n` calls of a tenant."""
        self._run("INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (tenant, what, n))
        now = int(time.time() // 60) if minute is None else minute
        self._run("INSERT INTO minutes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (now, what, n))

    def kinds(self, kinds: Iterable[str], *, compared: bool, n: int = 1) -> None:
        """Count `n` eligible calls of these kinds, compared or not."""
        for kind in kinds:
            self._run("INSERT INTO kinds VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
                      (kind, int(compared), n))  # fmt: skip

    def counts(self, tenant: str | None = None) -> dict[str, int]:
        """What became of calls, of one tenant or of all."""
        clause, values = ("WHERE tenant = ?", (tenant,)) if tenant is not None else ("", ())
        return dict(self._rows(f"SELECT what, SUM(n) FROM counts {clause} GROUP BY what ORDER BY what", values))  # noqa: S608

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Kind → (eligible calls, compared calls)."""
        found: dict[str, list[int]] = {}
        for kind, compared, n in self._rows("SELECT kind, compared, n FROM kinds"):
            both = found.setdefault(kind, [0, 0])
            both[0] += n
            both[1] += n if compared else 0
        return {kind: (both[0], both[1]) for kind, both in sorted(found.items())}

    def minutes(self, last: int) -> list[tuple[int, str, int]]:
        """(minute since 1970, what, how many) of the last so many minutes."""
        since = int(time.time() // 60) - last
        return self._rows("SELECT minute, what, n FROM minutes WHERE minute > ? ORDER BY minute", (since,))

    def open_epoch(self, epoch: str) -> tuple[int, list[int]]:
        """Begin or go on with a run of the proxy: the last block of counts that was booked, and the finished jobs.

        What an earlier run had under way when it was killed is booked as interrupted.
        """
        if self.fact("epoch", epoch) != epoch:
            self._interrupt()
            self.set_fact("epoch", epoch)
            self.set_fact("counts", "0")
            self._run("DELETE FROM finished WHERE epoch <> ?", (epoch,))
        done = [int(row[0]) for row in self._rows("SELECT job FROM finished WHERE epoch = ?", (epoch,))]
        return int(self.fact("counts", "0")), done

    def _interrupt(self) -> None:
        for tenant, gap in self._rows(
            "SELECT tenant, SUM(CASE what WHEN 'received' THEN n ELSE -n END) AS gap FROM counts GROUP BY tenant "
            "HAVING gap <> 0"
        ):
            self.count(tenant, INTERRUPTED, gap)

    def finish(self, epoch: str, job: int) -> None:
        """Note that what became of a job is booked."""
        self._run("INSERT OR IGNORE INTO finished VALUES (?, ?)", (epoch, job))

    def forget_finished(self, epoch: str, below: int) -> None:
        """The proxy knows of all jobs below this one."""
        self._run("DELETE FROM finished WHERE epoch = ? AND job < ?", (epoch, below))

    # ------------------------------------------------------------ sessions and pairs

    def session(self, cluster: str, arm: str, now: float) -> Session:
        """The session of a call that has just arrived, begun where it is its first."""
        self._run("INSERT OR IGNORE INTO sessions (cluster, arm, began, last, calls) VALUES (?, ?, ?, ?, 0)",
                  (cluster, arm, now, now))  # fmt: skip
        row = self._rows("SELECT place, cluster, arm, calls, complete FROM sessions WHERE cluster = ?", (cluster,))[0]
        return Session(row[0], row[1], row[2], row[3], bool(row[4]))

    def has_begun(self, cluster: str, most: int) -> bool:
        """Whether a session is known, or there are fewer than so many."""
        known = self._rows("SELECT 1 FROM sessions WHERE cluster = ?", (cluster,))
        return bool(known) or int(self._rows("SELECT COALESCE(MAX(place), 0) FROM sessions")[0][0]) < most

    def enter(self, session: Session, now: float) -> None:
        """One more call of a session."""
        self._run("UPDATE sessions SET calls = calls + 1, last = ? WHERE place = ?", (now, session.place))

    def touch(self, place: int, now: float) -> None:
        """A call of a session has ended."""
        self._run("UPDATE sessions SET last = ? WHERE place = ?", (now, place))

    def complete(self, now: float, idle: float, most: float, cap: int, busy: Iterable[int]) -> None:
        """Complete what got no call for `idle` seconds, began `most` seconds ago, or has had all the calls it may."""
        rows = self._rows(
            "SELECT place FROM sessions WHERE complete = 0 AND (last < ? OR began < ? OR calls >= ?)",
            (now - idle, now - most, cap),
        )
        waiting = set(busy)
        for (place,) in rows:
            if place not in waiting:
                self._run("UPDATE sessions SET complete = 1 WHERE place = ?", (place,))

    def add_pair(self, job: str, place: int, pair: Pair) -> None:
        """Keep the scores of a call; in a split, of the arm that answered it, as both."""
        held = {name: [_plain(score) for score in scores] for name, scores in pair.items()}
        self._run("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?)", (job, place, json.dumps(held, separators=(",", ":"))))

    def settled(self, after: int) -> list[tuple[Session, list[tuple[str, Pair]]]]:
        """Sessions behind place `after`, in order, up to the first that is not complete, with their pairs.

        The order is that of first calls, and nothing behind an open session is read: else short sessions would come
        first, and the beginning of the evidence would speak of short sessions alone.
        """
        rows = self._rows(
            "SELECT place, cluster, arm, calls, complete FROM sessions WHERE place > ? AND place < "
            "COALESCE((SELECT MIN(place) FROM sessions WHERE complete = 0), 1 << 60) ORDER BY place", (after,),
        )  # fmt: skip
        found: list[tuple[Session, list[tuple[str, Pair]]]] = []
        for row in rows:
            pairs = self._rows("SELECT job, scores FROM pairs WHERE place = ? ORDER BY job", (row[0],))
            found.append((Session(row[0], row[1], row[2], row[3], True), [(job, _read(held)) for job, held in pairs]))
        return found

    def open_sessions(self) -> int:
        """How many sessions are not complete."""
        return int(self._rows("SELECT COUNT(*) FROM sessions WHERE complete = 0")[0][0])

    # ------------------------------------------------------------ what the page shows

    def add_history(
        self, rows: Sequence[tuple[float, str, int, float | None, float | None, float | None, str]]
    ) -> None:
        """(time, metric, pairs, difference, low, high, outcome) of one look."""
        self._many("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def history(self, metric: str, most: int = 240) -> list[tuple[Any, ...]]:
        """(time, pairs, difference, low, high) of at most so many looks, evenly chosen, the last included."""
        rows = self._rows(
            "SELECT at, n, difference, low, high FROM history "
            "WHERE metric = ? AND difference IS NOT NULL ORDER BY n, at",
            (metric,),
        )
        step = max(1, -(-len(rows) // most))
        return rows[::-1][::step][::-1]

    def show(self, job: str, at: float, tenant: str, held: Mapping[str, Any]) -> None:
        """Keep a disagreement to look at, and only the newest of them; the texts must be redacted."""
        self._run("INSERT OR IGNORE INTO shown VALUES (?, ?, ?, ?)", (job, at, tenant, json.dumps(held)))
        self._run("DELETE FROM shown WHERE job NOT IN (SELECT job FROM shown ORDER BY at DESC LIMIT ?)", (_SHOWN,))

    def shown(self, most: int) -> list[dict[str, Any]]:
        """The newest disagreements, newest first."""
        rows = self._rows("SELECT at, tenant, held FROM shown ORDER BY at DESC LIMIT ?", (most,))
        return [{"at": at, "tenant": tenant, **json.loads(held)} for at, tenant, held in rows]

    def prune(self) -> None:
        """Drop minutes that no chart shows, and texts that are a week old."""
        self._run("DELETE FROM minutes WHERE minute < ?", (int(time.time() // 60) - _MINUTES,))
        self._run("DELETE FROM shown WHERE at < ?", (time.time() - _SHOWN_SECONDS,))

    # ------------------------------------------------------------ money

    def spent(self, day: str) -> tuple[int, int, float]:
        """Calls, tokens and dollars of a day (UTC)."""
        rows = self._rows("SELECT calls, tokens, dollars FROM spent WHERE day = ?", (day,))
        return (int(rows[0][0]), int(rows[0][1]), float(rows[0][2])) if rows else (0, 0, 0.0)

    def set_spent(self, day: str, calls: int, tokens: int, dollars: float) -> None:
        """Note what a day has cost so far."""
        self._run("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?)", (day, calls, tokens, dollars))

    # ------------------------------------------------------------ SQLite

    def _run(self, query: str, values: Sequence[Any] = ()) -> None:
        with self._guarded():
            self._db.execute(query, values)

    def _many(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._guarded():
            self._db.executemany(query, rows)

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._guarded():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: the state cannot be used: {error}") from error


def _locked(path: Path, patience: float) -> int:
    """An exclusive lock; the process before this one may still be writing its last."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            if time.monotonic() > end:
                os.close(handle)
                raise InfrastructureError(f"{path.parent}: another mirror keeps its state here") from None
            time.sleep(0.1)


def _plain(score: Score) -> list[Any]:
    """A score without the words of its reason: these may be a server's own, and they are not redacted."""
    if score.value is not None:
        return [score.state, score.value]
    known = _KNOWN_REASON.match(score.reason)
    return [score.state, None, known[0] if known else "no score"]


def _read(held: str) -> Pair:
    return {name: (Score(*sides[0]), Score(*sides[1])) for name, sides in json.loads(held).items()}
