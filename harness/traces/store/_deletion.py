"""Deletion: whole days by age, and a user's traces by rewriting the segments that hold them"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.traces.store import _journal
from harness.traces.store._catalogue import Catalogue, Change, Segment
from harness.traces.store._compaction import Compactor
from harness.traces.store._segments import COLUMNS, Segments
from harness.traces.store._views import Views


def settle(root: Path, catalogue: Catalogue, segments: Segments, compactor: Compactor) -> None:
    """Rewrite every segment that holds something forgotten, once nothing of it can be in the journal any more."""
    oldest = _journal.oldest_ns(root / "journal")
    due = [f for f in catalogue.forgotten() if oldest is None or f[2] < oldest]
    if not due:
        return
    with compactor.exclusively():
        views = Views(catalogue, segments)
        try:
            hidden = views.query("SELECT tenant, trace_id, before_ns FROM hidden").to_pylist()
        finally:
            views.close()
        doomed: dict[str, dict[bytes, int]] = {}
        for row in hidden:
            doomed.setdefault(row["tenant"], {})[row["trace_id"]] = row["before_ns"]
        for kind in COLUMNS:
            for tenant, traces in doomed.items():
                for segment in catalogue.segments(kind, tenant):
                    if _holds(segments, segment, traces):
                        compactor.rewrite([segment], partial(_kept, traces=traces))
        catalogue.apply(Change([], settled=[(tenant, user) for tenant, user, _ in due]))


def _holds(segments: Segments, segment: Segment, traces: dict[bytes, int]) -> bool:
    return not all(_kept(segments.read(segment.path, ["trace_id", "received_ns"]), traces).to_pylist())


def _kept(table: Any, traces: dict[bytes, int]) -> Any:
    import pyarrow as pa

    rows = zip(table["trace_id"].to_pylist(), table["received_ns"].to_pylist(), strict=True)
    return pa.array([received > traces.get(trace, -1) for trace, received in rows])


def expire(catalogue: Catalogue, segments: Segments, compactor: Compactor, before: str) -> int:
    """Delete the segments of days before `before`; how many rows."""
    try:
        day = date.fromisoformat(before).isoformat()
    except ValueError:
        raise ConfigError(f"{before!r} is no day; write it as 2026-11-01") from None
    with compactor.exclusively():
        old: Sequence[Segment] = [s for kind in COLUMNS for s in catalogue.segments(kind) if s.day < day]
        catalogue.apply(Change([], removed=[s.path for s in old]))
        segments.remove([s.path for s in old])
        return sum(s.rows for s in old)
