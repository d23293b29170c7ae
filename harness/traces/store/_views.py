"""What is in the segments, as three views of DuckDB: without what is forgotten, without calls that were read again"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import PluginError, StorageError
from harness.plugins import missing_extra
from harness.traces.store._catalogue import Catalogue, Table
from harness.traces.store._segments import COLUMNS, Segments

_TRIES = 5
_DUCK = {
    "string": "VARCHAR", "binary": "BLOB", "int64": "BIGINT", "int32": "INTEGER", "uint64": "UBIGINT",
    "double": "DOUBLE", "bool": "BOOLEAN",
}  # fmt: skip


class Views:
    """A view of the store as it is now; queries of one view see the same state.

    `memory` bounds what DuckDB takes; a query that needs more goes to the disk in `spill`.
    """

    def __init__(self, catalogue: Catalogue, segments: Segments, *, memory: str = "700MB", spill: str = "") -> None:
        try:
            import duckdb
        except ImportError as error:
            raise PluginError(missing_extra("queries of the store", error)) from error
        self._segments = segments
        self._db = duckdb.connect(config={"memory_limit": memory, "threads": 2, "temp_directory": spill})
        self._db.execute("SET preserve_insertion_order = false")
        if not segments.local:
            self._db.register_filesystem(segments.fs)
        self._renewed(catalogue)
        for kind in COLUMNS:
            self._view(kind, catalogue)
        self._hide(catalogue)

    def close(self) -> None:
        """Give the memory back."""
        self._db.close()

    def query(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """A query over `spans`, `logs` and `calls`, as a pyarrow table.

        Raises:
            StorageError: DuckDB refuses it.
        """
        import duckdb

        try:
            return self._db.sql(sql, params=list(values)).to_arrow_table()
        except duckdb.Error as error:
            raise StorageError(f"the store cannot answer: {error}") from error

    def _view(self, kind: Table, catalogue: Catalogue) -> None:
        paths = self._segments.readable([segment.path for segment in catalogue.segments(kind)])
        if paths:
            listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
            source = f"read_parquet([{listed}], hive_partitioning=false, filename=true, file_row_number=true)"
        else:
            columns = ", ".join(f"NULL::{_DUCK[type_]} AS {name}" for name, type_ in COLUMNS[kind].items())
            source = f"(SELECT {columns}, '' AS filename, 0::BIGINT AS file_row_number LIMIT 0)"
        current = ""
        if kind == "calls" and self._any("renewed"):
            current = (
                " WHERE NOT EXISTS (SELECT 1 FROM renewed r WHERE r.tenant = s.tenant AND r.trace_id = s.trace_id"
                " AND r.run > s.run)"
            )
        self._db.execute(f"CREATE VIEW all_{kind} AS SELECT * FROM {source} s{current}")  # noqa: S608 - our own paths, quoted

    def _renewed(self, catalogue: Catalogue) -> None:
        self._db.execute("CREATE TABLE renewed (tenant VARCHAR, trace_id BLOB, run BIGINT)")
        self._fill("renewed", [(t, *row) for t in catalogue.tenants() for row in catalogue.renewed(t)])

    def _hide(self, catalogue: Catalogue) -> None:
        """Traces of a user that is forgotten, and of the sessions that these belong to, up to the time of asking."""
        self._db.execute("CREATE TABLE forgotten (tenant VARCHAR, user_key VARCHAR, before_ns BIGINT)")
        self._fill("forgotten", catalogue.forgotten())
        hides = self._any("forgotten")
        if hides:
            self._db.execute(_HIDDEN)
        for kind in COLUMNS:
            kept = (
                " a WHERE NOT EXISTS (SELECT 1 FROM hidden h WHERE h.tenant = a.tenant AND h.trace_id = a.trace_id"
                " AND a.received_ns <= h.before_ns)"
            )
            self._db.execute(f"CREATE VIEW {kind} AS SELECT * FROM all_{kind}{kept if hides else ''}")  # noqa: S608

    def _fill(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        import pyarrow as pa

        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        self._db.register("given", pa.table(columns, names=["a", "b", "c"]))
        self._db.execute(f"INSERT INTO {table} SELECT * FROM given")  # noqa: S608
        self._db.unregister("given")

    def _any(self, table: str) -> bool:
        return bool(self._db.table(table).limit(1).fetchall())


_HIDDEN = """
CREATE TABLE hidden AS
WITH named AS (
  SELECT a.tenant, a.trace_id, f.before_ns FROM all_spans a JOIN forgotten f USING (tenant, user_key)
  WHERE a.received_ns <= f.before_ns
  UNION
  SELECT a.tenant, a.trace_id, f.before_ns FROM all_calls a JOIN forgotten f USING (tenant, user_key)
  WHERE a.received_ns <= f.before_ns
), sessions AS (
  SELECT DISTINCT a.tenant, a.session, n.before_ns FROM all_calls a JOIN named n USING (tenant, trace_id)
  WHERE a.session <> ''
)
SELECT tenant, trace_id, max(before_ns) AS before_ns FROM (
  SELECT * FROM named
  UNION ALL
  SELECT a.tenant, a.trace_id, s.before_ns FROM all_calls a JOIN sessions s USING (tenant, session)
  WHERE a.received_ns <= s.before_ns
) GROUP BY tenant, trace_id
"""
