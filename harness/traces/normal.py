"""Spans and log events of a batch or of whole traces, into calls in one normal form, and a count of everything else"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, islice
from typing import Any

from harness import plugins
from harness.traces import _identity
from harness.traces._duplicates import Read, unite, unite_traces
from harness.traces._identity import Pseudonym
from harness.traces._reading import Reading
from harness.traces._replayable import note_damage, unrecorded, why_not
from harness.traces._trace import Happening, Trace
from harness.traces._values import as_number, text
from harness.traces.dialects import Dialect
from harness.traces.records import PARAMETERS, Call, Failure, Feedback, LogEvent, Obstacle, Span

EVALUATION = "gen_ai.evaluation.result"
SOURCE = "harness.feedback.source"
_LONGEST_MESSAGE = 2000
MOST_FEEDBACK = 100
"""Results of evaluations that one call keeps."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the spans: `spans = calls + duplicates + others`, and `calls = replayable + Σ not_replayable`.

    `others` are no requests to a model (agents, tools, embeddings, retrieval, wrappers); `loose_events` are log events
    whose span was not in the batch; `settings` names for each obstacle what would lift it, for every dialect that met
    it.
    """

    spans: int = 0
    calls: int = 0
    duplicates: int = 0
    others: int = 0
    loose_events: int = 0
    replayable: int = 0
    not_replayable: Mapping[Obstacle, int] = field(default_factory=dict)
    dialects: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[Obstacle, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Normalised:
    """The calls of a batch, by trace in the order of their first spans, and the counts."""

    calls: tuple[Call, ...]
    counts: Counts


@cache
def dialects() -> tuple[Dialect, ...]:
    """Every dialect there is, ours and those of installed packages.

    Raises:
        PluginError: one of them does not import or is no plugin.
    """
    return plugins.all_of("traces.dialects")


def normalise(
    spans: Iterable[Span], log_events: Iterable[LogEvent] = (), *, tenant: str, pseudonym: Pseudonym
) -> Normalised:
    """The calls in `spans`, each once; log events are joined by trace and span id.

    `tenant` is whoever sent the spans, as the receiver knows it; `pseudonym` is applied to every user id. All spans of
    a trace should come together: which of them stand for one call, and what they inherit, is only seen then. For calls
    of traces that were normalised apart, `unite_traces` finds those that are one.
    """
    by_trace: defaultdict[str, tuple[list[Span], list[LogEvent]]] = defaultdict(lambda: ([], []))
    total = 0
    for span in spans:
        by_trace[span.trace_id][0].append(span)
        total += 1
    for event in log_events:
        by_trace[event.trace_id][1].append(event)
    calls: list[Call] = []
    reads = loose = 0
    answers = _by_response_id(by_trace)
    for members, events in by_trace.values():
        trace = Trace(members, events)
        found = [read for span in trace.spans if (read := _read(span, trace))]
        united = unite(found, trace)
        whole = _Whole(trace, tenant, pseudonym, answers)
        calls += [whole.completed(call, own) for call, own in united]
        reads += sum(len(own) for _, own in united)
        loose += len(events) if not members else len(trace.loose_events)
    united_calls = unite_traces(calls)
    return Normalised(tuple(united_calls), _counted(united_calls, total, reads, loose))


def _read(span: Span, trace: Trace) -> Read | None:
    sure = [(dialect.recognise(span), dialect) for dialect in dialects()]
    confidence, dialect = max(sure, key=lambda pair: pair[0])
    if confidence <= 0:
        return None
    reading = dialect.read(span, trace)
    note_damage(span, reading)
    return Read(span, _call(span, trace, dialect, reading))


def _call(span: Span, trace: Trace, dialect: Dialect, reading: Reading) -> Call:
    unset = [name for name in PARAMETERS if getattr(reading.parameters, name) in (None, ())]
    return Call(
        run_id=span.trace_id,
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        spans=(span.span_id,),
        service=text(span.resource, "service.name"),
        time_ns=span.start_ns,
        latency=(span.end_ns - span.start_ns) / 1e9 if span.end_ns >= span.start_ns > 0 else None,
        error=_failure(span, trace),
        dialect=dialect.name,
        dialect_version=dialect.version,
        lost=(*reading.lost, *(() if reading.whole_request else unrecorded(dialect, reading, unset))),
        why_not=why_not(dialect, reading),
        **_read_fields(reading),
    )


_NOT_OF_A_CALL = ("lost", "whole_request")


def _read_fields(reading: Reading) -> dict[str, Any]:
    values = {name: getattr(reading, name) for name in Reading.__slots__ if name not in _NOT_OF_A_CALL}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _failure(span: Span, trace: Trace) -> Failure | None:
    raised: Mapping[str, Any] = {}
    for happening in trace.happenings(span):
        if happening.name == "exception":
            raised = happening.attributes
    kind = text(span.attributes, "error.type") or text(raised, "exception.type")
    if span.status != "error" and not text(span.attributes, "error.type"):
        return None
    message = span.status_message or text(raised, "exception.message") or text(span.attributes, "error.message")
    return Failure((kind or "error")[:200], message[:_LONGEST_MESSAGE])


# ---------------------------------------------------------------- what only the whole trace shows


class _Whole:
    """Adds to the calls of one trace what only the whole trace shows: whose they were, and what was said of them."""

    def __init__(
        self, trace: Trace, tenant: str, pseudonym: Pseudonym, answers: Mapping[str, Sequence[Feedback]]
    ) -> None:
        self._trace, self._tenant, self._pseudonym, self._answers = trace, tenant, pseudonym, answers
        self._said: dict[str, list[Feedback]] = {}

    def completed(self, call: Call, spans: Sequence[Span]) -> Call:
        """The call, with its spans, the one it was read from first."""
        run_id, source = _identity.run_id(spans[0], spans[1:], self._trace)
        user = _identity.user(spans, self._trace)
        return replace(
            call,
            run_id=run_id,
            run_id_source=source,
            tenant=self._tenant,
            session=_identity.session(spans, self._trace),
            user=self._pseudonym(user) if user else "",
            metadata={k: v for span in reversed(spans) for k, v in _identity.metadata(span).items()},
            feedback=tuple(dict.fromkeys(islice(self._feedback(call, spans), MOST_FEEDBACK))),
        )

    def _feedback(self, call: Call, spans: Sequence[Span]) -> Iterator[Feedback]:
        own = {span.span_id for span in spans}
        yield from call.feedback
        for span in spans:
            yield from self._about(span)
        yield from self._answers.get(call.response_id, ()) if call.response_id else ()
        for above in self._trace.ancestors(spans[0]):
            if above.span_id not in own:
                yield from (replace(f, about="trace") for f in self._about(above))

    def _about(self, span: Span) -> list[Feedback]:
        """Results of evaluations: events of the span, or spans that name it as their target."""
        if span.span_id not in self._said:
            events = (with_body(h) for h in self._trace.happenings(span) if h.name == EVALUATION)
            beside = (other.attributes for other in self._trace.evaluations(span))
            self._said[span.span_id] = [f for attributes in chain(events, beside) if (f := result_of(attributes))]
        return self._said[span.span_id]


def with_body(happening: Happening | LogEvent) -> Mapping[str, Any]:
    """The attributes of an event, and what its body holds besides."""
    body = happening.body if isinstance(happening.body, Mapping) else {}
    return {**body, **happening.attributes}


def result_of(attributes: Mapping[str, Any]) -> Feedback | None:
    """The result of an evaluation that attributes hold; None where they hold none."""
    name = text(attributes, "gen_ai.evaluation.name")
    score = as_number(attributes.get("gen_ai.evaluation.score.value"))
    label = text(attributes, "gen_ai.evaluation.score.label")
    if not name or (score is None and not label):
        return None
    explanation = text(attributes, "gen_ai.evaluation.explanation")[:_LONGEST_MESSAGE]
    return Feedback(name, score, label, explanation, text(attributes, SOURCE))


def _by_response_id(
    by_trace: Mapping[str, tuple[Sequence[Span], Sequence[LogEvent]]],
) -> Mapping[str, Sequence[Feedback]]:
    """Evaluations that name an answer instead of a span."""
    found: defaultdict[str, list[Feedback]] = defaultdict(list)
    for _, events in by_trace.values():
        for event in events:
            answer = text(event.attributes, "gen_ai.response.id")
            if event.name == EVALUATION and not event.span_id and answer and (result := result_of(event.attributes)):
                found[answer].append(result)
    return found


def _counted(calls: Sequence[Call], spans: int, reads: int, loose: int) -> Counts:
    obstacles: Counter[Obstacle] = Counter()
    settings: defaultdict[Obstacle, dict[str, None]] = defaultdict(dict)
    for call in calls:
        if call.why_not:
            obstacles[call.why_not.reason] += 1
            if call.why_not.setting:
                settings[call.why_not.reason][call.why_not.setting] = None
    return Counts(
        spans=spans,
        calls=len(calls),
        duplicates=reads - len(calls),
        others=spans - reads,
        loose_events=loose,
        replayable=sum(call.replayable for call in calls),
        not_replayable=dict(obstacles),
        dialects=dict(Counter(call.dialect for call in calls)),
        settings={obstacle: tuple(found) for obstacle, found in settings.items()},
    )


__all__ = ["Counts", "Normalised", "dialects", "normalise", "result_of", "unite_traces", "with_body"]
