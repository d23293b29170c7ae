"""Rows of a source as they are: files, folders of files, Hugging Face datasets. Every row knows where it is from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import plugins
from harness.contamination import files
from harness.errors import DataError, PluginError, at, nearest
from harness.training.recipe import SourceSection

_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves in a folder


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row stands: `train.jsonl:17` (line, or number of the item, from 1) or `name[16]` (index, from 0)."""

    place: str
    number: int
    indexed: bool = False

    def __str__(self) -> str:
        return f"{self.place}[{self.number}]" if self.indexed else f"{self.place}:{self.number}"


RawRow = tuple[Origin, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class OpenSource:
    """A source that can be read: `rows()` yields each row once, with `columns` of the recipe applied.

    `name` is what the recipe calls it. `hashes` holds the SHA-256 of every file; that of a dataset's rows, as they were
    read, is in it once they are. `ignored` are files of a folder that hold no rows.
    """

    name: str
    rows: Callable[[], Iterator[RawRow]]
    hashes: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


def open_source(section: SourceSection, folder: Path) -> OpenSource:
    """The source that a section names; relative paths start at `folder`. One row is held at a time.

    Raises:
        DataError: there is no such file or dataset, it is damaged (at once or when its rows are read), or a column of
            `columns` is missing.
        PluginError: `datasets` is not installed.
    """
    source = _open_files(section, folder) if section.path is not None else _open_dataset(section, folder)
    if not section.columns:
        return source
    return OpenSource(source.name, lambda: _renamed(source.rows(), section.columns), source.hashes, source.ignored)


def _renamed(rows: Iterator[RawRow], columns: Mapping[str, str]) -> Iterator[RawRow]:
    for origin, row in rows:
        for source in columns.values():
            if source not in row:
                raise DataError(f"{origin}: no column {source!r}, which `columns` names: {nearest(source, row)}")
        mapped = {ours: row[source] for ours, source in columns.items()}
        yield origin, {**{k: v for k, v in row.items() if k not in columns.values()}, **mapped}


# ---------------------------------------------------------------- files


def _open_files(section: SourceSection, folder: Path) -> OpenSource:
    name = str(section.path)
    root = folder / name
    found = list(files.expand([root], files.RECORDS))
    shown = {
        path: name if path == root else f"{name.rstrip('/')}/{path.relative_to(root).as_posix()}" for path in found
    }
    try:
        hashes = {shown[path]: _sha256(path) for path in found}
    except OSError as error:
        raise DataError(f"{at(root)}cannot be read: {error}") from error
    ignored = () if root.is_file() else tuple(_others(root, found))
    return OpenSource(name, lambda: _file_rows(shown), hashes, ignored)


def _others(root: Path, found: list[Path]) -> list[str]:
    return [p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.is_file() and p not in found]


def _file_rows(shown: Mapping[Path, str]) -> Iterator[RawRow]:
    for path, name in shown.items():
        try:
            for number, record in files.records(path):
                if not isinstance(record, dict):
                    kind = type(record).__name__
                    raise DataError(f"{Origin(name, number)}: expected an object with named columns, found {kind}")
                yield Origin(name, number), record
        except OSError as error:
            raise DataError(f"{at(path)}cannot be read: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- datasets


def _open_dataset(section: SourceSection, folder: Path) -> OpenSource:
    name = str(section.dataset)
    loaded = _load(section, folder)
    label = name if section.subset is None else f"{name}/{section.subset}"
    hashes: dict[str, str] = {}

    def rows() -> Iterator[RawRow]:
        digest = hashlib.sha256()
        names = {k: f.int2str for k, f in loaded.features.items() if hasattr(f, "int2str")}
        for index, row in enumerate(loaded):
            for column, to_name in names.items():  # a class is written as its name; -1 stands for none
                row[column] = None if row[column] in (None, -1) else to_name(row[column])
            digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
            yield Origin(label, index, indexed=True), row
        hashes[f"{label}[{section.split}]"] = digest.hexdigest()

    return OpenSource(label, rows, hashes)


def _load(section: SourceSection, folder: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PluginError(plugins.missing_extra("a source of kind dataset", error)) from error
    path = folder / str(section.dataset)
    saved = path.is_dir() and any((path / name).is_file() for name in _SAVED)
    try:
        if saved:
            return _choose_split(datasets.load_from_disk(str(path)), section, path)
        where = str(path) if path.exists() else str(section.dataset)
        return datasets.load_dataset(where, section.subset, split=section.split, revision=section.revision)
    except DataError:
        raise
    except Exception as error:  # the library raises a dozen kinds for a name, a network and a file
        said = str(error).strip() or type(error).__name__
        way_out = "check dataset, subset and split, or load it once with a network and `save_to_disk` it to a folder"
        raise DataError(f"dataset {section.dataset!r} cannot be loaded: {said}; {way_out}") from error


def _choose_split(loaded: Any, section: SourceSection, path: Path) -> Any:
    if not isinstance(loaded, dict):  # a Dataset; a DatasetDict is a dict
        if section.split != "train":
            raise DataError(f"{at(path)}was saved without splits, so there is no split {section.split!r}; leave it out")
        return loaded
    if section.split not in loaded:
        raise DataError(f"{at(path)}no split {section.split!r}: {nearest(section.split, loaded)}")
    return loaded[section.split]
