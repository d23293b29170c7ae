"""What the receiver's live page shows: what was taken, what of it can be replayed, and what stands in the way"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.traces import live
from harness.traces.receiver._tokens import Tokens
from harness.traces.store import Stats, Store

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_FRESH = 10.0  # seconds that a count is good for, however many look
_DAYS, _ROWS = 14, 25


@dataclass(slots=True)
class StorePage:
    """The page of a store. With tokens each tenant sees its own part; without, whoever is on this machine sees all."""

    store: Store
    tokens: Tokens | None
    _counter: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="page"))
    _known: dict[str | None, tuple[float, tuple[str, str]]] = field(default_factory=dict)

    async def __call__(self, request: Request) -> Response:
        """Answer a request for the page."""
        tenant = None
        if self.tokens is not None:
            tenant = self.tokens.tenant(live.token_of(request))
            if tenant is None:
                return live.locked()
        elif not live.same_machine(request):
            return live.locked()
        made = await asyncio.get_running_loop().run_in_executor(self._counter, self._fresh, tenant)
        return live.response(*made)

    def _fresh(self, tenant: str | None) -> tuple[str, str]:
        at, made = self._known.get(tenant, (0.0, ("", "")))
        if not made[0] or time.monotonic() - at > _FRESH:
            made = live.render(_page(self.store, tenant))
            self._known[tenant] = (time.monotonic(), made)
        return made

    def close(self) -> None:
        """Wait for a count that is under way."""
        self._counter.shutdown(wait=True)


def _page(store: Store, tenant: str | None) -> live.Page:
    when = f"as of {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    title = "Harness receiver" + (f" · {tenant}" if tenant else "")
    try:
        stats = store.stats(tenant)
    except HarnessError as error:  # the page is no reason to stop receiving
        return live.Page(title, when, (), notes=[f"The store cannot be counted: {error}"], seconds=15)
    return live.Page(title, when, _facts(stats), tables=_tables(stats), seconds=15, notes=(
        f"{stats.waiting_bytes:,} bytes wait in the journal and are not in these numbers yet.",
    ))  # fmt: skip


def _facts(stats: Stats) -> list[tuple[str, str]]:
    share = f" ({stats.replayable / stats.calls:.0%})" if stats.calls else ""
    return [
        ("spans", f"{stats.spans:,}"), ("log events", f"{stats.logs:,}"), ("calls", f"{stats.calls:,}"),
        ("replayable", f"{stats.replayable:,}{share}"), ("sessions", f"{stats.sessions:,}"),
        ("users", f"{stats.users:,}"),
    ]  # fmt: skip


def _tables(stats: Stats) -> list[live.Table]:
    obstacles = [
        (reason, f"{n:,}", "; ".join(stats.settings.get(reason, ()))) for reason, n in stats.not_replayable.items()
    ]
    days = list(stats.days.items())[-_DAYS:][::-1]
    tables = [
        live.Table(
            "Calls that cannot be replayed", ("Reason", "Calls", "What would mend it"), obstacles, empty="None."
        ),
        live.Table("Refused or changed on arrival", ("What", "How many"), _counted(stats.counted), empty="Nothing."),
        live.Table("Spans by day", ("Day (UTC)", "Spans"), _counted(dict(days))),
        live.Table("Calls by model", ("Model", "Calls"), _counted(stats.models)),
        live.Table("Calls by vocabulary", ("Dialect", "Calls"), _counted(stats.dialects)),
    ]
    if len(stats.tenants) > 1:
        tables.append(live.Table("Spans by tenant", ("Tenant", "Spans"), _counted(stats.tenants)))
    return tables


def _counted(counts: object) -> list[tuple[str, str]]:
    items = list(counts.items())[:_ROWS] if isinstance(counts, dict) else []
    return [(str(what) or "–", f"{n:,}") for what, n in items]
