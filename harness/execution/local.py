"""Evaluate suites in this process, chunk by chunk, until every guard is decided.

The order of a suite's samples and the ends of its chunks are fixed before any output exists, and whether a suite goes
on depends on its own evidence alone. So a run that was killed and resumed, or that finds its outputs in the cache,
asks for the same samples and ends at the same place as one that ran through. The chunks of all suites that are still
waiting are asked together, so that small suites share batches; what is decided from them is not shared.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness import drift
from harness.cache import OutputCache
from harness.config import Arm
from harness.execution.drafts import Drafting, Source
from harness.policy import Table, block_level, compare, is_open
from harness.progress import Observer
from harness.records import Comparison, Evidence, Generate, Guard, Output, PairedScore, Request, Sample, Score
from harness.runs import Entry, RunDirectory
from harness.statistics.ordering import commit_order
from harness.subjects import Subject
from harness.suites import AnsweredPair, Answering, Suite, ask_in_rounds

Chunk = tuple[Suite, Sequence[Sample]]
Answered = list[tuple[Output, ...]]
"""One tuple of outputs for each sample of a chunk."""

_UNWATCHED_GROWTH = 4.0  # of chunks between which nobody looks


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many samples of a suite are asked between two looks: `first`, then `growth` times as many each.

    A run that does not stop early gains nothing from a look, so its chunks grow at least fourfold. No chunk but the
    first is larger than `most`, and no more samples than that are asked together, so that the memory of a run is set
    by this number and not by how many samples there are.
    """

    first: int = 64
    growth: float = 1.5
    stop_early: bool = True
    most: int = 2_048


