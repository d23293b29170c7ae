"""Segments: Parquet files on any file system that fsspec knows, written whole or not at all"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import PluginError, StorageError
from harness.plugins import missing_extra
from harness.traces.store._catalogue import Segment, Table
from harness.traces.store._journal import sync_folder

ROW_GROUP = 512  # small, because a sample reads single calls out of many groups
Row = dict[str, Any]

_COMMON = {"tenant": "string", "trace_id": "binary", "span_id": "binary", "received_ns": "int64", "run": "int64"}
COLUMNS: Mapping[Table, Mapping[str, str]] = {
    "spans": {
        **_COMMON, "parent_id": "binary", "name": "string", "start_ns": "int64", "end_ns": "int64",
        "user_key": "string", "service": "string", "message": "binary",
    },
    "logs": {**_COMMON, "start_ns": "int64", "name": "string", "digest": "binary", "message": "binary"},
    "calls": {
        **_COMMON, "start_ns": "int64", "session_key": "uint64", "session": "string", "user_key": "string",
        "service": "string", "model": "string", "model_answered": "string", "operation": "string", "dialect": "string",
        "run_id": "string", "replayable": "bool", "reason": "string", "setting": "string", "error": "string",
        "n_messages": "int32", "n_tools": "int32", "input_tokens": "int64", "output_tokens": "int64",
        "latency": "double", "request_hash": "string", "signature": "uint64", "call": "string",
    },
}  # fmt: skip
"""Columns of each table. `message` is an OTLP request with this one record; `call` is JSON (`Call.as_json`). Ids are
bytes as in OTLP, times nanoseconds since 1970, `run` is the compaction that wrote the row."""


def day_of(time_ns: int) -> str:
    """The day (UTC) of a time, `2026-11-26`."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d")


class Segments:
    """The folder of segments at an fsspec URL (a plain path is one)."""

    def __init__(self, url: str) -> None:
        """Open the folder.

        Raises:
            PluginError: no such file system is installed.
            StorageError: the folder cannot be made.
        """
        try:
            import fsspec

            self.fs, self.root = fsspec.core.url_to_fs(url)
            self.fs.makedirs(self.root, exist_ok=True)
        except ImportError as error:
            raise PluginError(missing_extra(f"segments at {url}", error)) from error
        except (OSError, ValueError) as error:
            raise StorageError(f"{url}: segments cannot be kept there: {error}") from error
        if type(self.fs).modified is fsspec.AbstractFileSystem.modified:  # DuckDB asks for it
            raise PluginError(f"{url}: the installed file system is too old to be read; for S3, s3fs 2024.6 or later")
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def write(self, kind: Table, tenant: str, day: str, run: int, rows: Any, part: int = 0) -> Segment:
        """One segment of `rows` (a list of rows, or a pyarrow table of them), durable when this returns.

        Raises:
            StorageError: it cannot be written; nothing is left of it.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        table = rows if isinstance(rows, pa.Table) else _table(pa, kind, rows)
        sink = pa.BufferOutputStream()
        few = [n for n, t in COLUMNS[kind].items() if t == "string" and n not in ("call", "request_hash", "run_id")]
        pq.write_table(
            table, sink, compression="zstd", compression_level=1, row_group_size=ROW_GROUP, use_dictionary=few
        )
        content = sink.getvalue().to_pybytes()
        path = f"{kind}/tenant={tenant}/day={day}/{run:012d}-{part:04d}.parquet"
        self._put(path, content)
        times = pc.min_max(table["start_ns"]).as_py()
        return Segment(path, kind, tenant, day, run, len(table), len(content), times["min"], times["max"])

    def _put(self, path: str, content: bytes) -> None:
        full = self.full(path)
        try:
            self.fs.makedirs(full.rpartition("/")[0], exist_ok=True)
            if self.local:
                _put_local(Path(full), content)
            else:
                self.fs.pipe_file(full, content)  # object stores show an object when it is whole
        except OSError as error:
            raise StorageError(f"{full}: the segment cannot be written: {error}") from error

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files that no catalogue names; those that are gone already do not matter.

        Raises:
            StorageError: one is still there.
        """
        for path in paths:
            try:
                self.fs.rm_file(self.full(path))
            except FileNotFoundError:
                pass
            except OSError as error:
                raise StorageError(f"{self.full(path)}: the segment cannot be removed: {error}") from error

    def found(self) -> set[str]:
        """The paths of all segments that are there, named in the catalogue or not."""
        return {
            found.removeprefix(self.root).lstrip("/") for found in self.fs.find(self.root) if found.endswith(".parquet")
        }

    def full(self, path: str) -> str:
        """A segment's path in its file system."""
        return f"{self.root.rstrip('/')}/{path}"

    def readable(self, paths: Sequence[str]) -> list[str]:
        """What DuckDB is told to read; other file systems are asked through fsspec."""
        protocol = self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]
        found = [self.full(p) if self.local else f"{protocol}://{self.full(p).lstrip('/')}" for p in paths]
        return [re.sub(r"([\[*?])", r"[\1]", path) for path in found]  # DuckDB takes them for patterns

    def within(self, readable: str) -> str:
        """The path in its file system of a segment as `readable` names it, which is what DuckDB says."""
        return str(self.fs._strip_protocol(readable))

    def read(self, path: str, columns: Sequence[str]) -> Any:
        """Columns of a segment as a pyarrow table."""
        import pyarrow.parquet as pq

        with self.fs.open(self.full(path), "rb") as file:
            return pq.read_table(file, columns=list(columns))


def _table(pa: Any, kind: Table, rows: Sequence[Row]) -> Any:
    schema = pa.schema([(name, _types(pa)[type_]) for name, type_ in COLUMNS[kind].items()])
    return pa.Table.from_pydict({name: [row.get(name) for row in rows] for name in COLUMNS[kind]}, schema=schema)


def _put_local(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".writing")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _types(pa: Any) -> dict[str, Any]:
    return {
        "string": pa.string(), "binary": pa.binary(), "int64": pa.int64(), "int32": pa.int32(), "uint64": pa.uint64(),
        "double": pa.float64(), "bool": pa.bool_(),
    }  # fmt: skip
