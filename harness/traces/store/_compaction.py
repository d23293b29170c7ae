"""From the journal to segments, in the background: each span once, and the calls of every trace it belongs to

One run takes the oldest closed journal files, leaves out what the store has already (a client repeats a request whose
answer was lost), writes segments, and makes the whole of it true with one transaction. The calls of a trace are read
from all its spans and log events, so a trace of which an earlier run had a part is read again, and its earlier calls
do not count any more. Whoever holds the lock compacts; a killed run leaves files that no catalogue names.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError
from harness.traces.normal import EVALUATION, normalise
from harness.traces.records import Call, LogEvent, Span
from harness.traces.redaction import Pseudonyms
from harness.traces.store import _journal
from harness.traces.store._catalogue import Catalogue, Change, Segment, Table
from harness.traces.store._rows import call_row, log_rows, read_message, span_rows
from harness.traces.store._segments import COLUMNS, Row, Segments, day_of

_RETIRED_SECONDS = 60
_LEAST_FILES, _SMALL_ROWS, _MOST_MERGED = 16, 8192, 24 * 2**20
_TABLES: tuple[Table, ...] = ("spans", "logs")
_ID_COLUMNS: dict[Table, str] = {"spans": "span_id", "logs": "digest"}


@dataclass(slots=True)
class _Trace:
    """What is known of a trace: its spans and events, and when the last of them came."""

    spans: list[Span] = field(default_factory=list)
    events: list[LogEvent] = field(default_factory=list)
    received_ns: int = 0
    seen_before: bool = False
    has_calls: bool = False

    def add(self, item: Span | LogEvent, received_ns: int) -> None:
        """Note a span or event."""
        self.spans.append(item) if isinstance(item, Span) else self.events.append(item)
        self.received_ns = max(self.received_ns, received_ns)


@dataclass(slots=True)
class _Intake:
    """What one run has read from the journal."""

    rows: dict[tuple[Table, str, str], list[tuple[Row, Any]]] = field(default_factory=lambda: defaultdict(list))
    traces: dict[tuple[str, bytes], _Trace] = field(default_factory=lambda: defaultdict(_Trace))
    keys: set[tuple[str, bytes, bytes]] = field(default_factory=set)
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)


class Compactor:
    """Compacts one store. Runs exclude each other, across processes too."""

    def __init__(self, root: Path, catalogue: Catalogue, segments: Segments, key: bytes) -> None:
        self._root, self._catalogue, self._segments, self._key = root, catalogue, segments, key
        self._folder = root / "journal"
        self._prefixes = lru_cache(maxsize=512)(self._first_bytes)
        self._swept = False
        self._retired: list[tuple[float, list[str]]] = []

    def run(self, *, most_bytes: int = 32 * 2**20, wait: bool = True) -> int:
        """Take journal files of at most so many bytes (or one larger file); how many files were taken.

        Raises:
            StorageError: the journal, a segment or the catalogue cannot be read or written.
        """
        with self._locked(wait) as held:
            if not held:
                return 0
            self._sweep()
            files = _oldest(_journal.ready(self._folder), most_bytes)
            if files:
                self._compact(files)
            self._merge()
            self._catalogue.prune()
            self._remove_retired()
            return len(files)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold off every compaction."""
        with self._locked(wait=True):
            yield

    @contextmanager
    def _locked(self, wait: bool) -> Iterator[bool]:
        handle = os.open(self._root / "compaction.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(handle)

    def _sweep(self) -> None:
        """Finish what a killed run left: journal files that are in segments, and segments that no catalogue names."""
        done = self._catalogue.done()
        for name in done:
            (self._folder / name).unlink(missing_ok=True)
        self._catalogue.undone(done)
        if not self._swept:
            self._segments.remove(sorted(self._segments.found() - self._catalogue.paths()))
            self._swept = True

    # ------------------------------------------------------------ one run

    def _compact(self, files: Sequence[Path]) -> None:
        run = self._catalogue.next_run()
        intake = _Intake()
        for file in files:
            for record in _journal.read(file):
                self._take(record, run, intake)
        self._settle(intake)
        self._read_calls(intake, run)
        added = [
            self._segments.write(kind, tenant, day, run, [row for row, _ in rows])
            for (kind, tenant, day), rows in sorted(intake.rows.items())
            if rows
        ]
        # What was read of a trace without its calls, such as two results of evaluations days later, renews nothing.
        renewed = [
            (tenant, trace, run) for (tenant, trace), t in intake.traces.items() if t.seen_before and t.has_calls
        ]
        names = [file.name for file in files]
        self._catalogue.apply(Change(added, journals=names, renewed=renewed, counts=intake.counts))
        for file in files:
            file.unlink(missing_ok=True)
        self._catalogue.undone(names)

    def _take(self, record: _journal.Record, run: int, intake: _Intake) -> None:
        day = day_of(record.received_ns)
        if record.kind == "counts":
            for what, n in record.counts().items():
                intake.counts[record.tenant, day, what] += n
            return
        table: Table = "spans" if record.kind == "traces" else "logs"
        read: Any = span_rows(record, run) if table == "spans" else log_rows(record, run)
        for row, item in read:
            key = (record.tenant, row["trace_id"], row[_ID_COLUMNS[table]])
            if key in intake.keys:
                intake.counts[record.tenant, day, f"{table} sent again"] += 1
            elif not row["trace_id"] and not _names_an_answer(item):
                intake.counts[record.tenant, day, "logs outside of any trace"] += 1
            else:
                intake.keys.add(key)
                intake.rows[table, record.tenant, day_of(row["start_ns"])].append((row, item))

    def _settle(self, intake: _Intake) -> None:
        """Leave out records that are in the store, and gather all of the traces that the others belong to."""
        stored = self._stored(intake)
        known = {(row["tenant"], row["trace_id"], row[_ID_COLUMNS[table]]) for table, row in stored}
        for (table, tenant, _), rows in intake.rows.items():
            fresh = [pair for pair in rows if (tenant, pair[0]["trace_id"], pair[0][_ID_COLUMNS[table]]) not in known]
            if len(fresh) < len(rows):
                intake.counts[tenant, day_of(rows[0][0]["received_ns"]), f"{table} sent again"] += len(rows) - len(
                    fresh
                )
            rows[:] = fresh
            for row, item in fresh:
                intake.traces[tenant, row["trace_id"]].add(item, row["received_ns"])
        for table, row in stored:
            trace = intake.traces.get((row["tenant"], row["trace_id"]))
            if trace is not None:
                trace.seen_before = True
                for item in read_message(table, row["message"]):
                    trace.add(item, row["received_ns"])

    def _stored(self, intake: _Intake) -> list[tuple[Table, Row]]:
        """Rows in the store of every trace of which this run has a part.

        Days next to each other share traces, so a trace is followed from day to day as long as there is some of it.
        """
        found: list[tuple[Table, Row]] = []
        looked: dict[tuple[str, str], set[bytes]] = defaultdict(set)
        wanted: dict[tuple[str, str], set[bytes]] = defaultdict(set)
        for (_, tenant, day), rows in intake.rows.items():
            for near in _around(day):
                wanted[tenant, near].update(row["trace_id"] for row, _ in rows if row["trace_id"])
        while wanted:
            further: dict[tuple[str, str], set[bytes]] = defaultdict(set)
            for (tenant, day), traces in wanted.items():
                fresh = traces - looked[tenant, day]
                looked[tenant, day] |= fresh
                rows_of_day = [
                    (table, row)
                    for table in _TABLES
                    for segment in (self._catalogue.segments(table, tenant, [day]) if fresh else ())
                    for row in self._rows_of(segment, fresh)
                ]
                found += rows_of_day
                for near in _around(day):
                    further[tenant, near].update(row["trace_id"] for _, row in rows_of_day)
            wanted = {key: traces for key, traces in further.items() if traces - looked[key]}
        return found

    def _rows_of(self, segment: Segment, traces: set[bytes]) -> list[Row]:
        prefixes = np.frombuffer(b"".join(trace[:8] for trace in traces), np.uint64)
        if not np.isin(prefixes, self._prefixes(segment.path)).any():
            return []
        columns = ["tenant", "trace_id", _ID_COLUMNS[segment.kind], "received_ns", "message"]
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self._segments.read(segment.path, columns)
        found: list[Row] = table.filter(pc.is_in(table["trace_id"], pa.array(list(traces), pa.binary()))).to_pylist()
        return found

    def _first_bytes(self, path: str) -> NDArray[np.uint64]:
        """The first eight bytes of every trace id in a segment: a look at memory settles most questions."""
        ids = self._segments.read(path, ["trace_id"])["trace_id"].to_pylist()
        return np.unique(np.frombuffer(b"".join(trace[:8] for trace in ids), np.uint64))

    def _read_calls(self, intake: _Intake, run: int) -> None:
        by_tenant: dict[str, list[_Trace]] = defaultdict(list)
        for (tenant, _), trace in intake.traces.items():
            by_tenant[tenant].append(trace)
        for tenant, traces in by_tenant.items():
            arrived = {span.trace_id: trace.received_ns for trace in traces for span in trace.spans}
            for call in self._calls(tenant, traces, intake):
                intake.traces[tenant, bytes.fromhex(call.trace_id)].has_calls = True
                row = call_row(call, arrived[call.trace_id], run)
                intake.rows["calls", tenant, day_of(call.time_ns)].append((row, call))

    def _calls(self, tenant: str, traces: Sequence[_Trace], intake: _Intake) -> Sequence[Call]:
        """The calls in traces. One that cannot be read keeps no other from it: it is counted, and its spans stay."""
        spans = [span for trace in traces for span in trace.spans]
        events = [event for trace in traces for event in trace.events]
        try:
            return normalise(spans, events, tenant=tenant, pseudonym=Pseudonyms(self._key, tenant).user).calls
        except PluginError:
            raise
        except Exception:
            if len(traces) == 1:
                intake.counts[tenant, day_of(traces[0].received_ns), "traces whose calls cannot be read"] += 1
                return ()
            return [call for trace in traces for call in self._calls(tenant, [trace], intake)]

    # ------------------------------------------------------------ fewer, larger segments

    def _merge(self) -> None:
        """Make one segment of many small ones of a day: a quiet service must not end up with a million files."""
        small: dict[tuple[Table, str, str], list[Segment]] = defaultdict(list)
        for kind in COLUMNS:
            for segment in self._catalogue.segments(kind):
                if segment.rows < _SMALL_ROWS and segment.bytes < _MOST_MERGED // _LEAST_FILES:
                    small[kind, segment.tenant, segment.day].append(segment)
        for segments in small.values():
            if len(segments) >= _LEAST_FILES:
                self.rewrite(segments[: 4 * _LEAST_FILES], later=True)

    def rewrite(
        self, segments: Sequence[Segment], keep: Callable[[Any], Any] | None = None, *, later: bool = False
    ) -> None:
        """Make one segment of several of one table, tenant and day, with the rows for which `keep` gives a mask.

        The old files go at once, or a minute `later`, for those who are still reading them.

        Raises:
            StorageError: a segment cannot be read, written or removed; none is lost.
        """
        import pyarrow as pa

        kind, tenant, day = segments[0].kind, segments[0].tenant, segments[0].day
        run = self._catalogue.next_run()
        table = pa.concat_tables([self._segments.read(s.path, list(COLUMNS[kind])) for s in segments])
        table = table.filter(keep(table)) if keep else table
        if kind == "calls":
            table = table.filter(_current(table, dict(self._catalogue.renewed(tenant))))
        added = [self._segments.write(kind, tenant, day, run, table)] if len(table) else []
        paths = [segment.path for segment in segments]
        self._catalogue.apply(Change(added, removed=paths))
        if later:
            self._retired.append((time.monotonic(), paths))
        else:
            self._segments.remove(paths)

    def _remove_retired(self) -> None:
        while self._retired and time.monotonic() - self._retired[0][0] > _RETIRED_SECONDS:
            self._segments.remove(self._retired.pop(0)[1])


def _current(table: Any, renewed: dict[bytes, int]) -> Any:
    """Which calls were not read again since."""
    import pyarrow as pa

    rows = zip(table["trace_id"].to_pylist(), table["run"].to_pylist(), strict=True)
    return pa.array([run >= renewed.get(trace, 0) for trace, run in rows], pa.bool_())


def _names_an_answer(item: Span | LogEvent) -> bool:
    """Whether it is the result of an evaluation that names an answer, which needs no trace to be found."""
    return isinstance(item, LogEvent) and item.name == EVALUATION and bool(item.attributes.get("gen_ai.response.id"))


def _oldest(files: Sequence[Path], most_bytes: int) -> list[Path]:
    taken: list[Path] = []
    total = 0
    for file in files:
        total += file.stat().st_size
        if taken and total > most_bytes:
            break
        taken.append(file)
    return taken


def _around(day: str) -> list[str]:
    at = date.fromisoformat(day)
    return [(at + timedelta(days=days)).isoformat() for days in (-1, 0, 1)]
