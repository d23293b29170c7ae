"""The spans of one trace and the log events that belong to them, with who is above whom; cycles are no danger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.traces.records import LogEvent, Span

_DEEPEST = 256  # spans are looked for no further up than this


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of a span, whether it came with the span or as a log record; `body` is None for the former."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None


class Trace:
    """Spans of one trace. Where a span was exported twice, the first stands for both."""

    def __init__(self, spans: Iterable[Span], log_events: Iterable[LogEvent] = ()) -> None:
        self._by_id: dict[str, Span] = {}
        self._children: defaultdict[str, list[Span]] = defaultdict(list)
        self._logs: defaultdict[str, list[LogEvent]] = defaultdict(list)
        self._evaluations: defaultdict[str, list[Span]] = defaultdict(list)
        for span in spans:
            if self._by_id.setdefault(span.span_id, span) is span:
                self._children[span.parent_span_id].append(span)
                target = span.attributes.get("gen_ai.evaluation.target_span_id")
                if isinstance(target, str):
                    self._evaluations[target].append(span)
        for event in log_events:
            self._logs[event.span_id].append(event)

    @property
    def spans(self) -> Sequence[Span]:
        """Every span, in the order of arrival."""
        return list(self._by_id.values())

    @property
    def loose_events(self) -> Sequence[LogEvent]:
        """Log events whose span is not here."""
        return [e for span_id, events in self._logs.items() if span_id not in self._by_id for e in events]

    def span(self, span_id: str) -> Span | None:
        """The span with this id, if it is here."""
        return self._by_id.get(span_id)

    def children(self, span: Span) -> Sequence[Span]:
        """The spans right below."""
        return self._children.get(span.span_id, ())

    def evaluations(self, span: Span) -> Sequence[Span]:
        """The spans that say of themselves that they evaluate this one (traceAI)."""
        return self._evaluations.get(span.span_id, ())

    def ancestors(self, span: Span) -> Iterator[Span]:
        """The spans above, the nearest first; ends at a missing span, a cycle, or after 256."""
        seen = {span.span_id}
        for _ in range(_DEEPEST):
            above = self._by_id.get(span.parent_span_id)
            if above is None or above.span_id in seen:
                return
            seen.add(above.span_id)
            yield above
            span = above

    def happenings(self, span: Span) -> Sequence[Happening]:
        """Everything that happened during the span, by time; what happened at the same time keeps its order."""
        own = [Happening(e.name, e.time_ns, e.attributes) for e in span.events]
        logged = [Happening(e.name, e.time_ns, e.attributes, e.body) for e in self._logs.get(span.span_id, ())]
        return sorted(own + logged, key=lambda h: h.time_ns)
