"""The baseline measured on every frozen sample, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from math import fsum

from harness.cache import OutputCache
from harness.errors import SubjectError
from harness.execution.local import SuiteState, answer_cached, ask_chunks
from harness.gate import Plan, build_subject
from harness.progress import Observer
from harness.records import Output, Request
from harness.subjects import Subject, SubjectContext
from harness.suites import AnsweredPair


def measure_baseline(plan: Plan, observer: Observer) -> dict[str, float]:
    """The base's mean score by `suite/metric`; its outputs stay in the gate's cache, so that the gate asks it nothing.

    Raises:
        SubjectError: the baseline cannot be loaded, or more of its answers have no score than a guard allows.
    """
    loaded = plan.loaded
    with (
        closing(build_subject(loaded, "baseline", SubjectContext(loaded.folder))) as subject,
        OutputCache(loaded.folder / loaded.gate.cache / "outputs.sqlite") as cache,
    ):
        found: dict[str, float] = {}
        for state in plan.states:
            found |= _measure(plan, state, subject, cache, observer)
    return found


def _measure(
    plan: Plan, state: SuiteState, subject: Subject, cache: OutputCache, observer: Observer
) -> Mapping[str, float]:
    values: dict[str, list[float]] = {g.metric: [] for g in plan.guards if g.suite == state.suite.name}
    for start in range(0, len(state.samples), plan.schedule.most):
        samples = state.samples[start : start + plan.schedule.most]

        def answer(requests: Sequence[Request]) -> list[Output]:
            def tell(done: int) -> None:
                observer.asking(state.suite.name, "baseline", done, len(requests))

            return answer_cached(subject, requests, cache, tell)

        (answered,) = ask_chunks([(state.suite, samples)], subject, answer)
        if state.suite.asks_judges:  # what it is worth, a judge says when there is something to compare it with
            continue
        pairs = [AnsweredPair(s, given, given) for s, given in zip(samples, answered, strict=True)]
        for row in state.suite.score(pairs):
            for metric in values:
                score = row[metric].baseline.value
                if score is not None:
                    values[metric].append(score)
    if state.suite.asks_judges:
        return {}
    for metric, scored in values.items():
        _refuse_failures(plan, state, metric, len(state.samples) - len(scored), observer)
    return {f"{state.suite.name}/{metric}": fsum(v) / len(v) for metric, v in values.items()}


def _refuse_failures(plan: Plan, state: SuiteState, metric: str, failed: int, observer: Observer) -> None:
    """A mean over what happened to be scored measures nothing: what failed is said, and too much of it ends the run."""
    if not failed:
        return
    told = f"{failed} of {len(state.samples)} samples of {state.suite.name} have no {metric} of the baseline"
    mine = (g for g in plan.guards if g.required and (g.suite, g.metric) == (state.suite.name, metric))
    allowed = min((g.max_failures for g in mine), default=1.0)
    if failed == len(state.samples) or failed / len(state.samples) > allowed:
        raise SubjectError(f"{told}; the gate would hold whatever is trained, so nothing is trained")
    observer.note(told)
