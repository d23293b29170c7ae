"""Checks made before any sample counts: each is named in the record, and one that fails makes the verdict HOLD."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from harness.execution.local import UNANSWERED, Evaluation, SuiteState
from harness.records import AnsweredPair, Check, Guard, Output, ScorePair
from harness.statistics.proportions import proportion_lower_bound

_NOISE_CONFIDENCE = 0.95


def noise_floor(evaluation: Evaluation, state: SuiteState, count: int) -> Check:
    """Ask the baseline the suite's first `count` samples twice and compare it with itself.

    The second time the requests come in reverse and past the cache, so that they fall into other batches. The check
    fails when the share of samples whose score changed is shown (exact binomial, 95 %, one-sided) to exceed the
    smallest margin of the suite's required guards: then a difference of the size of the margin means nothing.
    """
    name = f"noise-floor {state.suite.name}"
    guards = [g for g in evaluation.guards if g.suite == state.suite.name and g.required]
    samples = state.samples[:count]
    if not guards or not samples:
        return Check(name, True, "no required guard to check" if samples else "turned off (noise_probe: 0)")
    (first,) = evaluation.ask("baseline", [(state.suite, samples)])
    again = _ask_again(evaluation, state, len(samples))
    pairs = [AnsweredPair(s, a, b) for s, a, b in zip(samples, first, again, strict=True)]
    scores = state.suite.score(pairs)
    checks = [_judge_noise(name, [row[g.metric] for row in scores], g, state) for g in guards]
    return min(checks, key=lambda check: check.passed)


def _ask_again(evaluation: Evaluation, state: SuiteState, count: int) -> list[tuple[Output, ...]]:
    subject = evaluation.baseline
    per_sample = [state.suite.requests(sample, subject) for sample in state.samples[:count]]
    requests = [request for group in per_sample for request in group]
    backwards = requests[::-1]
    outputs = {i: output for batch in subject.answer(backwards) for i, output in batch}
    flat = iter(outputs.get(i, UNANSWERED) for i in reversed(range(len(backwards))))
    return [tuple(next(flat) for _ in group) for group in per_sample]


def _judge_noise(name: str, scores: Sequence[ScorePair], guard: Guard, state: SuiteState) -> Check:
    both = [(s.baseline.value, s.candidate.value) for s in scores]
    complete = [(a, b) for a, b in both if a is not None and b is not None]
    changed = sum(a != b for a, b in complete)
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


def run(evaluation: Evaluation, noise_probe: int, known: MutableMapping[str, Any] | None = None) -> list[Check]:
    """Every check of a run, in the order in which a reader wants them.

    What needs a subject is found out once: a resumed run takes it from the journal. `known` carries what concerns the
    baseline alone, by name, from one candidate to the next.
    """
    shared: MutableMapping[str, Any] = {} if known is None else known
    checks = [check for state in evaluation.states for check in state.suite.checks()]
    checks += _remembered(evaluation, "subjects", lambda: list(evaluation.candidate.checks(evaluation.baseline)), {})
    for state in evaluation.states:
        if all(check.passed for check in checks):
            probe = partial(_noise, evaluation, state, noise_probe)
            checks += _remembered(evaluation, f"noise-floor {state.suite.name}", probe, shared)
    return checks


def _noise(evaluation: Evaluation, state: SuiteState, count: int) -> list[Check]:
    return [noise_floor(evaluation, state, count)]


def _remembered(
    evaluation: Evaluation, name: str, find_out: Callable[[], list[Check]], known: MutableMapping[str, Any]
) -> list[Check]:
    stored = evaluation.run.fact(name)
    if stored is None:
        stored = known.get(name) or [asdict(check) for check in find_out()]
        evaluation.run.note_fact(name, stored)
    known[name] = stored
    return [Check(**check) for check in stored]
