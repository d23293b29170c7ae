"""All comparisons of all runs as one table: CSV for a spreadsheet, Parquet for a program"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import runs
from harness.errors import StorageError
from harness.history.reading import Run

CSV, PARQUET = "history.csv", "history.parquet"
_TEXT = ("run", "when", "verdict", "candidate", "candidate_fingerprint", "baseline", "baseline_fingerprint", "suite",
         "suite_digest", "metric", "slice", "estimand", "outcome", "standing", "reason")  # fmt: skip
_COUNTS = ("n", "n_used", "n_failed", "lost", "won")
_NUMBERS = ("baseline_mean", "candidate_mean", "difference", "low", "high", "population_low", "population_high",
            "margin", "must_improve", "alpha")  # fmt: skip
_OWN = (*_COUNTS, "suite", "metric", "slice", "estimand", "outcome", "standing", "reason", "baseline_mean",
        "candidate_mean", "difference", "margin", "must_improve", "alpha", "fragile")  # fmt: skip
COLUMNS = (*_TEXT, *_COUNTS, *_NUMBERS, "fragile")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_tables(runs_: Sequence[Run], out: Path) -> None:
    """Write both files, a row a (run, guard), the newest run first; numbers are in score points.

    Raises:
        StorageError: a file cannot be written.
    """
    rows = [row for run in runs_ for row in _rows(run)]
    runs.write_text(out / CSV, _csv(rows))
    _write_parquet(out / PARQUET, rows)


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    for c in run.comparisons:
        low, high = c.interval or (None, None)
        population_low, population_high = c.population_interval or (None, None)
        yield {name: getattr(c, name) for name in _OWN} | {
            "run": run.path.name,
            "when": run.when,
            "verdict": run.verdict,
            "candidate": run.candidate.name,
            "candidate_fingerprint": run.candidate.fingerprint,
            "baseline": run.baseline.name,
            "baseline_fingerprint": run.baseline.fingerprint,
            "suite_digest": run.suites.get(c.suite, ""),
            "low": low,
            "high": high,
            "population_low": population_low,
            "population_high": population_high,
        }


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(row[name]) for name in COLUMNS} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {**dict.fromkeys(_TEXT, pa.string()), **dict.fromkeys(_COUNTS, pa.int64()),
             **dict.fromkeys(_NUMBERS, pa.float64()), "fragile": pa.bool_()}  # fmt: skip
    try:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(list(kinds.items()))), path)
    except OSError as error:
        raise StorageError(f"{path}: {error}") from error
