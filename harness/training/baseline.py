"""The baseline measured on every frozen sample, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from math import fsum

from harness.cache import OutputCache
from harness.errors import SubjectError
from harness.execution.local import Schedule, SuiteState, answer_cached
from harness.gate import Plan, build_subject
from harness.progress import Observer
from harness.records import AnsweredPair
from harness.subjects import Subject, SubjectContext


def measure_baseline(plan: Plan, observer: Observer) -> dict[str, float]:
    """The base's mean score by `suite/metric`; its outputs stay in the gate's cache, so that the gate asks it nothing.

    Raises:
        SubjectError: the baseline cannot be loaded, or none of its answers in a suite can be scored.
    """
    loaded = plan.loaded
    with (
        closing(build_subject(loaded, "baseline", SubjectContext(loaded.folder))) as subject,
        OutputCache(loaded.folder / loaded.gate.cache / "outputs.sqlite") as cache,
    ):
        found: dict[str, float] = {}
        for state in plan.states:
            found |= _measure(state, subject, cache, plan.schedule, observer)
    return found


def _measure(
    state: SuiteState, subject: Subject, cache: OutputCache, schedule: Schedule, observer: Observer
) -> Mapping[str, float]:
    values: dict[str, list[float]] = {metric: [] for metric in state.suite.metrics}
    for start in range(0, len(state.samples), schedule.most):
        samples = state.samples[start : start + schedule.most]
        per_sample = [state.suite.requests(sample, subject) for sample in samples]
        requests = [request for group in per_sample for request in group]

        def tell(done: int, total: int = len(requests)) -> None:
            observer.asking(state.suite.name, "baseline", done, total)

        outputs = iter(answer_cached(subject, requests, cache, tell))
        answered = [tuple(next(outputs) for _ in group) for group in per_sample]
        pairs = [AnsweredPair(s, given, given) for s, given in zip(samples, answered, strict=True)]
        for row in state.suite.score(pairs):
            for metric, both in row.items():
                if both.baseline.value is not None:
                    values[metric].append(both.baseline.value)
    if not any(values.values()):
        raise SubjectError(f"{subject.name} gave no answer in {state.suite.name} that can be scored")
    return {f"{state.suite.name}/{metric}": fsum(v) / len(v) for metric, v in values.items() if v}
