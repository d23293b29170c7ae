"""Per-sample scores that were made elsewhere: CSV, JSONL, Parquet, lm-eval sample logs, Inspect logs.

Every row says which sample it scores; an empty score is an observation that failed, and is counted as one. A score
that is NaN is refused: nobody can know whether it stands for a failure or for a bug.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import DataError, at, nearest
from harness.records import Score

COLUMNS = ("sample_id", "score", "suite", "metric", "cluster", "slice")
_LM_EVAL_NAME = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d\d-\d\dT[\d\-.:]+)?\.jsonl$")
_INSPECT_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # correct, partial, incorrect, no answer
_LARGEST_MEMBER = 256 * 2**20  # bytes one member of a zipped log may unpack to
_LARGEST_LOG = 2**31  # and all of them together, which may lie over one another in the archive


@dataclass(frozen=True, slots=True)
class Row:
    """One score with where it stands; `digest` identifies the sample's content where the format records it."""

    where: str
    sample_id: str
    score: Score
    cluster: str = ""
    slices: tuple[str, ...] = ()
    digest: str = ""

    @property
    def place(self) -> str:
        """`where` inside a sentence."""
        return self.where.rstrip(": ")


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The scores of one side: (suite, metric) → sample id → row, and what was left out and why."""

    path: Path
    rows: dict[tuple[str, str], dict[str, Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, suite: str, metric: str, row: Row) -> None:
        """Add one row; a second score for the same sample is refused with both places."""
        table = self.rows.setdefault((suite, metric), {})
        if row.sample_id in table:
            twice = f"sample_id {row.sample_id!r} is given twice for {suite}/{metric}"
            raise DataError(f"{row.where}{twice}; first at {table[row.sample_id].place}")
        table[row.sample_id] = row


def read_scores(path: Path) -> ScoreTable:
    """All scores in a file or folder.

    Raises:
        DataError: no such path, an unknown format, a missing column, a duplicate id, a NaN score, no score at all.
    """
    table = ScoreTable(path)
    try:
        for file in _files(path):
            _read_file(file, table)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{at(path)}cannot be read: {error}") from error
    if not table.rows:
        raise DataError(f"{at(path)}holds no score")
    return table


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{at(path)}no such file or folder")
    logs = sorted(path.rglob("samples_*.jsonl"))
    if not logs:
        raise DataError(f"{at(path)}holds no samples_*.jsonl; lm-eval writes them with --log_samples")
    tasks: dict[str, Path] = {}
    for log in logs:
        other = tasks.setdefault(_task_of(log), log)
        if other != log:
            raise DataError(f"{at(path)}two logs of task {_task_of(log)!r}: {other} and {log}; name one file")
    return logs


def _read_file(path: Path, table: ScoreTable) -> None:
    suffix = path.suffix.lower()
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet, ".json": _read_inspect_json,
               ".eval": _read_inspect_zip}  # fmt: skip
    if suffix not in readers:
        raise DataError(f"{at(path)}unknown format {suffix!r}; known: {', '.join(readers)}")
    readers[suffix](path, table)


# ---------------------------------------------------------------- plain tables


def _read_csv(path: Path, table: ScoreTable) -> None:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        _need_columns(path, reader.fieldnames or ())
        for record in reader:
            if None in record or None in record.values():
                raise DataError(f"{at(path, reader.line_num)}another number of columns than the header")
            slices = tuple(part.strip() for part in (record.get("slice") or "").split(";") if part.strip())
            _add_record(at(path, reader.line_num), {**record, "slice": slices}, table)


def _read_jsonl(path: Path, table: ScoreTable) -> None:
    with open(path, encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = at(path, number)
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}not JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataError(f"{where}expected an object with sample_id and score")
            if "doc_id" in record and "filtered_resps" in record:
                _add_lm_eval(where, _task_of(path), record, table)
            else:
                _need_columns(path, record, number)
                _add_record(where, record, table)


def _read_parquet(path: Path, table: ScoreTable) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{at(path)}not a Parquet file: {error}") from error
    _need_columns(path, content.column_names)
    for number, record in enumerate(content.to_pylist(), start=1):
        _add_record(f"{path}: row {number}: ", record, table)


def _need_columns(path: Path, columns: Iterable[str], line: int | None = None) -> None:
    present = list(columns)
    for needed in ("sample_id", "score"):
        if needed not in present:
            raise DataError(f"{at(path, line)}no column {needed!r}: {nearest(needed, present)}")


def _add_record(where: str, record: Mapping[str, Any], table: ScoreTable) -> None:
    identifier = record["sample_id"]
    if identifier is None or str(identifier) == "":
        raise DataError(f"{where}sample_id is empty")
    slices = record.get("slice") or ()
    row = Row(
        where,
        str(identifier),
        _score(where, record["score"]),
        str(record.get("cluster") or ""),
        (slices,) if isinstance(slices, str) else tuple(str(s) for s in slices),
    )
    table.add(str(record.get("suite") or "scores"), str(record.get("metric") or "score"), row)


def _score(where: str, value: Any) -> Score:
    if value is None or value == "":
        return Score.failed("no score was recorded")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}score {value!r} is not a number; leave it empty where scoring failed") from None
    if not math.isfinite(number):
        raise DataError(f"{where}score is {number}; leave it empty where scoring failed, so that it is counted")
    return Score.of(number)


# ---------------------------------------------------------------- lm-eval


def _task_of(path: Path) -> str:
    match = _LM_EVAL_NAME.match(path.name)
    return match["task"] if match else path.stem


def _add_lm_eval(where: str, task: str, record: Mapping[str, Any], table: ScoreTable) -> None:
    metrics = [m for m in record.get("metrics") or () if m in record]
    pipeline = str(record.get("filter") or "none")
    for metric in metrics:
        value = record[metric]
        label = metric if pipeline == "none" else f"{metric},{pipeline}"
        if isinstance(value, bool | int | float):
            row = Row(where, str(record["doc_id"]), _score(where, value), digest=str(record.get("doc_hash") or ""))
            table.add(task, label, row)
        else:
            note = f"{task}/{label} is left out: its per-sample value is not a number but {type(value).__name__}"
            if note not in table.notes:
                table.notes.append(note)


# ---------------------------------------------------------------- Inspect


def _read_inspect_json(path: Path, table: ScoreTable) -> None:
    _add_inspect_log(path, _parse(path, path.read_bytes()), table)


def _read_inspect_zip(path: Path, table: ScoreTable) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            start = "header.json" if "header.json" in names else "_journal/start.json"  # the latter while it runs
            header = _parse(path, _member(path, archive, start))
            members = [name for name in names if re.fullmatch(r"samples/[^/]+\.json", name)]
            samples = list(_samples(path, archive, members))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, KeyError) as error:  # RuntimeError: an encrypted member
        raise DataError(f"{at(path)}not an Inspect log: {error}") from error
    _add_inspect_log(path, {**header, "samples": samples}, table)


def _samples(path: Path, archive: zipfile.ZipFile, members: Iterable[str]) -> Iterator[Any]:
    size = 0
    for name in members:
        content = _member(path, archive, name)
        size += len(content)
        if size > _LARGEST_LOG:
            raise DataError(f"{at(path)}unpacks to more than {_LARGEST_LOG >> 20} MiB")
        yield _parse(path, content)


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as stream:
        content = stream.read(_LARGEST_MEMBER + 1)  # the size in the archive's directory is only a claim
    if len(content) > _LARGEST_MEMBER:
        raise DataError(f"{at(path)}member {name} unpacks to more than {_LARGEST_MEMBER >> 20} MiB")
    return content


def _parse(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{at(path)}not JSON: {error}") from error


def _add_inspect_log(path: Path, log: Any, table: ScoreTable) -> None:
    if not isinstance(log, dict) or not isinstance(log.get("eval"), dict) or not isinstance(log.get("samples"), list):
        raise DataError(f"{at(path)}not an Inspect log: `eval` and `samples` are expected")
    task = str(log["eval"].get("task") or path.stem)
    for sample in log["samples"]:
        for scorer, row in _inspect_rows(path, sample):
            table.add(task, scorer, row)


def _inspect_rows(path: Path, sample: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    identifier, epoch = str(sample.get("id")), int(sample.get("epoch") or 1)
    where = f"{path}: sample {identifier!r}: "
    # Epochs of one sample are repeated draws of it: they stand together or fall together, as one cluster.
    cluster = identifier if epoch > 1 or int(sample.get("epochs") or 1) > 1 else ""
    for scorer, score in (sample.get("scores") or {}).items():
        value = score.get("value") if isinstance(score, dict) else score
        if isinstance(value, dict | list):
            continue
        number = _INSPECT_LETTERS.get(value, value) if isinstance(value, str) else value
        failed = number is None or sample.get("error") or (isinstance(number, float) and math.isnan(number))
        result = Score.failed("the log records no score") if failed else _score(where, number)
        yield scorer, Row(where, identifier if epoch == 1 else f"{identifier}#{epoch}", result, cluster)
