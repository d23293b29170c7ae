"""Which frozen samples were in the training data, by exact match and by word overlap.

*Exact*: a whole training text, or one string of a training row, equals the sample's prompt, or its prompt followed by a
target, up to case, punctuation and white space. *13-gram*: the two share a run of 13 words, the length used for GPT-3
(Brown et al. 2020, appendix C). As there, runs that are common are taken for boilerplate and left out: those that
occur in more than ten samples of the set, such as an instruction that begins each of its prompts. A sample of fewer
than 13 words is compared exactly only.

A row of JSON lines or Parquet is read string by string, at any depth (`prompt`, `text`, `messages[].content` …), and
neighbouring strings are joined for the 13-grams, so that a prompt split over two fields is found. A text file is read
by paragraph, and for exact matches by line too.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from harness.errors import DataError, at
from harness.records import Sample

N = 13
_COMMON = 10
_WORD = re.compile(r"\w+")
_MAX_LINE_BYTES = 64 * 1024 * 1024

Kind = Literal["exact", "13-gram"]
Row = tuple[int, list[str]]
"""(line or row number, 1-based; the strings to compare)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A frozen sample that training saw: where first, and in how many rows. `shared` is the beginning of the text."""

    sample_id: str
    kind: Kind
    path: Path
    line: int
    shared: str
    rows: int = 1

    def __str__(self) -> str:
        more = f" and {self.rows - 1} more rows" if self.rows > 1 else ""
        return f"{at(self.path, self.line)}{self.kind} match with sample {self.sample_id!r}{more}: {self.shared!r}"


def find(files: Iterable[Path], samples: Sequence[Sample]) -> list[Finding]:
    """Every sample that is in one of `files`, one finding a sample and kind, in the order of the samples.

    A folder stands for the files in it that can be read (`.jsonl`, `.json`, `.parquet`, `.csv`, `.txt`, `.md`).

    Raises:
        DataError: a file is missing, of another kind, or damaged; with file and line.
    """
    index = _Index(samples)
    for path in _expand(files):
        for line, strings in _READERS[path.suffix.lower()](path):
            index.look_up(path, line, strings)
    return index.findings()


class _Index:
    """The frozen side: whole prompts and runs of 13 words, each leading to the samples that hold them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._order = {sample.id: i for i, sample in enumerate(samples)}
        self._exact: dict[str, list[str]] = defaultdict(list)
        runs: dict[str, set[str]] = defaultdict(set)
        for sample in samples:
            for text in _frozen_texts(sample):
                words = _words(text)
                if words:
                    self._exact[" ".join(words)].append(sample.id)
                for run in _runs(words):
                    runs[run].add(sample.id)
        self._runs = {run: ids for run, ids in runs.items() if len(ids) <= _COMMON}
        # A run can only be shared where twelve pairs of neighbours in a row are the samples': cheap to rule out.
        self._neighbours = {pair for run in self._runs for pair in pairwise(run.split(" "))}
        self._found: dict[tuple[str, Kind], Finding] = {}

    def look_up(self, path: Path, line: int, strings: list[str]) -> None:
        """Compare one training row with every sample."""
        hits: dict[tuple[str, Kind], str] = {}
        pieces = [_words(s) for s in strings]
        joined = [word for piece in pieces for word in piece]
        for words in (*pieces, joined):
            text = " ".join(words)
            for sample_id in self._exact.get(text, ()):
                hits.setdefault((sample_id, "exact"), text)
        for run in self._candidate_runs(joined):
            for sample_id in self._runs.get(run, ()):
                hits.setdefault((sample_id, "13-gram"), run)
        for (sample_id, kind), shared in hits.items():
            known = self._found.get((sample_id, kind))
            fresh = Finding(sample_id, kind, path, line, shared[:80])
            self._found[sample_id, kind] = replace(known, rows=known.rows + 1) if known else fresh

    def findings(self) -> list[Finding]:
        """All findings, by sample; the 13-gram finding is left out where the match is exact."""
        kept = [f for f in self._found.values() if f.kind == "exact" or (f.sample_id, "exact") not in self._found]
        return sorted(kept, key=lambda f: self._order[f.sample_id])

    def _candidate_runs(self, words: list[str]) -> Iterator[str]:
        known = self._neighbours
        start = 0
        for i, pair in enumerate(pairwise(words), 1):
            if pair not in known:
                start = i
            elif i - start + 1 >= N:
                yield " ".join(words[i - N + 1 : i + 1])


def _frozen_texts(sample: Sample) -> list[str]:
    texts = [sample.prompt, *(f"{sample.prompt} {target}" for target in sample.targets)]
    # One short turn ("Hello!") says nothing; the last question of a conversation does.
    asked = [m.content for m in sample.messages if m.role == "user"]
    return list(dict.fromkeys([*texts, *asked[-1:]]))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: list[str]) -> Iterator[str]:
    for i in range(len(words) - N + 1):
        yield " ".join(words[i : i + N])


def _expand(files: Iterable[Path]) -> Iterator[Path]:
    for path in files:
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in _READERS and p.is_file()]
            if not inside:
                raise DataError(f"{at(path)}holds no training file; known are {', '.join(sorted(_READERS))}")
            yield from inside
        elif not path.is_file():
            raise DataError(f"{at(path)}no such training file")
        elif path.suffix.lower() not in _READERS:
            raise DataError(f"{at(path)}cannot be read as training data; known are {', '.join(sorted(_READERS))}")
        else:
            yield path


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > _MAX_LINE_BYTES:
                raise DataError(f"{at(path, number)}line longer than {_MAX_LINE_BYTES // 2**20} MiB")
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{at(path, number)}not UTF-8: {error.reason} at byte {error.start}") from error


def _jsonl(path: Path) -> Iterator[Row]:
    for number, text in _lines(path):
        if text.strip():
            yield number, list(_strings(_decoded(path, number, text)))


def _json(path: Path) -> Iterator[Row]:
    """A JSON list: the number is that of the item, because a parsed document has no lines."""
    document = _decoded(path, None, "".join(text for _, text in _lines(path)))
    rows = document if isinstance(document, list) else [document]
    for number, row in enumerate(rows, 1):
        yield number, list(_strings(row))


def _decoded(path: Path, number: int | None, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{at(path, number)}not valid JSON: {error or 'nested too deeply'}") from error


def _csv(path: Path) -> Iterator[Row]:
    reader = csv.reader(text for _, text in _lines(path))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{at(path, reader.line_num)}not valid CSV: {error}") from error


def _text(path: Path) -> Iterator[Row]:
    """Paragraphs; the number is that of the first line."""
    first, paragraph = 0, list[str]()
    for number, text in _lines(path):
        if text.strip():
            first = first if paragraph else number
            paragraph.append(text)
        elif paragraph:
            yield first, paragraph
            paragraph = []
    if paragraph:
        yield first, paragraph


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=_columns_with_text(file.schema_arrow)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, list(_strings(row))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{at(path)}not a Parquet file that can be read: {error}") from error


def _columns_with_text(schema: Any) -> list[str]:
    return [field.name for field in schema if "string" in str(field.type)]


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".txt": _text, ".md": _text,
    ".parquet": _parquet,
}  # fmt: skip
