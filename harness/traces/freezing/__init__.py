"""Freezing: a sample of stored calls becomes a golden set, hashed and locked before any candidate has answered it

Whole sessions are drawn in the order of a keyed hash, so many of each stratum as is its share of the stream; calls that
cannot be asked again, near-duplicates, what exceeds the caps, and what a training has seen are left out, each counted
by its reason. What is written is a golden set like any other (`harness.goldens`), with its provenance beside it.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness import contamination
from harness.errors import ConfigError, DataError
from harness.goldens import names
from harness.traces.freezing import _writing
from harness.traces.freezing._album import Album, LeftOut
from harness.traces.freezing._drawing import COLUMNS, Drawing, Session, quotas
from harness.traces.freezing._feedback import Liking
from harness.traces.freezing._fetching import hosts_of
from harness.traces.freezing._late import LateFeedback
from harness.traces.freezing._near import Near
from harness.traces.freezing._results import results_for
from harness.traces.freezing._rows import Row, RowOptions, asked_last, line_of, pictures_of, row_of, sample_of
from harness.traces.freezing._strata import DEFAULT, Strata, columns_of
from harness.traces.records import Call
from harness.traces.store import MIRRORED, Store

__all__ = ["DEFAULT", "FreezeOptions", "Freezing", "Liking", "freeze"]

_BATCH = 1024  # calls that are in memory at a time


@dataclass(frozen=True, slots=True)
class FreezeOptions:
    """What is frozen. Days are UTC, both included; None lifts a cap; `likeness` above 1 keeps near-duplicates.

    `at_least` so many calls come from every stratum that has them: the rare are then seen, and the set's mean is no
    longer that of the stream. `greedy` asks without sampling, whatever was recorded. `max_tokens` holds where a call
    recorded none. The order of sessions depends on `name`, `version` and `seed`, on nothing that is seen later.
    Pictures at an address are fetched from `images_from` alone, hosts that are named exactly (`cdn.example.com`).
    """

    name: str
    version: str = "1"
    samples: int = 1000
    tenant: str | None = None
    days: tuple[str, str] | None = None
    models: tuple[str, ...] = ()
    by: tuple[str, ...] = DEFAULT
    at_least: int = 0
    per_session: int | None = 10
    per_user: int | None = 20
    likeness: float = 0.8
    seed: int = 0
    training: tuple[Path, ...] = ()
    greedy: bool = False
    liking: Liking = field(default_factory=Liking)
    max_tokens: int = 1024
    images_from: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def salt(self) -> str:
        """The key of every hash by which is drawn."""
        return f"{self.reference}:{self.seed}"


@dataclass(frozen=True, slots=True)
class Freezing:
    """What was frozen. `calls = samples + Σ left_out`; `strata` has (calls to draw from, frozen) by name."""

    reference: str
    folder: Path
    samples: int
    sessions: int
    calls: int
    left_out: Mapping[str, int]
    strata: Mapping[str, tuple[int, int]]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        strata = {name: {"calls": calls, "frozen": frozen} for name, (calls, frozen) in self.strata.items()}
        counts = {"samples": self.samples, "sessions": self.sessions, "calls": self.calls}
        return {"set": self.reference, "folder": str(self.folder), **counts, "left_out": dict(self.left_out),
                "strata": strata}  # fmt: skip


def freeze(store: Store, root: Path, options: FreezeOptions) -> Freezing:
    """Draw, write `root/<name>/<version>/` and lock it.

    Raises:
        ConfigError: the version exists, the store holds several tenants and none is named, or an option is wrong.
        DataError: no call is left, or a file of training data cannot be read.
        StorageError: the store cannot be read, or the set not be written.
    """
    _check(store, root, options)
    hosts = hosts_of(options.images_from)
    table = store.candidates(options.tenant, days=options.days, columns=[*COLUMNS, *columns_of(options.by)])
    with tempfile.TemporaryDirectory(prefix="pictures-") as spool:
        draw = _Draw(store, table, options, Album(Path(spool), hosts))
        draw.run()
        if not draw.kept:
            raise DataError(f"no call of the store can be frozen: {_in_words(draw.left_out)}")
        folder = _writing.write(root, options, draw)
    kept = Counter(item.stratum for item in draw.kept)
    strata = {draw.strata.name(code): (count, kept[code]) for code, count in sorted(draw.shares.items())}
    sessions = len({item.session for item in draw.kept})
    return Freezing(
        options.reference, folder, len(draw.kept), sessions, len(table), dict(draw.left_out.most_common()), strata
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """A call that could be frozen."""

    session: int
    stratum: int
    user: str
    signature: int
    request: str
    row: Row
    line: bytes
    time_ns: int


class _Draw:
    """One draw: what was kept so far, and what was left out for which reason."""

    def __init__(self, store: Store, table: Any, options: FreezeOptions, album: Album) -> None:
        self.table, self.options, self.album = table, options, album
        self.kept: list[_Item] = []
        self.left_out: Counter[str] = Counter()
        self.strata = Strata(table, options.by)
        self._store = store
        wanted = self._wanted()
        self._drawing = Drawing(table, wanted, self.strata, options.salt, options.per_session)
        self.shares, self.largest = self._drawing.shares(), self._drawing.largest()
        self._room = quotas(self.shares, options.samples, options.at_least)
        self._near = Near(options.likeness)
        self._late = LateFeedback(store)
        self._users: Counter[str] = Counter()
        self._requests: set[tuple[int, str]] = set()
        self._spare: list[_Item] = []

    def run(self) -> None:
        """Draw until there are enough, or no session is left."""
        skipped: list[Session] = []
        self._take(self._drawing.sessions(), skipped)
        if len(self.kept) < self.options.samples:
            # Some stratum had less to give than its share; the others make up for it, in the same order.
            self._room = dict.fromkeys(self.shares, self.options.samples)
            spare, self._spare = self._spare, []
            self._accept(spare)
            self._take(iter(skipped), [])
        self.kept.sort(key=lambda item: (item.time_ns, item.row["id"]))
        counted = len(self.kept) + self.left_out.total()
        if left := len(self.table) - counted:
            self.left_out["not drawn"] += left

    def _wanted(self) -> Any:
        """Which rows may be drawn; the others are counted."""
        import pyarrow.compute as pc

        wanted = self.table["replayable"].to_numpy(zero_copy_only=False).astype(bool)
        obstacles = self.table.filter(pc.invert(self.table["replayable"]))["reason"]
        self.left_out.update(
            {f"not replayable: {v['values']}": v["counts"] for v in obstacles.value_counts().to_pylist()}
        )
        copies = wanted & (self.table["service"].to_numpy(zero_copy_only=False) == MIRRORED)
        self.left_out.update({"copied to a candidate": int(np.count_nonzero(copies))} if copies.any() else {})
        wanted = wanted & ~copies
        if self.options.models:
            import pyarrow as pa

            asked = pc.is_in(self.table["model"], value_set=pa.array(self.options.models))
            other = wanted & ~asked.to_numpy(zero_copy_only=False).astype(bool)
            self.left_out.update({"of another model": int(np.count_nonzero(other))} if other.any() else {})
            wanted = wanted & ~other
        return wanted

    def _take(self, sessions: Iterator[Session], skipped: list[Session]) -> None:
        while len(self.kept) < self.options.samples:
            batch = self._batch(sessions, skipped)
            if not batch:
                return
            self._accept(self._read(batch))

    def _batch(self, sessions: Iterator[Session], skipped: list[Session]) -> list[Session]:
        """The next sessions whose strata have room, as many as are likely to be enough."""
        planned: Counter[int] = Counter()
        batch: list[Session] = []
        missing = min(_BATCH, self.options.samples - len(self.kept))
        while planned.total() < missing and (session := next(sessions, None)) is not None:
            if planned[session.stratum] >= self._room[session.stratum]:
                skipped.append(session)
                continue
            planned[session.stratum] += len(session.eligible)
            batch.append(session)
        return batch

    def _read(self, batch: Sequence[Session]) -> list[_Item]:
        """The calls of sessions that can be frozen, in order; the others are counted."""
        rows = [row for session in batch for row in (*session.eligible, *session.helpers)]
        calls = dict(zip(rows, self._late.added(list(self._store.fetch(self.table.take(rows)))), strict=True))
        items = []
        for session in batch:
            if session.capped:
                self.left_out["more calls of one session than are taken"] += session.capped
            around = sorted((calls[r] for r in (*session.eligible, *session.helpers)), key=lambda c: c.time_ns)
            for row in session.eligible:
                try:
                    items.append(self._item(session, row, calls[row], around))
                except LeftOut as reason:
                    self.left_out[str(reason)] += 1
        return self._untrained(items)

    def _item(self, session: Session, row: int, call: Call, around: Sequence[Call]) -> _Item:
        tags = self.strata.tags(int(self.strata.codes[row]))
        results = results_for(call, around) if call.tools else {}
        made = row_of(call, results, tags, RowOptions(self.options.greedy, self.options.liking), self.album)
        # Words alone do not tell two questions apart that are about two pictures.
        signature = int(self.table["signature"][row].as_py()) ^ _seen(pictures_of(made))
        return _Item(
            session.key, session.stratum, call.user, signature, call.request_hash, made, line_of(made), call.time_ns
        )

    def _untrained(self, items: list[_Item]) -> list[_Item]:
        if not self.options.training or not items:
            return items
        found = contamination.find(self.options.training, [sample_of(item.row) for item in items])
        seen = {finding.sample_id for finding in found}
        if seen:
            self.left_out["in the training data"] += len(seen)
        return [item for item in items if item.row["id"] not in seen]

    def _accept(self, items: Sequence[_Item]) -> None:
        for item in items:
            if len(self.kept) >= self.options.samples or self._room[item.stratum] <= 0:
                self._spare.append(item)
            elif reason := self._refusal(item):
                self.left_out[reason] += 1
            else:
                self._keep(item)

    def _refusal(self, item: _Item) -> str:
        if (item.session, item.request) in self._requests:
            return "asked before in the same session"
        most = self.options.per_user
        if most is not None and item.user and self._users[item.user] >= most:
            return "more calls of one user than are taken"
        seen = self._near.seen(item.signature, asked_last(item.row), item.session)
        return "nearly what another session asked" if seen else ""

    def _keep(self, item: _Item) -> None:
        self.kept.append(item)
        self._room[item.stratum] -= 1
        self._users[item.user] += 1
        self._requests.add((item.session, item.request))
        self._near.add(item.signature, asked_last(item.row), item.session)


def _seen(pictures: Sequence[str]) -> int:
    """64 bits of pictures; 0 for none."""
    return int.from_bytes(hashlib.blake2b("".join(pictures).encode(), digest_size=8).digest()) if pictures else 0


def _check(store: Store, root: Path, options: FreezeOptions) -> None:
    names.check_name(options.name)
    names.check_version(options.version)
    if (root / options.name / options.version).exists():
        raise ConfigError(
            f"{root / options.name / options.version}: exists already, and what is frozen cannot change; give another "
            "--version"
        )
    tenants = store.tenants()
    if options.tenant is None and len(tenants) > 1:
        raise ConfigError(f"the store holds several tenants ({', '.join(tenants)}); say which one with --tenant")
    if options.tenant is not None and options.tenant not in tenants:
        raise ConfigError(
            f"the store holds nothing of tenant {options.tenant!r}; it has {', '.join(tenants) or 'none'}"
        )
    if options.samples < 1:
        raise ConfigError("at least one sample has to be asked for")


def _in_words(left_out: Mapping[str, int]) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in left_out.items()) or "there is none"
