"""Feedback that came after its call was stored: days later in its trace, or in another trace by the id of the answer

The store reads a trace anew when a part of it comes within a day of the others. People take longer than that, and what
they say is often written down by another request, with its own trace.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.traces._values import text
from harness.traces.normal import EVALUATION, MOST_FEEDBACK, normalise, result_of, with_body
from harness.traces.records import Call, Feedback, LogEvent, Span
from harness.traces.store import Store
from harness.traces.store._rows import read_message

RESPONSE_ID = "gen_ai.response.id"
_DAY_NS = 86_400 * 10**9
_TABLES = ("spans", "logs")

TraceKey = tuple[str, str]
"""Tenant and trace id."""


@dataclass(slots=True)
class LateFeedback:
    """Finds what was said of stored calls, wherever in the store it is; tenants share nothing."""

    store: Store
    _answers: dict[str, dict[str, list[Feedback]]] = field(default_factory=dict)

    def added(self, calls: Sequence[Call]) -> list[Call]:
        """The calls, each with all feedback that the store holds on it.

        An id of an answer that several of them share names none of them.
        """
        traces = self._spread(calls)
        shared = Counter((call.tenant, call.response_id) for call in calls)
        return [self._with(call, traces, shared) for call in calls]

    def _with(self, call: Call, traces: Mapping[TraceKey, Sequence[Call]], shared: Mapping[TraceKey, int]) -> Call:
        again = (c for c in traces.get((call.tenant, call.trace_id), ()) if call.span_id in (c.span_id, *c.spans))
        found = [*call.feedback, *(f for c in again for f in c.feedback)]
        if call.response_id and shared[call.tenant, call.response_id] == 1:
            found += self._by_answer(call.tenant).get(call.response_id, ())
        told = tuple(dict.fromkeys(found))[:MOST_FEEDBACK]
        return call if told == call.feedback else replace(call, feedback=told)

    # ------------------------------------------------------------ in the trace

    def _spread(self, calls: Sequence[Call]) -> dict[TraceKey, list[Call]]:
        """The calls of traces that go over more days than the store has looked at together, read from all of it."""
        ids = sorted({bytes.fromhex(call.trace_id) for call in calls})
        if not ids:
            return {}
        parts = " UNION ALL ".join(f"SELECT tenant, trace_id, start_ns FROM {t}" for t in _TABLES)  # noqa: S608 - our own words
        with self.store.views() as views:
            late = views.query(
                f"SELECT DISTINCT trace_id FROM (SELECT tenant, trace_id FROM ({parts})"  # noqa: S608
                " WHERE trace_id IN (SELECT unnest(?)) GROUP BY ALL"
                f" HAVING max(start_ns) // {_DAY_NS} - min(start_ns) // {_DAY_NS} > 1)",
                [ids],
            )["trace_id"].to_pylist()
            if not late:
                return {}
            read: dict[str, list[Any]] = {}
            for table in _TABLES:
                query = f"SELECT tenant, trace_id, message FROM {table} WHERE trace_id IN (SELECT unnest(?))"  # noqa: S608
                read[table] = views.query(query, [late]).to_pylist()
        return _normalised(read)

    # ------------------------------------------------------------ in other traces

    def _by_answer(self, tenant: str) -> Mapping[str, Sequence[Feedback]]:
        """All results of a tenant that name an answer, by its id; they are read once."""
        if tenant not in self._answers:
            found: defaultdict[str, list[Feedback]] = defaultdict(list)
            for attributes in self._naming_answers(tenant):
                answer, result = text(attributes, RESPONSE_ID), result_of(attributes)
                if answer and result:
                    found[answer].append(result)
            self._answers[tenant] = dict(found)
        return self._answers[tenant]

    def _naming_answers(self, tenant: str) -> Iterator[Mapping[str, Any]]:
        """What results of evaluations say: log events of that name, spans and their events."""
        import pyarrow.compute as pc

        wanted = {"logs": "name = ?", "spans": "contains(lower(name), 'evaluat')"}
        with self.store.views() as views:
            for table, where in wanted.items():
                values = [tenant, *([EVALUATION] if table == "logs" else [])]
                rows = views.query(f"SELECT message FROM {table} WHERE tenant = ? AND {where}", values)  # noqa: S608
                # Most results name a span and no answer; a look at the bytes is cheaper than to read them.
                for message in rows.filter(pc.match_substring(rows["message"], RESPONSE_ID))["message"].to_pylist():
                    for item in read_message("logs" if table == "logs" else "spans", message):
                        yield from _said(item)


def _said(item: Span | LogEvent) -> Iterator[Mapping[str, Any]]:
    if isinstance(item, LogEvent):
        yield with_body(item)
        return
    yield item.attributes
    yield from (event.attributes for event in item.events if event.name == EVALUATION)


def _normalised(read: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[TraceKey, list[Call]]:
    """Calls by trace, from the messages of all its spans and events."""
    spans: defaultdict[str, list[Span]] = defaultdict(list)
    events: defaultdict[str, list[LogEvent]] = defaultdict(list)
    for row in read["spans"]:
        spans[row["tenant"]] += [s for s in read_message("spans", row["message"]) if isinstance(s, Span)]
    for row in read["logs"]:
        events[row["tenant"]] += [e for e in read_message("logs", row["message"]) if isinstance(e, LogEvent)]
    found: defaultdict[TraceKey, list[Call]] = defaultdict(list)
    for tenant, held in spans.items():
        # Users' names were replaced when the spans came in; here only what was said of the calls is looked at.
        for call in normalise(held, events[tenant], tenant=tenant, pseudonym=str).calls:
            found[tenant, call.trace_id].append(call)
    return dict(found)
