"""What became of every row: counts, a table for a terminal, and files that list each row that was dropped and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from harness import runs
from harness.training.data.contamination import Overlap
from harness.training.data.reading import Origin
from harness.training.objectives import RowKind

REPORT_NAME = "data.json"
DROPPED_NAME = "dropped.jsonl"
CONTAMINATED_NAME = "contaminated.jsonl"

Reason = Literal["empty", "contaminated", "same answers", "exact duplicate", "near-duplicate", "replay like validation"]
Level = Literal["note", "warning", "error"]
_LISTED = 10


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not trained on; `detail` names the other row, sample or column."""

    origin: Origin
    source: int
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that a reader has to know: a note, a warning, or an error that the training survives."""

    level: Level
    text: str


@dataclass(slots=True)
class SourceReport:
    """One source: its stated format, and how many of its rows went where.

    Every row that was `read` was dropped, is in training or in validation, or was not drawn (`unused`).
    """

    name: str
    replay: bool
    kind: RowKind
    format: str
    conversational: bool
    converted: bool
    unused_columns: tuple[str, ...]
    hashes: dict[str, str]
    read: int
    train: int = 0
    validation: int = 0
    unused: int = 0


@dataclass(slots=True)
class Redactions:
    """Finds of one kind: how many, and the rows that they are in, in order."""

    count: int = 0
    rows: list[Origin] = field(default_factory=list)


@dataclass(slots=True)
class Realised:
    """What was asked for and what came of it; shares are of all training rows, and of all rows for validation."""

    train: int = 0
    validation: int = 0
    validation_wanted: float = 0.0
    validation_share: float = 0.0
    replay: int = 0
    replay_wanted: float = 0.0
    replay_share: float = 0.0
    replay_repeated: int = 0


@dataclass(slots=True)
class DataReport:
    """Everything that preparing the rows of one stage found and did. `hashes`: SHA-256 of the prepared rows."""

    seed: int
    settings: dict[str, Any]
    sources: list[SourceReport] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    redactions: dict[str, Redactions] = field(default_factory=dict)
    replaced: bool = False
    allowed: list[Overlap] = field(default_factory=list)
    alike: list[tuple[Origin, float]] = field(default_factory=list)
    contradictions: list[tuple[Origin, Origin]] = field(default_factory=list)
    realised: Realised = field(default_factory=Realised)
    hashes: dict[str, str] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def drop(self, origin: Origin, source: int, reason: Reason, detail: str) -> None:
        """Write down that a row is not trained on."""
        self.dropped.append(Dropped(origin, source, reason, detail))

    def remark(self, level: Level, text: str) -> None:
        """Add a remark."""
        self.remarks.append(Remark(level, text))

    def redacted(self, origin: Origin, counts: Counter[str]) -> None:
        """Write down what was found in a row."""
        for kind, count in counts.items():
            found = self.redactions.setdefault(kind, Redactions())
            found.count += count
            found.rows.append(origin)

    @property
    def errors(self) -> list[str]:
        """The remarks that somebody has to act on."""
        return [remark.text for remark in self.remarks if remark.level == "error"]

    def count(self, reason: Reason) -> int:
        """Rows dropped for a reason."""
        return sum(row.reason == reason for row in self.dropped)

    def table(self) -> tuple[list[str], list[list[str | int]]]:
        """Header and rows, a row a source; a reason has a column where it dropped anything."""
        reasons = [r for r in get_args(Reason) if self.count(r)]
        tally = Counter((row.source, row.reason) for row in self.dropped)
        header = ["source", "format", "read", *reasons, "unused", "validation", "training"]
        body: list[list[str | int]] = [
            [
                f"{s.name} (replay)" if s.replay else s.name, s.format, s.read, *(tally[i, r] for r in reasons),
                s.unused, s.validation, s.train,
            ]
            for i, s in enumerate(self.sources)
        ]  # fmt: skip
        return header, body

    def text(self) -> str:
        """The report for a terminal: the table, what was realised, finds, and remarks."""
        lines = _aligned(*self.table())
        done = self.realised
        lines.append(f"training {done.train} rows, validation {done.validation} ({done.validation_share:.1%} of all)")
        if done.replay_wanted:
            lines.append(f"replay {done.replay_share:.1%} of the training rows ({done.replay_wanted:.1%} asked for)")
        did = "replaced" if self.replaced else "found and left"
        for kind, found in sorted(self.redactions.items()):
            rows = "1 row" if len(found.rows) == 1 else f"{len(found.rows)} rows"
            lines.append(f"{kind}: {found.count} {did}, in {rows}: {_some(found.rows)}")
        lines += [f"{remark.level}: {remark.text}" for remark in self.remarks]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Everything but the dropped rows themselves, of which the counts are given."""
        return {
            "seed": self.seed,
            "settings": self.settings,
            "sources": [_fields(s) for s in self.sources],
            "dropped": {reason: self.count(reason) for reason in get_args(Reason)},
            "redactions": {
                kind: {"count": found.count, "replaced": self.replaced, "rows": [str(o) for o in found.rows]}
                for kind, found in sorted(self.redactions.items())
            },
            "allowed_contaminated": [overlap_json(o) for o in self.allowed],
            "alike_pairs": [{"row": str(o), "similarity": round(s, 4)} for o, s in self.alike],
            "contradictions": [[str(a), str(b)] for a, b in self.contradictions],
            "realised": _fields(self.realised),
            "hashes": self.hashes,
            "remarks": [_fields(r) for r in self.remarks],
        }

    def write(self, folder: Path) -> list[Path]:
        """Write `data.json` and `dropped.jsonl` into a folder; returns their paths.

        Raises:
            StorageError: the folder cannot be written.
        """
        runs.write_text(folder / REPORT_NAME, json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n")
        rows = [{"row": str(d.origin), "reason": d.reason, "detail": d.detail} for d in self.dropped]
        return [folder / REPORT_NAME, write_lines(folder / DROPPED_NAME, rows)]


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    runs.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def overlap_json(overlap: Overlap) -> dict[str, str]:
    """An overlap, JSON-ready."""
    return {
        "row": str(overlap.origin), "set": overlap.set, "sample": overlap.sample_id, "kind": overlap.kind,
        "shared": overlap.shared,
    }  # fmt: skip


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _some(origins: Sequence[Origin]) -> str:
    return ", ".join(str(o) for o in origins[:_LISTED]) + (" …" if len(origins) > _LISTED else "")


def _aligned(header: Sequence[str], body: Sequence[Sequence[str | int]]) -> list[str]:
    """Columns of equal width; numbers to the right."""
    widths = [max(len(str(row[i])) for row in (header, *body)) for i in range(len(header))]
    numeric = [all(isinstance(row[i], int) for row in body) for i in range(len(header))]

    def line(cells: Sequence[str | int]) -> str:
        padded = (str(c).rjust(w) if n else str(c).ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return [line(header), *(line(row) for row in body)]