@dataclass(slots=True)
class SuiteState:
    """One suite on its way: samples in the committed order, `done` of them finished, their scores by sample id."""

    suite: Suite
    samples: tuple[Sample, ...]
    scores: dict[str, Mapping[str, tuple[Score, Score]]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Finished samples; they are always the first ones of the order."""
        return len(self.scores)

    def evidence(self, metric: str) -> Evidence:
        """Everything known under one metric, the unasked samples included."""
        pairs = tuple(
            PairedScore(s.id, s.cluster, s.tags, *self.scores[s.id][metric])
            if s.id in self.scores
            else PairedScore(s.id, s.cluster, s.tags)
            for s in self.samples
            if self.suite.concerns(metric, s)
        )
        sizes: dict[str, int] = {}
        if self.suite.estimand == "frozen" and len(pairs) < len(self.samples):
            own, whole = (Counter(one.cluster for one in some if one.cluster) for some in (pairs, self.samples))
            sizes = {cluster: whole[cluster] for cluster in own if whole[cluster] > own[cluster]}
        return Evidence(self.suite.name, self.suite.metrics[metric], pairs, sizes=sizes)

    def next_chunk(self, schedule: Schedule) -> Sequence[Sample]:
        """The samples up to the next look; the suite must have some left."""
        return self.samples[self.done : next(end for end in _chunk_ends(self.samples, schedule) if end > self.done)]


def open_state(suite: Suite, seed_material: bytes) -> SuiteState:
    """A suite with its samples in the order that `seed_material` commits to; nothing asked yet."""
    samples = suite.samples()
    clusters = [s.cluster or f"\0{s.id}" for s in samples]
    clustered = len(set(clusters)) < len(samples)
    order = commit_order(
        clusters if clustered else None, len(samples), seed_material, size_biased=suite.estimand == "frozen"
    )
    return SuiteState(suite, tuple(samples[i] for i in order))


@dataclass(slots=True)
class Evaluation:
    """The loop: ask, score, write to the journal, look, go on while a guard is open.

    `sources` are further subjects, closed by now perhaps, whose answers may serve as drafts.
    """

    baseline: Subject
    candidate: Subject
    states: Sequence[SuiteState]
    guards: Sequence[Guard]
    run: RunDirectory
    cache: OutputCache
    schedule: Schedule
    observer: Observer
    sources: Sequence[Source] = ()
    _drafting: Drafting = field(init=False)
    _same_tokens: bool = field(init=False)

    def __post_init__(self) -> None:
        by_name = {state.suite.name: state for state in self.states}
        for entry in self.run.entries:
            by_name[entry.suite].scores[entry.sample_id] = entry.scores
        ours, theirs = Source.of(self.baseline), Source.of(self.candidate)
        self._drafting = Drafting(self.cache, (ours, *self.sources, theirs))
        self._same_tokens = ours.tokenizer == theirs.tokenizer

    def finish(self) -> None:
        """Ask until nothing more can be decided. Suites take turns, so a slow one delays no other's decision."""
        began, resumed = time.monotonic(), sum(state.done for state in self.states)
        waiting = [state for state in self.states if self._goes_on(state)]
        while waiting:
            for together in within([(s, s.next_chunk(self.schedule)) for s in waiting], self.schedule.most):
                self._ask_chunks(together)
            waiting = [state for state in waiting if self._goes_on(state)]
            asked = sum(state.done for state in self.states) - resumed
            left = sum(len(state.samples) - state.done for state in waiting)
            self.observer.guards(self.standing(), left * (time.monotonic() - began) / max(asked, 1))

    def evidence(self) -> list[Evidence]:
        """All evidence so far, by suite and metric in the order of the configuration."""
        wanted = dict.fromkeys((g.suite, g.metric) for g in self.guards)
        states = {state.suite.name: state for state in self.states}
        return [states[suite].evidence(metric) for suite, metric in wanted]

    def standing(self) -> list[Comparison]:
        """Where every guard on a whole suite, and every required guard, stands."""
        shown = [g for g in self.guards if g.required or g.slice is None]
        tables = {(e.suite, e.metric.name): Table(e) for e in self.evidence()}
        return [compare(tables[g.suite, g.metric], g, block_alpha=block_level(g, self.guards)) for g in shown]

    def ask(self, arm: Arm, chunks: Sequence[Chunk]) -> list[Answered]:
        """Outputs of one arm for each chunk's samples, all asked together, from the cache where they are known."""
        subject = self.baseline if arm == "baseline" else self.candidate
        name = _joined([suite.name for suite, _ in chunks])

        def answer(requests: Sequence[Request]) -> list[Output]:
            def tell(done: int) -> None:
                self.observer.asking(name, arm, done, len(requests))

            return answer_cached(subject, requests, self.cache, tell, self._drafting)

        return ask_chunks(chunks, subject, answer)

    def _goes_on(self, state: SuiteState) -> bool:
        if state.done == len(state.samples):
            return False
        if not self.schedule.stop_early:
            return True
        # Advisory slices never prolong a run: they report on whatever the guards above them needed.
        mine = [g for g in self.guards if g.suite == state.suite.name and (g.required or g.slice is None)]
        tables = {metric: Table(state.evidence(metric)) for metric in {g.metric for g in mine}}
        return any(is_open(tables[g.metric], g, block_alpha=block_level(g, self.guards)) for g in mine)

    def _ask_chunks(self, together: Sequence[tuple[SuiteState, Sequence[Sample]]]) -> None:
        chunks = [(state.suite, samples) for state, samples in together]
        baseline, candidate = self.ask("baseline", chunks), self.ask("candidate", chunks)
        for (state, samples), ours, theirs in zip(together, baseline, candidate, strict=True):
            pairs = [AnsweredPair(s, b, c) for s, b, c in zip(samples, ours, theirs, strict=True)]
            self._finish_chunk(state, pairs)

    def _finish_chunk(self, state: SuiteState, pairs: Sequence[AnsweredPair]) -> None:
        entries = [
            Entry(
                state.suite.name,
                pair.sample.id,
                pair.sample.prompt,
                " | ".join(pair.sample.targets),
                pair.sample.tags,
                _without_tokens(pair.baseline),
                _without_tokens(pair.candidate),
                {metric: (both.baseline, both.candidate) for metric, both in scores.items()},
                self._drift(state.suite, pair),
                {metric: both.details for metric, both in scores.items() if both.details},
                pair.sample.cluster,
            )
            for pair, scores in zip(pairs, state.suite.score(pairs), strict=True)
        ]
        self.run.append(entries)
        state.scores.update((entry.sample_id, entry.scores) for entry in entries)

    def _drift(self, suite: Suite, pair: AnsweredPair) -> tuple[drift.AnswerDrift, ...]:
        """Drift of every request of a sample on which both subjects decoded greedily from the same tokens."""
        if not self._same_tokens:
            return ()
        ours, theirs = (suite.requests(pair.sample, subject) for subject in (self.baseline, self.candidate))
        same_chat = self.baseline.chat_fingerprint == self.candidate.chat_fingerprint
        # Later turns are asked in the light of a subject's own answers, so only the first requests can be compared.
        both = zip(ours, theirs, pair.baseline, pair.candidate, strict=False)
        found = [drift.compare(b, c) for r, q, b, c in both if r == q and _greedy(r, same_chat)]
        return tuple(answer for answer in found if answer is not None)


def ask_chunks(chunks: Sequence[Chunk], subject: Subject, answer: Answering) -> list[Answered]:
    """Outputs for each chunk's samples, all asked together."""
    groups = [(suite, sample) for suite, samples in chunks for sample in samples]
    flat = iter(ask_in_rounds(groups, subject, answer))
    return [[tuple(next(flat)) for _ in samples] for _, samples in chunks]


def answer_cached(
    subject: Subject,
    requests: Sequence[Request],
    cache: OutputCache,
    tell: Callable[[int], None],
    drafting: Drafting | None = None,
) -> list[Output]:
    """One output a request, in order; equal requests are asked once, and every batch is stored when it is finished."""
    outputs = cache.get(subject.fingerprint, requests)
    places: dict[Request, list[int]] = {}
    for index, request in enumerate(requests):
        if index not in outputs:
            places.setdefault(request, []).append(index)
    missing = list(places)
    offers = (drafting or Drafting(cache, ())).offers(subject, missing)
    for batch in subject.answer(missing, offers.drafts(len(missing))) if missing else ():
        cache.put(subject.fingerprint, [(missing[i], output) for i, output in batch])
        outputs.update((place, output) for i, output in batch for place in places[missing[i]])
        offers.learn(batch)
        tell(len(outputs))
    return [outputs.get(index, UNANSWERED) for index in range(len(requests))]


UNANSWERED = Output(failure="the subject gave no answer to this request")


def _chunk_ends(samples: Sequence[Sample], schedule: Schedule) -> Iterator[int]:
    """Where chunks end, as counts of samples; a cluster is never cut."""
    growth = schedule.growth if schedule.stop_early else max(schedule.growth, _UNWATCHED_GROWTH)
    end, size = 0, float(schedule.first)
    while end < len(samples):
        end = min(len(samples), end + int(size))
        while end < len(samples) and samples[end].cluster and samples[end].cluster == samples[end - 1].cluster:
            end += 1
        yield end
        size = min(size * growth, float(max(schedule.most, schedule.first)))


def within(
    chunks: Iterable[tuple[SuiteState, Sequence[Sample]]], most: int
) -> Iterator[list[tuple[SuiteState, Sequence[Sample]]]]:
    """Neighbouring chunks put together as long as they hold no more than `most` samples; a larger one is alone."""
    together: list[tuple[SuiteState, Sequence[Sample]]] = []
    for state, samples in chunks:
        if together and sum(len(s) for _, s in together) + len(samples) > most:
            yield together
            together = []
        together.append((state, samples))
    if together:
        yield together


def _joined(names: Sequence[str]) -> str:
    """One name for what is asked together."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _greedy(request: Request, same_chat: bool) -> bool:
    """Whether two subjects that are given `request` decode greedily from the same text."""
    return isinstance(request, Generate) and request.temperature == 0 and (same_chat or isinstance(request.prompt, str))


def _without_tokens(outputs: Sequence[Output]) -> tuple[Output, ...]:
    """For the journal: what the tokens were good for has been taken from them, and the cache keeps them."""
    return tuple(
        replace(output, ids=(), logprobs=()) if output.ids or output.logprobs else output for output in outputs
    )
