"""Files that other tools wrote, taken into a store: redacted, kept and counted like what a receiver takes in"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from harness.traces.importing import Imported, read_files
from harness.traces.store import Store

_TOGETHER = 500  # records between two waits for the disk


@dataclass(frozen=True, slots=True)
class Filled:
    """What came of an import. `rejected` counts spans and events by reason, `damaged` holds what is wrong with records.

    A span that the store holds already is kept once, so importing a file again adds nothing.
    """

    spans: int
    events: int
    rejected: Mapping[str, int]
    damaged: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "spans": self.spans, "events": self.events, "rejected": dict(self.rejected), "damaged": list(self.damaged),
        }  # fmt: skip


def fill(store: Store, tenant: str, paths: Sequence[Path], source: str | None = None) -> Filled:
    """Import files for a tenant; what was appended before an error stays, and the same command goes on.

    Args:
        store: an open store.
        tenant: whose traces these are; nothing in a file says that.
        paths: files in any of the formats of `harness.traces.importing`.
        source: the format; found out by the files' first record where it is None.

    Raises:
        TraceError: a file is in none of the formats, or cannot be read.
        ConfigError: `tenant` is no name.
        StorageError: the store cannot keep more.
    """
    damaged: list[str] = []
    spans = events = 0
    rejected = Counter[str]()
    read = read_files(paths, source, on_damage=damaged.append)
    for together in _batches(read):
        rejected.update(store.append(tenant, *_flat(together)))
        for record in together:
            rejected.update(record.rejected)
            spans, events = spans + len(record.spans), events + len(record.events)
    store.compact()
    return Filled(spans, events, rejected, tuple(damaged))


def _flat(records: Sequence[Imported]) -> tuple[list[Any], list[Any]]:
    return [s for r in records for s in r.spans], [e for r in records for e in r.events]


def _batches(records: Iterable[Imported]) -> Iterator[list[Imported]]:
    waiting = iter(records)
    while together := list(islice(waiting, _TOGETHER)):
        yield together
