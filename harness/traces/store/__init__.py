"""The store of traces: a journal that is durable before anybody is answered, Parquet segments, and queries over them

    DIR/journal/      what was taken and is not in a segment yet; one file per process (`_journal.py`)
    DIR/segments/     Parquet by table, tenant and day; elsewhere where the store was made with another URL
    DIR/catalogue.db  which segments there are, what is deleted, what was counted (`_catalogue.py`)
    DIR/redaction.key the key of all pseudonyms; without it users can be neither joined nor forgotten

Several processes may append, query and compact at the same time. What is appended can be queried once it is compacted.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from harness.errors import ConfigError, StorageError
from harness.redaction import Finder
from harness.traces import otlp
from harness.traces.admission import Admission, Admitted
from harness.traces.records import Call, LogEvent, Span
from harness.traces.redaction import Bounds, Pseudonyms, store_key
from harness.traces.store import _deletion, _journal, _sampling, _statistics
from harness.traces.store._catalogue import Catalogue
from harness.traces.store._compaction import Compactor
from harness.traces.store._journal import Journal, JournalFull, Kind, Record
from harness.traces.store._segments import Segments
from harness.traces.store._statistics import Stats
from harness.traces.store._tenants import DEFAULT as DEFAULT_TENANT
from harness.traces.store._tenants import check_tenant
from harness.traces.store._views import Views

__all__ = ["DEFAULT_TENANT", "MIRRORED", "JournalFull", "Stats", "Store", "StoreOptions", "check_tenant"]


MIRRORED = "harness-mirror-copy"
"""The service of calls that a mirror copied to a candidate: no user has asked for them, so none is ever drawn."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How a store takes things in: bounds of redaction, finders, and when a journal file is handed over.

    Nothing is taken while `most_waiting` bytes wait for the compactor, or less than `spare` bytes of disk are left.
    """

    bounds: Bounds = field(default_factory=Bounds)
    finders: Sequence[Finder] = ()
    roll_bytes: int = 32 * 2**20
    roll_seconds: float = 5.0
    most_waiting: int = 4 * 2**30
    spare: int = 256 * 2**20


class Store:
    """One store; use `Store.open`."""

    def __init__(self, root: Path, segments: Segments, catalogue: Catalogue, options: StoreOptions) -> None:
        self.root, self.options = root, options
        self._segments, self._catalogue = segments, catalogue
        self._key = store_key(root)
        self._compactor = Compactor(root, catalogue, segments, self._key)
        self._journal: Journal | None = None
        self._admissions: dict[str, Admission] = {}

    @classmethod
    def open(
        cls, path: Path | str, *, segments: str | None = None, create: bool = True, options: StoreOptions | None = None
    ) -> Store:
        """Open the store in folder `path`, made where there is none unless `create` is false.

        `segments` is the fsspec URL of its Parquet files (`s3://bucket/traces`), said once, when the store is made.

        Raises:
            ConfigError: there is no store, or it keeps its segments elsewhere.
            StorageError: the folder, catalogue, key or segments cannot be used.
            PluginError: the file system of `segments` is not installed.
        """
        root = Path(path)
        if not create and not (root / "catalogue.db").exists():
            raise ConfigError(f"{root}: no store of traces here; `harness shadow serve --store {root}` makes one")
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"{root}: a store cannot be made here: {error}") from error
        catalogue = Catalogue(root / "catalogue.db")
        url = catalogue.fact("segments", segments or "")
        if segments is not None and url != segments:
            raise ConfigError(f"{root}: this store keeps its segments at {url or root / 'segments'}, not at {segments}")
        return cls(root, Segments(url or str(root.resolve() / "segments")), catalogue, options or StoreOptions())

    def __enter__(self) -> Store:
        """Use as a context manager to close it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Hand the journal over and close the files."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._catalogue.close()

    # ------------------------------------------------------------ in

    @property
    def journal(self) -> Journal:
        """This process's part of the journal, opened when it is first appended to."""
        if self._journal is None:
            o = self.options
            self._journal = Journal(
                self.root / "journal", roll_bytes=o.roll_bytes, roll_seconds=o.roll_seconds,
                most_bytes=o.most_waiting, spare_bytes=o.spare,
            )  # fmt: skip
        return self._journal

    def admission(self, tenant: str) -> Admission:
        """What admits a tenant's requests: checks, redaction, pseudonyms.

        Raises:
            ConfigError: `tenant` is no name.
        """
        if tenant not in self._admissions:
            names = Pseudonyms(self._key, check_tenant(tenant))
            self._admissions[tenant] = Admission(names, self.options.bounds, self.options.finders)
        return self._admissions[tenant]

    def append(self, tenant: str, spans: Iterable[Span] = (), logs: Iterable[LogEvent] = ()) -> Mapping[str, int]:
        """Admit and keep spans and log events; durable when this returns. How many were rejected, by reason.

        Raises:
            ConfigError: `tenant` is no name.
            JournalFull: there is no room (now).
            StorageError: the disk failed. What was kept before that is left out when it is appended again.
        """
        admission, rejected = self.admission(tenant), Counter[str]()
        for part in _parts(spans):
            rejected += self._keep(tenant, "traces", admission.traces(otlp.encode_traces(part)))
        for events in _parts(logs):
            rejected += self._keep(tenant, "logs", admission.logs(otlp.encode_logs(events)))
        return rejected

    def _keep(self, tenant: str, kind: Kind, admitted: Admitted) -> Counter[str]:
        records = self.records(tenant, kind, admitted, time.time_ns())
        if records:
            self.journal.append(*records).result()
        return admitted.rejected

    def records(self, tenant: str, kind: Kind, admitted: Admitted, now_ns: int) -> list[Record]:
        """What goes to the journal of a request that was admitted."""
        counts = {f"{kind} rejected: {reason}": n for reason, n in admitted.rejected.items()}
        counts |= {f"{kind} with an impossible time": admitted.clamped} if admitted.clamped else {}
        records = [Record(kind, tenant, now_ns, admitted.message.SerializeToString())] if admitted.records else []
        return [*records, Record("counts", tenant, now_ns, json.dumps(counts).encode())] if counts else records

    def compact(self, *, wait: bool = True) -> int:
        """Put what waits in the journal now into segments, this process's included; how many journal files that were.

        Without `wait`, nothing is done while another process compacts.

        Raises:
            StorageError: the journal, a segment or the catalogue cannot be read or written; nothing is lost.
        """
        if self._journal is not None:
            self._journal.roll()
        total, began = 0, time.time_ns()
        while taken := self._compactor.run(wait=wait):
            total += taken
            oldest = _journal.oldest_ns(self.root / "journal")
            if oldest is None or oldest > began:  # a busy receiver hands over new files for as long as one looks
                break
        _deletion.settle(self.root, self._catalogue, self._segments, self._compactor)
        return total

    # ------------------------------------------------------------ out

    @contextmanager
    def views(self) -> Iterator[Views]:
        """The compacted store as it is now, for several queries."""
        made = Views(self._catalogue, self._segments, spill=str(self.root / "spill"))
        try:
            yield made
        finally:
            made.close()

    def query(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """One DuckDB query over the views `spans`, `logs` and `calls` (columns: `_segments.COLUMNS`), a pyarrow table.

        The text of `sql` must be the program's own: it can read files.

        Raises:
            StorageError: DuckDB refuses it.
        """
        with self.views() as views:
            return views.query(sql, values)

    def calls(
        self, tenant: str | None = None, *, replayable: bool | None = None, days: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Call]:  # fmt: skip
        """Calls, oldest first; of one tenant, of days from … to … (`2026-11-01`, both included), at most `limit`.

        Raises:
            StorageError: a segment cannot be read.
        """
        table = self.candidates(tenant, replayable=replayable, days=days)
        table = table.sort_by([("start_ns", "ascending"), ("span_id", "ascending")])
        return self.fetch(table.slice(0, limit) if limit is not None else table)

    def candidates(
        self, tenant: str | None = None, *, replayable: bool | None = None, days: tuple[str, str] | None = None,
        columns: Sequence[str] = _sampling.COLUMNS,
    ) -> Any:  # fmt: skip
        """One row a call, as a pyarrow table without the calls themselves: what a sample is chosen from.

        `segment` and `row` say where `fetch` finds the call. A million rows take about 100 MB.
        """
        with self.views() as views:
            return _sampling.candidates(views, tenant, replayable, days, columns)

    def fetch(self, candidates: Any) -> Iterator[Call]:
        """The calls of rows of `candidates`, in their order.

        Raises:
            StorageError: a segment is gone (it was rewritten since; ask for candidates again) or cannot be read.
        """
        return _sampling.fetch(self._segments, candidates)

    def calls_sample(
        self, n: int, *, salt: str, tenant: str | None = None, days: tuple[str, str] | None = None,
        most_per_session: int | None = None, most_per_user: int | None = None, near: int = 3,
    ) -> list[Call]:  # fmt: skip
        """At most `n` replayable calls, whole sessions in the order of a hash of (`salt`, session).

        Deterministic; a store that grows by sessions of a higher hash gives the same sample. `most_per_session` and
        `most_per_user` cap how much one of them counts; of calls whose signatures differ in at most `near` bits only
        the first is taken (−1: all are).

        Raises:
            StorageError: a segment cannot be read.
        """
        table = self.candidates(tenant, replayable=True, days=days, columns=_sampling.CHOICE)
        chosen = _sampling.choose(table, n, salt, most_per_session, most_per_user, near)
        return list(self.fetch(table.take(chosen)))

    def stats(self, tenant: str | None = None) -> Stats:
        """What there is.

        Raises:
            StorageError: a segment cannot be read.
        """
        counts = self._catalogue.counts(tenant)
        with self.views() as views:
            return _statistics.stats(views, counts, _journal.backlog(self.root / "journal"), tenant)

    # ------------------------------------------------------------ away

    def forget(self, user: str, tenant: str | None = None) -> int:
        """Delete all that has arrived of a user: their traces, and the sessions that these belong to; how many rows.

        `user` is the id as the service knows it, or its pseudonym (`<USER_…>`); without a tenant, of all tenants. It is
        hidden from every query when this returns, and rewritten out of the segments too, unless a live receiver still
        holds part of it in its journal; its compactor then does that.

        Raises:
            StorageError: the catalogue or a segment cannot be written; the request stands where it was noted.
        """
        self.compact()
        names = {t: Pseudonyms(self._key, t).user(user) for t in ([tenant] if tenant else self.tenants())}
        before = self._rows()
        for name, key in names.items():
            self._catalogue.forget(name, key, time.time_ns())
        hidden = before - self._rows()
        _deletion.settle(self.root, self._catalogue, self._segments, self._compactor)
        return hidden

    def expire(self, before: str) -> int:
        """Delete the segments of all days before `before` (`2026-11-01`); how many rows that were.

        Raises:
            ConfigError: `before` is no day.
            StorageError: the catalogue or a segment cannot be changed.
        """
        return _deletion.expire(self._catalogue, self._segments, self._compactor, before)

    def tenants(self) -> list[str]:
        """Tenants of whom there is something."""
        return self._catalogue.tenants()

    def _rows(self) -> int:
        table = self.query("SELECT (SELECT count(*) FROM spans) + (SELECT count(*) FROM logs) AS n")
        return int(table["n"][0].as_py())


_Item = TypeVar("_Item", Span, LogEvent)
_PART = 1000  # records of one request


def _parts(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    left = iter(items)
    while part := list(islice(left, _PART)):
        yield part
