"""Files of traces that other tools wrote, as spans and log events: the sources of `harness shadow import`

A source is one file in this package, found by its name. It holds `Options` (none so far) and `build(options)`, which
gives a `Source`: it says whether a record is one of its own, and its reader turns records into spans and log events,
which go the same way as what a receiver takes in. Files are JSON lines or one JSON document, either of them packed
with gzip or zstd; Parquet; or the Collector's length-prefixed frames. What a file is shows in its first bytes, not in
its name. Lines count from 1, and so do rows, frames and the items of a document that is a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from harness import plugins
from harness.errors import TraceError, at, nearest
from harness.traces.importing._files import Records, records
from harness.traces.records import LogEvent, Span


class NoOptions(BaseModel):
    """A source without options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Imported:
    """What one record held. `line` is where it stood; `rejected` counts spans that were left out, by reason."""

    path: Path
    line: int
    spans: tuple[Span, ...] = ()
    events: tuple[LogEvent, ...] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a reader makes of one record."""

    spans: Iterable[Span] = ()
    events: Iterable[LogEvent] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)


class Reader(Protocol):
    """Reads the records of one import, of all its files, in order."""

    def take(self, record: Any) -> Taken:
        """What one record holds; raises ValueError saying what is wrong with it."""
        ...

    def finish(self) -> Taken:
        """What had to wait for the end, such as requests whose answers never came."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """A format. `described` says in a few words what it is; `recognise` whether a record looks like one of its own."""

    name: str
    described: str
    recognise: Callable[[Any], bool]
    start: Callable[[], Reader]


def sources() -> tuple[Source, ...]:
    """Every source there is.

    Raises:
        PluginError: one of them does not import or is no plugin.
    """
    return plugins.all_of("traces.importing")


def detect(path: Path) -> Source:
    """The source that wrote a file, by the first of its records.

    Raises:
        TraceError: no record can be read, or no source knows it.
    """
    for line, record in records(path, on_damage=lambda _: None):
        known = [source for source in sources() if source.recognise(record)]
        if known:
            return known[0]
        formats = "; ".join(f"{s.name}: {s.described}" for s in sources())
        raise TraceError(f"{at(path, line)}no known format of traces ({_outline(record)}). Known are {formats}")
    raise TraceError(f"{at(path)}holds no record")


def read_files(
    paths: Iterable[Path], source: str | None = None, on_damage: Callable[[str], None] | None = None
) -> Iterator[Imported]:
    """Everything in files of one source, record by record; `source` is found out per file unless it is named.

    With `on_damage` a record that cannot be read is told to it (file, line and reason) and left out; without, it is an
    error. A file that cannot be read as a file is always an error.

    Raises:
        TraceError: no such source, no such format, or a damaged record; with file and line.
    """
    readers: dict[str, Reader] = {}
    last = Imported(Path(), 0)
    for path in paths:
        chosen = _named(source) if source else detect(path)
        reader = readers.setdefault(chosen.name, chosen.start())
        for line, record in records(path, on_damage):
            try:
                taken = reader.take(record)
            except ValueError as error:
                _damaged(f"{at(path, line)}{error}", on_damage)
                continue
            last = _imported(path, line, taken)
            if last.spans or last.events or last.rejected:
                yield last
    for reader in readers.values():
        rest = _imported(last.path, last.line, reader.finish())
        if rest.spans or rest.events:
            yield rest


def _named(source: str) -> Source:
    known = {s.name: s for s in sources()}
    if source not in known:
        raise TraceError(f"no source of traces {source!r}: {nearest(source, known)}")
    return known[source]


def _imported(path: Path, line: int, taken: Taken) -> Imported:
    return Imported(path, line, tuple(taken.spans), tuple(taken.events), taken.rejected)


def _damaged(message: str, on_damage: Callable[[str], None] | None) -> None:
    if on_damage is None:
        raise TraceError(message)
    on_damage(message)


def _outline(record: Any) -> str:
    if isinstance(record, Mapping):
        return f"an object with {', '.join(sorted(map(str, record))[:8]) or 'no keys'}"[:200]
    return f"a {type(record).__name__}"


__all__ = ["Imported", "NoOptions", "Reader", "Records", "Source", "Taken", "detect", "read_files", "sources"]
