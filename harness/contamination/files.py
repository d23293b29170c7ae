"""Training files as they are: one record after the other, each with its line, and an error for a damaged one.

A line is that of the file for JSON lines, CSV and text; the number of the item (from 1) for a JSON list, and of the row
(from 1) for Parquet. Files are read as streams, except JSON, which has to be parsed whole.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import DataError, at

_MAX_LINE_BYTES = 64 * 1024 * 1024
_PARQUET_ROWS = 1024

Row = tuple[int, list[str]]
"""(line or row number, 1-based; the strings in it)."""


def expand(paths: Iterable[Path], suffixes: Iterable[str]) -> Iterator[Path]:
    """The files among `paths`, and those in folders among them that end in one of `suffixes`, in the order of names.

    Raises:
        DataError: a path does not exist, ends otherwise, or is a folder without such a file.
    """
    known = sorted(suffixes)
    for path in paths:
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in known and p.is_file()]
            if not inside:
                raise DataError(f"{at(path)}holds no training file; known are {', '.join(known)}")
            yield from inside
        elif not path.is_file():
            raise DataError(f"{at(path)}no such training file")
        elif path.suffix.lower() not in known:
            raise DataError(f"{at(path)}cannot be read as training data; known are {', '.join(known)}")
        else:
            yield path


def records(path: Path) -> Iterator[tuple[int, Any]]:
    """Every record of a JSON lines, JSON or Parquet file (`RECORDS`) with its line; blank lines are none.

    Raises:
        DataError: the file is damaged; with file and line.
    """
    return RECORDS[path.suffix.lower()](path)


def strings(path: Path) -> Iterator[Row]:
    """Every record of a file (`STRINGS`) as the strings in it, at any depth; a text file is read by paragraph.

    Raises:
        DataError: the file is damaged; with file and line.
    """
    return STRINGS[path.suffix.lower()](path)


def strings_in(value: Any) -> Iterator[str]:
    """The strings in a decoded record, at any depth, in order; keys do not count."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings_in(inner)


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


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    for number, text in _lines(path):
        if text.strip():
            yield number, _decoded(path, number, text)


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    document = _decoded(path, None, "".join(text for _, text in _lines(path)))
    yield from enumerate(document if isinstance(document, list) else [document], 1)


def _decoded(path: Path, number: int | None, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{at(path, number)}not valid JSON: {error or 'nested too deeply'}") from error


def _parquet(path: Path, *, only_text: bool = False) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            columns = _columns_with_text(file.schema_arrow) if only_text else None
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{at(path)}not a Parquet file that can be read: {error}") from error


def _columns_with_text(schema: Any) -> list[str]:
    return [field.name for field in schema if "string" in str(field.type)]


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


def _strings_of(read: Callable[[Path], Iterator[tuple[int, Any]]]) -> Callable[[Path], Iterator[Row]]:
    return lambda path: ((number, list(strings_in(record))) for number, record in read(path))


RECORDS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet,
}  # fmt: skip
STRINGS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _strings_of(_jsonl), ".ndjson": _strings_of(_jsonl), ".json": _strings_of(_json), ".csv": _csv,
    ".txt": _text, ".md": _text, ".parquet": _strings_of(lambda path: _parquet(path, only_text=True)),
}  # fmt: skip
