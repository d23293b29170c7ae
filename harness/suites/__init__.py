"""Suites turn (two subjects, samples) into evidence: golden, capability, judge, shadow. One module each.

A suite plugin's `build(options, context)` returns a `Suite`. Suites do not know each other, and none knows the gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from harness.records import AnsweredPair, Check, Estimand, MetricSpec, Output, Request, Sample, Score, ScorePair
from harness.subjects import Subject


@dataclass(frozen=True, slots=True)
class SuiteContext:
    """What a suite may use besides its own options: where relative paths start, and what the user allowed."""

    folder: Path
    training_files: tuple[Path, ...] = ()
    allow: frozenset[str] = field(default_factory=frozenset)


class Suite(Protocol):
    """A named list of frozen samples and the way to score two subjects' outputs on them."""

    name: str
    estimand: Estimand
    metrics: Mapping[str, MetricSpec]

    def digest(self) -> str:
        """SHA-256 over the frozen samples and every setting that can change a request or a score."""
        ...

    def checks(self) -> Sequence[Check]:
        """The suite's own pre-flight checks (lock intact, no few-shot leak …); must not ask a subject."""
        ...

    def samples(self) -> Sequence[Sample]:
        """All samples, in file order, with unique ids."""
        ...

    def requests(self, sample: Sample, subject: Subject) -> tuple[Request, ...]:
        """What to ask `subject` for one sample; only its chat template may make a difference between subjects."""
        ...

    def score(self, answered: Sequence[AnsweredPair]) -> list[Mapping[str, ScorePair]]:
        """One mapping (metric name → both scores) per answered pair, in order; a failure is a failed score."""
        ...


class Pointwise:
    """Mixin for suites that score each side by itself: `score` from `score_one`, identical outputs scored once."""

    metrics: Mapping[str, MetricSpec]

    def score_one(self, sample: Sample, outputs: Sequence[Output]) -> Mapping[str, Score]:
        """Scores of one side by metric name; outputs with a failure never reach it."""
        raise NotImplementedError

    def score(self, answered: Sequence[AnsweredPair]) -> list[Mapping[str, ScorePair]]:
        """See `Suite.score`."""
        return [self._score_pair(pair) for pair in answered]

    def _score_pair(self, pair: AnsweredPair) -> dict[str, ScorePair]:
        baseline = self._score_side(pair.sample, pair.baseline)
        same = [_said(o) for o in pair.baseline] == [_said(o) for o in pair.candidate]
        candidate = baseline if same else self._score_side(pair.sample, pair.candidate)
        return {m: ScorePair(baseline[m], candidate[m]) for m in self.metrics}

    def _score_side(self, sample: Sample, outputs: Sequence[Output]) -> dict[str, Score]:
        failures = [o.failure for o in outputs if o.failure is not None]
        if failures:
            return {m: Score.failed(failures[0]) for m in self.metrics}
        scores = self.score_one(sample, outputs)
        absent = Score.failed("the metric returned nothing for this sample")
        return {m: spec.checked(scores.get(m, absent)) for m, spec in self.metrics.items()}


def _said(output: Output) -> Output:
    """What a metric may read of an output: not how sure the model was of each token."""
    plain = not (output.ids or output.logprobs or output.near_ties)
    return output if plain else replace(output, ids=(), logprobs=(), near_ties=0)
