"""From the sources to rows that may be trained on: read, brought into the normal form, compared, redacted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import redaction
from harness.errors import DataError
from harness.progress import Observer, Silent
from harness.records import Sample
from harness.redaction import presidio
from harness.training.data import rows
from harness.training.data.contamination import FrozenSets, Overlap, Render, refuse
from harness.training.data.formats import EmptyRow, Normaliser
from harness.training.data.reading import Origin, open_source
from harness.training.data.report import CONTAMINATED_NAME, DataReport, SourceReport, overlap_json, write_lines
from harness.training.data.rows import Item
from harness.training.objectives import Row, RowKind
from harness.training.recipe import DataSection, SourceSection


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: rows of one of the `accepted` kinds, none of them in a set of `frozen`.

    `folder` is where relative paths start. `frozen` holds samples by the name of their suite. `chat` says whether the
    model has a chat template, and `render` gives the text that it makes of a row. `out` receives the report's files.
    """

    section: DataSection
    folder: Path
    accepted: frozenset[RowKind]
    frozen: Mapping[str, Sequence[Sample]]
    seed: int
    chat: bool = False
    render: Render | None = None
    out: Path | None = None
    observer: Observer = field(default_factory=Silent)


class Intake:
    """Reads all sources, one row at a time, and keeps what may be trained on."""

    def __init__(self, request: Request, report: DataReport) -> None:
        self._request, self._report, self._section = request, report, request.section
        self._frozen = FrozenSets(request.frozen, request.render)
        self._finders = [presidio.finder()] if self._section.presidio and self._section.redact != "off" else []
        self._allowed = set(self._section.allow_contaminated)
        self._refused: list[Overlap] = []
        report.replaced = self._section.redact == "replace"

    def items(self) -> list[Item]:
        """All rows that may be trained on, in the order of the sources, those of the replay last."""
        replay = self._section.replay.sources if self._section.replay else ()
        sections = [*((s, False) for s in self._section.train), *((s, True) for s in replay)]
        kept = [item for number, (s, again) in enumerate(sections) for item in self._source(number, s, again)]
        self._refuse()
        for name in sorted(self._allowed):
            self._report.remark("note", f"allow_contaminated names {name}, which overlaps with no frozen sample")
        if self._section.redact == "off":
            self._report.remark("note", "personal data and secrets were not looked for (redact: off)")
        return kept

    def _source(self, number: int, section: SourceSection, replay: bool) -> Iterator[Item]:
        source = open_source(section, self._request.folder)
        self._request.observer.stage(f"reading {source.name}")
        normaliser = Normaliser(self._request.accepted, self._request.chat)
        read = 0
        for origin, values in source.rows():
            read += 1
            try:
                row = normaliser.row(origin, values)
            except EmptyRow as error:
                self._report.drop(origin, number, "empty", str(error))
                continue
            if self._may_stay(origin, number, row):
                yield Item(self._redacted(origin, row), origin, number)
        shape = normaliser.shape
        if shape is None:
            raise DataError(f"{source.name} holds no row; take the source out, or give it rows")
        if normaliser.conversational is None:
            raise DataError(f"{source.name}: all {read} rows are empty: {self._report.dropped[-1].detail}")
        self._report.sources.append(
            SourceReport(
                source.name, replay, shape.kind, shape.name, normaliser.conversational, shape.foreign,
                tuple(sorted(normaliser.unused)), source.hashes, read,
            )
        )  # fmt: skip
        self._tell(self._report.sources[-1], source.ignored)

    def _tell(self, source: SourceReport, ignored: Sequence[str]) -> None:
        form = "conversations" if source.conversational else "texts"
        became = f", converted to {source.kind} rows" if source.converted else ""
        unused = f"; not used: columns {', '.join(source.unused_columns)}" if source.unused_columns else ""
        self._report.remark("note", f"{source.name}: format {source.format} ({form}){became}{unused}")
        if ignored:
            self._report.remark("warning", f"{source.name}: files without rows were passed over: {', '.join(ignored)}")

    def _may_stay(self, origin: Origin, number: int, row: Row) -> bool:
        overlaps = self._frozen.overlaps(origin, row)
        if not overlaps:
            return True
        name = str(origin)
        if name in self._section.allow_contaminated:
            self._allowed.discard(name)
            self._report.allowed += overlaps
            return True
        if self._section.contaminated == "drop":
            what = ", ".join(f"{o.set}/{o.sample_id} ({o.kind})" for o in overlaps)
            self._report.drop(origin, number, "contaminated", what)
        else:
            self._refused += overlaps
        return False

    def _refuse(self) -> None:
        out, listed = self._request.out, None
        if self._refused and out is not None:
            listed = str(write_lines(out / CONTAMINATED_NAME, [overlap_json(o) for o in self._refused]))
        refuse(self._refused, listed)

    def _redacted(self, origin: Origin, row: dict[str, object]) -> dict[str, object]:
        if self._section.redact == "off":
            return row
        found = [redaction.redact(text, self._finders) for text in rows.strings(row)]
        if not any(counts for _, counts in found):
            return row
        for _, counts in found:
            self._report.redacted(origin, counts)
        if self._section.redact == "report":
            return row
        texts = iter(text for text, _ in found)
        changed: dict[str, object] = rows.map_strings(row, lambda _: next(texts))
        return changed
