"""Suites turn (two subjects, samples) into evidence: golden, capability, judge, shadow. One module each.

A suite plugin's `build(options, context)` returns a `Suite`. Suites do not know each other, and none knows the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from harness.config import GuardSection, JudgesSection
from harness.records import Check, Estimand, MetricSpec, Output, Request, Sample, Score
from harness.subjects import Subject


@dataclass(frozen=True, slots=True)
class AnsweredPair:
    """One sample with the outputs of both subjects to the same number of requests."""

    sample: Sample
    baseline: Sequence[Output]
    candidate: Sequence[Output]


@dataclass(frozen=True, slots=True)
class ScorePair:
    """Both scores that a suite gave one answered sample under one metric.

    `details` is JSON that the journal keeps beside them: how a judge came to them.
    """

    baseline: Score
    candidate: Score
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def tied(cls) -> ScorePair:
        """Both outputs are the same; see `Score.tied`."""
        return cls(Score.tied(), Score.tied())


@dataclass(frozen=True, slots=True)
class SuiteContext:
    """What a suite may use besides its own options: where relative paths start, and what the user allowed.

    `cache` is the folder of what is remembered between runs (None: nothing is), `required` the metrics that a required
    guard of this suite looks at (None: all), `candidates` what the candidate is made of, as far as its section says so.
    """

    folder: Path
    training_files: tuple[Path, ...] = ()
    allow: frozenset[str] = field(default_factory=frozenset)
    cache: Path | None = None
    required: frozenset[str] | None = None
    judges: JudgesSection = field(default_factory=JudgesSection)
    candidates: tuple[str, ...] = ()


class Suite(Protocol):
    """A named list of frozen samples and the way to score two subjects' outputs on them.

    `labels` says how many pairs people judge beside the suite's own scores (0: none); `asks_judges` that scoring asks
    somebody else, so that it costs time and money. `largest_cluster` is the most samples that any cluster of
    the stream could have given (0: not known, so that the largest in the set has to stand for it).
    """

    name: str
    estimand: Estimand
    metrics: Mapping[str, MetricSpec]
    labels: int
    asks_judges: bool
    largest_cluster: int

    def digest(self) -> str:
        """SHA-256 over the frozen samples and every setting that can change a request or a score."""
        ...

    def checks(self) -> Sequence[Check]:
        """The suite's own pre-flight checks (lock intact, no few-shot leak …); must not ask a subject."""
        ...

    def samples(self) -> Sequence[Sample]:
        """All samples, in file order, with unique ids."""
        ...

    def concerns(self, metric: str, sample: Sample) -> bool:
        """Whether a metric says anything about a sample; a score under it is then there, and otherwise not."""
        ...

    def requests(self, sample: Sample, subject: Subject) -> tuple[Request, ...]:
        """What to ask `subject` for one sample; only its chat template may make a difference between subjects."""
        ...

    def follow_up(self, sample: Sample, subject: Subject, outputs: Sequence[Output]) -> tuple[Request, ...]:
        """What to ask after `outputs`, all so far; nothing ends the sample. A later turn is asked this way."""
        ...

    def companions(self) -> Sequence[Suite]:
        """Further suites that come with this one, with guards of their own (`default_guards`)."""
        ...

    def default_guards(self) -> Sequence[GuardSection]:
        """The guards of a suite whose section names none; none of them: one a metric, with the policy's margin."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the manifest records beside digest and samples; JSON-ready, no secrets, and nothing seen in a run."""
        ...

    def remarks(self) -> Sequence[str]:
        """How the scores were come by, in sentences worth telling: calls saved, biases, costs."""
        ...

    def close(self) -> None:
        """Release connections and memory; the suite is not used afterwards."""
        ...

    def score(self, answered: Sequence[AnsweredPair]) -> list[Mapping[str, ScorePair]]:
        """One mapping (metric that concerns it → both scores) a pair, in order; a failure is a failed score."""
        ...


class Plain:
    """Mixin for suites that ask once, score by themselves and have nothing more to tell."""

    labels: int = 0
    asks_judges: bool = False
    largest_cluster: int = 0

    def concerns(self, metric: str, sample: Sample) -> bool:
        """Every metric is about every sample."""
        return True

    def follow_up(self, sample: Sample, subject: Subject, outputs: Sequence[Output]) -> tuple[Request, ...]:
        """Nothing."""
        return ()

    def companions(self) -> Sequence[Suite]:
        """None."""
        return ()

    def default_guards(self) -> Sequence[GuardSection]:
        """None of its own."""
        return ()

    def describe(self) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def remarks(self) -> Sequence[str]:
        """Nothing to tell."""
        return ()

    def close(self) -> None:
        """Nothing is held."""


class Pointwise(Plain):
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
        candidate = baseline if alike(pair.baseline, pair.candidate) else self._score_side(pair.sample, pair.candidate)
        return {m: ScorePair(baseline[m], candidate[m]) for m in self.metrics}

    def _score_side(self, sample: Sample, outputs: Sequence[Output]) -> dict[str, Score]:
        failures = [o.failure for o in outputs if o.failure is not None]
        if failures:
            return {m: Score.failed(failures[0]) for m in self.metrics}
        scores = self.score_one(sample, outputs)
        absent = Score.failed("the metric returned nothing for this sample")
        return {m: spec.checked(scores.get(m, absent)) for m, spec in self.metrics.items()}


Answering = Callable[[Sequence[Request]], Sequence[Output]]
"""Outputs to requests, in their order."""


def ask_in_rounds(groups: Sequence[tuple[Suite, Sample]], subject: Subject, answer: Answering) -> list[list[Output]]:
    """All outputs of each sample: to its first requests, then to what its suite asks in their light, and so on."""
    outputs: list[list[Output]] = [[] for _ in groups]
    asked = [suite.requests(sample, subject) for suite, sample in groups]
    while any(asked):
        given = iter(answer([request for requests in asked for request in requests]))
        for said, requests in zip(outputs, asked, strict=True):
            said += [next(given) for _ in requests]
        asked = [
            suite.follow_up(sample, subject, said) if requests else ()
            for (suite, sample), said, requests in zip(groups, outputs, asked, strict=True)
        ]
    return outputs


def alike(first: Sequence[Output], second: Sequence[Output]) -> bool:
    """Whether two subjects said the same, in so far as a metric or a judge may read it."""
    return [_said(output) for output in first] == [_said(output) for output in second]


def _said(output: Output) -> Output:
    """What a metric may read of an output: not how sure the model was of each token, nor how long it took."""
    plain = not (output.ids or output.logprobs or output.near_ties or output.seconds)
    return output if plain else replace(output, ids=(), logprobs=(), near_ties=0, seconds=0.0)
