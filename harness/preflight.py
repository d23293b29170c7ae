"""Checks made before any sample counts: each is named in the record, and one that fails makes the verdict HOLD."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.execution.local import UNANSWERED, Answered, Chunk, Evaluation, SuiteState, ask_chunks, within
from harness.records import Check, Guard, Output, PairedScore, Request
from harness.statistics.proportions import proportion_lower_bound
from harness.subjects import Selective
from harness.suites import AnsweredPair, ScorePair

_NOISE = "noise-floor"
_NOISE_CONFIDENCE = 0.95


def noise_floors(evaluation: Evaluation, states: Sequence[SuiteState], count: int) -> list[Check]:
    """Ask the baseline the first `count` samples of every suite twice and compare it with itself, a check a suite.

    The second time the requests come in reverse and past the cache, so that they fall into other batches. A check
    fails when the share of samples whose score changed is shown (exact binomial, 95 %, one-sided) to exceed the
    smallest margin of the suite's required guards: then a difference of the size of the margin means nothing.
    """
    asked = [state for state in states if count and _required(evaluation, state)]
    scores: dict[str, Sequence[Mapping[str, ScorePair]]] = {}
    for together in within([(state, state.samples[:count]) for state in asked], evaluation.schedule.most):
        chunks = [(state.suite, samples) for state, samples in together]
        both = zip(chunks, evaluation.ask("baseline", chunks), _ask_again(evaluation, chunks), strict=True)
        for (suite, samples), first, again in both:
            pairs = [AnsweredPair(s, a, b) for s, a, b in zip(samples, first, again, strict=True)]
            scores[suite.name] = suite.score(pairs)
    return [_noise_check(evaluation, state, scores.get(state.suite.name), count) for state in states]


def _ask_again(evaluation: Evaluation, chunks: Sequence[Chunk]) -> list[Answered]:
    subject = evaluation.baseline

    def answer(requests: Sequence[Request]) -> list[Output]:
        backwards = requests[::-1]
        outputs = {i: output for batch in subject.answer(backwards) for i, output in batch} if backwards else {}
        return [outputs.get(i, UNANSWERED) for i in reversed(range(len(backwards)))]

    return ask_chunks(chunks, subject, answer)


def _required(evaluation: Evaluation, state: SuiteState) -> list[Guard]:
    return [g for g in evaluation.guards if g.suite == state.suite.name and g.required]


def _noise_check(
    evaluation: Evaluation, state: SuiteState, scores: Sequence[Mapping[str, ScorePair]] | None, count: int
) -> Check:
    name = f"{_NOISE} {state.suite.name}"
    if scores is None:
        return Check(name, True, "no required guard to check" if count else "turned off (noise_probe: 0)")
    guards = _required(evaluation, state)
    checks = [_judge_noise(name, [row[g.metric] for row in scores], g, state) for g in guards]
    return min(checks, key=lambda check: check.passed)


def _judge_noise(name: str, scores: Sequence[ScorePair], guard: Guard, state: SuiteState) -> Check:
    complete = [d for s in scores if (d := PairedScore("", "", (), s.baseline, s.candidate).difference) is not None]
    changed = sum(d != 0 for d in complete)
    if not complete:
        return Check(name, True, "no sample was scored twice; failures are counted in the guard itself")
    span = state.suite.metrics[guard.metric].span
    shown = proportion_lower_bound(changed, len(complete), confidence=_NOISE_CONFIDENCE) * span
    tolerated = abs(guard.tolerated)
    detail = f"baseline against itself: {changed} of {len(complete)} {guard.metric} scores changed"
    if shown <= tolerated:
        return Check(name, True, detail)
    return Check(
        name,
        False,
        f"{detail}, which exceeds the margin {tolerated:g}; use float32, turn sampling off, or widen the margin",
    )


def answerable(evaluation: Evaluation) -> list[Check]:
    """A check for each suite that a subject can never answer, before anything is asked, and none for the others."""
    checks = []
    for subject in (evaluation.baseline, evaluation.candidate):
        if isinstance(subject, Selective):
            found = ((state.suite.name, _refusal(subject, state)) for state in evaluation.states)
            checks += [Check(f"answerable {suite}", False, reason) for suite, reason in found if reason]
    return checks


def _refusal(subject: Any, state: SuiteState) -> str | None:
    requests = (request for sample in state.samples for request in state.suite.requests(sample, subject))
    return next((f"{subject.name}: {reason}" for r in requests if (reason := subject.refusal(r)) is not None), None)


def run(evaluation: Evaluation, noise_probe: int, known: MutableMapping[str, Any] | None = None) -> list[Check]:
    """Every check of a run, in the order in which a reader wants them.

    What needs a subject is found out once: a resumed run takes it from the journal. `known` carries what concerns the
    baseline alone, by name, from one candidate to the next.
    """
    checks = [check for state in evaluation.states for check in state.suite.checks()]
    checks += answerable(evaluation)
    found = evaluation.run.fact("subjects")
    if found is None:
        found = [asdict(check) for check in evaluation.candidate.checks(evaluation.baseline)]
        evaluation.run.note_fact("subjects", found)
    checks += [Check(**check) for check in found]
    if all(check.passed for check in checks):
        checks += _noise(evaluation, noise_probe, {} if known is None else known)
    return checks


def _noise(evaluation: Evaluation, count: int, known: MutableMapping[str, Any]) -> list[Check]:
    names = {f"{_NOISE} {state.suite.name}": state for state in evaluation.states}
    stored = {name: evaluation.run.fact(name) or known.get(name) for name in names}
    unknown = [state for name, state in names.items() if stored[name] is None]
    stored |= {check.name: [asdict(check)] for check in noise_floors(evaluation, unknown, count)}
    for name, fact in stored.items():
        if evaluation.run.fact(name) is None:
            evaluation.run.note_fact(name, fact)
    known.update(stored)
    return [Check(**check) for fact in stored.values() for check in fact or ()]
