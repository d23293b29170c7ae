"""What there is in a store, in numbers"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.traces.store._views import Views


@dataclass(frozen=True, slots=True)
class Stats:
    """What there is: `calls = replayable + Σ not_replayable`. `settings` says for each reason what would mend it.

    `counted` are records that were not kept as they came, by reason; `waiting_bytes` are in the journal and not yet in
    any of the other numbers. `days` counts spans by day (UTC), `models` calls by the model that was asked.
    """

    spans: int
    logs: int
    calls: int
    replayable: int
    not_replayable: Mapping[str, int]
    settings: Mapping[str, tuple[str, ...]]
    sessions: int
    users: int
    tenants: Mapping[str, int]
    days: Mapping[str, int]
    models: Mapping[str, int]
    dialects: Mapping[str, int]
    counted: Mapping[str, int]
    waiting_bytes: int

    def as_json(self) -> dict[str, Any]:
        """JSON-ready, every field."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: list(held) if isinstance(held, tuple) else held for key, held in value.items()}
    return value


def stats(views: Views, counted: Mapping[str, int], waiting: int, tenant: str | None) -> Stats:
    """The numbers of one tenant, or of all."""
    clause, values = ("WHERE tenant = ?", [tenant]) if tenant is not None else ("", [])

    def grouped(table: str, key: str, more: str = "") -> dict[str, int]:
        found = views.query(
            f"SELECT {key} AS k, count(*) AS n FROM {table} {clause} {more} GROUP BY 1 ORDER BY 1",  # noqa: S608
            values,
        )
        return dict(zip(found["k"].to_pylist(), found["n"].to_pylist(), strict=True))

    def number(table: str, what: str) -> int:
        return int(views.query(f"SELECT {what} AS n FROM {table} {clause}", values)["n"][0].as_py())  # noqa: S608

    both = "AND" if clause else "WHERE"
    mending = views.query(
        f"SELECT reason, setting FROM calls {clause} {both} setting <> '' GROUP BY ALL ORDER BY ALL",  # noqa: S608
        values,
    )
    settings: dict[str, tuple[str, ...]] = {}
    for reason, setting in zip(mending["reason"].to_pylist(), mending["setting"].to_pylist(), strict=True):
        settings[reason] = (*settings.get(reason, ()), setting)
    return Stats(
        spans=number("spans", "count(*)"),
        logs=number("logs", "count(*)"),
        calls=number("calls", "count(*)"),
        replayable=number("calls", "count(*) FILTER (replayable)"),
        not_replayable=grouped("calls", "reason", f"{both} NOT replayable"),
        settings=settings,
        sessions=number("calls", "count(DISTINCT (tenant, session)) FILTER (session <> '')"),
        users=number("calls", "count(DISTINCT (tenant, user_key)) FILTER (user_key <> '')"),
        tenants=grouped("spans", "tenant"),
        days=grouped("spans", "strftime(make_timestamp(start_ns // 1000), '%Y-%m-%d')"),
        models=grouped("calls", "model"),
        dialects=grouped("calls", "dialect"),
        counted=counted,
        waiting_bytes=waiting,
    )
