"""Evaluate suites in this process, chunk by chunk, until every guard is decided.

The order of a suite's samples and the ends of its chunks are fixed before any output exists, and whether a suite goes
on depends on its own evidence alone. So a run that was killed and resumed, or that finds its outputs in the cache,
asks for the same samples and ends at the same place as one that ran through.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.cache import OutputCache
from harness.policy import Table, block_level, compare, is_open
from harness.progress import Observer
from harness.records import AnsweredPair, Comparison, Evidence, Guard, Output, PairedScore, Request, Sample, Score
from harness.runs import Entry, RunDirectory
from harness.statistics.ordering import commit_order
from harness.subjects import Subject
from harness.suites import Suite

Arm = Literal["baseline", "candidate"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many samples of a suite are asked between two looks: `first`, then `growth` times as many each."""

    first: int = 64
    growth: float = 1.5
    stop_early: bool = True


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
        )
        return Evidence(self.suite.name, self.suite.metrics[metric], pairs)


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
    """The loop: ask, score, write to the journal, look, go on while a guard is open."""

    baseline: Subject
    candidate: Subject
    states: Sequence[SuiteState]
    guards: Sequence[Guard]
    run: RunDirectory
    cache: OutputCache
    schedule: Schedule
    observer: Observer

    def __post_init__(self) -> None:
        by_name = {state.suite.name: state for state in self.states}
        for entry in self.run.entries:
            by_name[entry.suite].scores[entry.sample_id] = entry.scores

    def finish(self) -> None:
        """Ask until nothing more can be decided. Suites take turns, so a slow one delays no other's decision."""
        began, resumed = time.monotonic(), sum(state.done for state in self.states)
        waiting = [state for state in self.states if self._goes_on(state)]
        while waiting:
            for state in waiting:
                self._ask_chunk(state)
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

    def _goes_on(self, state: SuiteState) -> bool:
        if state.done == len(state.samples):
            return False
        if not self.schedule.stop_early:
            return True
        # Advisory slices never prolong a run: they report on whatever the guards above them needed.
        mine = [g for g in self.guards if g.suite == state.suite.name and (g.required or g.slice is None)]
        tables = {metric: Table(state.evidence(metric)) for metric in {g.metric for g in mine}}
        return any(is_open(tables[g.metric], g, block_alpha=block_level(g, self.guards)) for g in mine)

    def _ask_chunk(self, state: SuiteState) -> None:
        end = next(end for end in _chunk_ends(state.samples, self.schedule) if end > state.done)
        chunk = state.samples[state.done : end]
        baseline = self.ask("baseline", state.suite, chunk)
        candidate = self.ask("candidate", state.suite, chunk)
        pairs = [AnsweredPair(s, b, c) for s, b, c in zip(chunk, baseline, candidate, strict=True)]
        entries = [
            Entry(
                state.suite.name,
                pair.sample.id,
                pair.sample.prompt,
                " | ".join(pair.sample.targets),
                pair.sample.tags,
                tuple(pair.baseline),
                tuple(pair.candidate),
                {metric: (both.baseline, both.candidate) for metric, both in scores.items()},
            )
            for pair, scores in zip(pairs, state.suite.score(pairs), strict=True)
        ]
        self.run.append(entries)
        state.scores.update((entry.sample_id, entry.scores) for entry in entries)

    def ask(self, arm: Arm, suite: Suite, samples: Sequence[Sample]) -> list[tuple[Output, ...]]:
        """Outputs of one arm for each sample's requests, from the cache where it has been asked before."""
        subject = self.baseline if arm == "baseline" else self.candidate
        per_sample = [suite.requests(sample, subject) for sample in samples]
        requests = [request for group in per_sample for request in group]
        outputs = answer_cached(subject, requests, self.cache, lambda done: self._tell(suite, arm, done, len(requests)))
        flat = iter(outputs)
        return [tuple(next(flat) for _ in group) for group in per_sample]

    def _tell(self, suite: Suite, arm: Arm, done: int, total: int) -> None:
        self.observer.asking(suite.name, arm, done, total)


def answer_cached(
    subject: Subject, requests: Sequence[Request], cache: OutputCache, tell: Callable[[int], None]
) -> list[Output]:
    """One output a request, in order; equal requests are asked once, and every batch is stored when it is finished."""
    outputs = cache.get(subject.fingerprint, requests)
    places: dict[Request, list[int]] = {}
    for index, request in enumerate(requests):
        if index not in outputs:
            places.setdefault(request, []).append(index)
    missing = list(places)
    for batch in subject.answer(missing) if missing else ():
        cache.put(subject.fingerprint, [(missing[i], output) for i, output in batch])
        outputs.update((place, output) for i, output in batch for place in places[missing[i]])
        tell(len(outputs))
    return [outputs.get(index, UNANSWERED) for index in range(len(requests))]


UNANSWERED = Output(failure="the subject gave no answer to this request")


def _chunk_ends(samples: Sequence[Sample], schedule: Schedule) -> Iterator[int]:
    """Where chunks end, as counts of samples; a cluster is never cut."""
    end, size = 0, float(schedule.first)
    while end < len(samples):
        end = min(len(samples), end + int(size))
        while end < len(samples) and samples[end].cluster and samples[end].cluster == samples[end - 1].cluster:
            end += 1
        yield end
        size *= schedule.growth
