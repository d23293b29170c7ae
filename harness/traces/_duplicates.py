"""One call that several instrumentations watched, counted once

A gateway, a client library and a framework may each write a span for one request. Within a trace, spans stand for one
call where
1. they name the same answer (`response_id`) and one is below the other or they come from different scopes;
2. one is below the other with no request between them: retries below one request are one call too, while a span above
   several different requests is a wrapper and no call at all;
3. they lie side by side under one parent, come from different scopes, one ran within the time of the other, they ask
   the same, and they name no different answers.
4. Across traces (a callback that runs in a thread of its own starts one), where they name the same answer, come from
   different dialects, overlap in time and ask the same.
Of such spans the one that can be asked again counts, before one that succeeded, before one with an answer, before the
one with fewer losses, before the innermost: closest to the model, and so closest to what was really sent. What it
leaves open is filled from the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.traces._parameters import is_set, merged
from harness.traces._trace import Trace
from harness.traces.records import Call, Span

_FILLED = (
    "first_token", "provider", "model_asked", "model_answered", "response_id", "input_tokens", "output_tokens",
    "cached_tokens", "reasoning_tokens", "cost", "finish_reasons", "outputs", "tools",
)  # fmt: skip
_MOST_SIBLINGS = 256  # beside more requests than this under one parent, only rules 1 and 2 are tried


@dataclass(frozen=True, slots=True)
class Read:
    """A span and the call that was read from it."""

    span: Span
    call: Call


def unite(reads: Sequence[Read], trace: Trace) -> list[tuple[Call, list[Span]]]:
    """One call for each request of a trace, in the order of the spans, and the spans of each.

    The span that a call was read from comes first. Wrappers are left out, so their spans are in no group.
    """
    if len(reads) == 1:
        return [(reads[0].call, [reads[0].span])]
    groups = _Groups(reads)
    wrappers = _nested(reads, trace, groups)
    _same_answer(reads, trace, groups)
    _side_by_side(reads, groups)
    depth = {r.span.span_id: sum(1 for _ in trace.ancestors(r.span)) for r in reads}
    return [
        _united(members, depth) for members in groups.members() if not all(m.span.span_id in wrappers for m in members)
    ]


class _Groups:
    """Disjoint sets of spans."""

    def __init__(self, reads: Sequence[Read]) -> None:
        self._reads = reads
        self._above = {r.span.span_id: r.span.span_id for r in reads}

    def find(self, span_id: str) -> str:
        while self._above[span_id] != span_id:
            self._above[span_id] = span_id = self._above[self._above[span_id]]
        return span_id

    def join(self, one: Read, other: Read) -> None:
        self._above[self.find(other.span.span_id)] = self.find(one.span.span_id)

    def members(self) -> list[list[Read]]:
        found: defaultdict[str, list[Read]] = defaultdict(list)
        for read in self._reads:
            found[self.find(read.span.span_id)].append(read)
        return list(found.values())


def _nested(reads: Sequence[Read], trace: Trace, groups: _Groups) -> set[str]:
    """Join spans with the nearest request below; returns the ids of those that only wrap different requests."""
    by_id = {r.span.span_id: r for r in reads}
    below: defaultdict[str, list[Read]] = defaultdict(list)
    for read in reads:
        above = next((s.span_id for s in trace.ancestors(read.span) if s.span_id in by_id), None)
        if above is not None:
            below[above].append(read)
    wrappers = set()
    for span_id, inner in below.items():
        outer = by_id[span_id]
        same = inner if len(inner) == 1 else [r for r in inner if _asks_the_same(outer.call, r.call)]
        for read in same:
            groups.join(outer, read)
        if not same:
            wrappers.add(span_id)
    return wrappers


def _same_answer(reads: Sequence[Read], trace: Trace, groups: _Groups) -> None:
    first: dict[str, list[Read]] = {}
    for read in reads:
        if not read.call.response_id:
            continue
        others = first.setdefault(read.call.response_id, [])
        for other in others[:_MOST_SIBLINGS]:
            if other.span.scope != read.span.scope or _related(other.span, read.span, trace):
                groups.join(other, read)
        others.append(read)


def _related(one: Span, other: Span, trace: Trace) -> bool:
    return any(s is one for s in trace.ancestors(other)) or any(s is other for s in trace.ancestors(one))


def _side_by_side(reads: Sequence[Read], groups: _Groups) -> None:
    by_parent: defaultdict[str, list[Read]] = defaultdict(list)
    for read in reads:
        by_parent[read.span.parent_span_id].append(read)
    for siblings in by_parent.values():
        if len(siblings) > _MOST_SIBLINGS:
            continue
        for number, one in enumerate(siblings):
            for other in siblings[number + 1 :]:
                if _seen_twice(one, other):
                    groups.join(one, other)


def _seen_twice(one: Read, other: Read) -> bool:
    if one.span.scope == other.span.scope or not _within(one.span, other.span):
        return False
    ids = {one.call.response_id, other.call.response_id} - {""}
    asked = bool(one.call.messages) and bool(other.call.messages)
    return len(ids) < 2 and asked and _asks_the_same(one.call, other.call)


def _within(one: Span, other: Span) -> bool:
    starts, ends = (one.start_ns, other.start_ns), (one.end_ns, other.end_ns)
    return (starts[0] <= starts[1] and ends[1] <= ends[0]) or (starts[1] <= starts[0] and ends[0] <= ends[1])


def _asks_the_same(one: Call, other: Call) -> bool:
    """Whether two readings can be of one request; vocabularies differ in what else they keep of it."""
    return not one.messages or not other.messages or _asked(one) == _asked(other)


def _asked(call: Call) -> list[tuple[str, str]]:
    return [(m.role, m.text) for m in call.messages]


def unite_traces(calls: Sequence[Call]) -> list[Call]:
    """Calls of several traces, those that rule 4 finds to be one made one, in the order of the first of them."""
    kept: dict[int, Call] = {}
    by_answer: defaultdict[str, list[int]] = defaultdict(list)
    for number, call in enumerate(calls):
        near = by_answer[call.response_id][-_MOST_SIBLINGS:] if call.response_id else []
        twin = next((n for n in near if _one_answer(kept[n], call)), None)
        if twin is None:
            kept[number] = call
            by_answer[call.response_id].append(number)
        else:
            kept[twin] = _joined(kept[twin], call)
    return list(kept.values())


def _one_answer(one: Call, other: Call) -> bool:
    apart = one.trace_id != other.trace_id and one.dialect != other.dialect and one.tenant == other.tenant
    return apart and _overlap(one, other) and _asks_the_same(one, other)


def _overlap(one: Call, other: Call) -> bool:
    ends = [call.time_ns + int((call.latency or 0.0) * 1e9) for call in (one, other)]
    return one.time_ns <= ends[1] and other.time_ns <= ends[0]


def _joined(one: Call, other: Call) -> Call:
    first, second = (one, other) if _worth(one) >= _worth(other) else (other, one)
    filled = _filled(first, second)
    run = next((c for c in (first, second) if c.run_id_source != "trace"), first)
    return replace(
        filled,
        run_id=run.run_id,
        run_id_source=run.run_id_source,
        session=first.session or second.session,
        user=first.user or second.user,
        metadata={**second.metadata, **first.metadata},
        spans=(*first.spans, *second.spans),
    )


# ---------------------------------------------------------------- one of many


def _worth(call: Call) -> tuple[bool, bool, bool, int]:
    losses = sum(1 for loss in call.lost if loss.cause != "unrecorded")
    return call.replayable, call.error is None, bool(call.outputs), -losses


def _united(members: list[Read], depth: dict[str, int]) -> tuple[Call, list[Span]]:
    def rank(read: Read) -> tuple[Any, ...]:
        return *_worth(read.call), depth[read.span.span_id]

    ranked = sorted(members, key=rank, reverse=True)
    call = ranked[0].call
    for read in ranked[1:]:
        call = _filled(call, read.call)
    ids = tuple(sorted(r.span.span_id for r in members))
    return replace(call, spans=ids), [r.span for r in ranked]


def _filled(call: Call, other: Call) -> Call:
    values = {
        name: theirs
        for name in _FILLED
        if getattr(call, name) in (None, "", ()) and (theirs := getattr(other, name)) not in (None, "", ())
    }
    parameters = merged(call.parameters, other.parameters)
    lost = tuple(x for x in call.lost if x.cause != "unrecorded" or not _set(parameters, x.field))
    feedback = (*call.feedback, *(f for f in other.feedback if f not in call.feedback))
    return replace(call, **values, parameters=parameters, lost=lost, feedback=feedback)


def _set(parameters: Any, name: str) -> bool:
    return hasattr(parameters, name) and is_set(parameters, name)
