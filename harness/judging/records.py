"""The nouns of judging: what is put to a judge, what it says, and what it may be asked with.

A judge reads a case, one output of one sample, or a pair of cases, and says a judgement: `scored` with a value,
`abstained` where it says that it cannot tell, `failed` where it said nothing that can be used. No failure has a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from harness.records import Sample, content_hash
from harness.served import FailureKind

JudgementState = Literal["scored", "abstained", "failed"]


@dataclass(frozen=True, slots=True)
class Case:
    """One output to be judged, with its sample. A conversation's earlier answers stand in `answers`, oldest first.

    `sample.data` holds what else a rubric may show: `context`, `reference`, `tools`, `calls` …; `sample.targets` are
    the references where `data` names none. `output` is untrusted, and so is everything in `sample`.
    """

    sample: Sample
    output: str
    answers: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """SHA-256 over everything that a judge can read here; the id of the sample is no part of it."""
        s = self.sample
        shown = [s.prompt, [[m.role, m.content] for m in s.messages], list(s.targets), list(s.choices), dict(s.data)]
        return content_hash([shown, list(self.answers), self.output])


@dataclass(frozen=True, slots=True)
class PairCase:
    """Two outputs of one sample to be compared, the baseline's first."""

    first: Case
    second: Case

    @property
    def key(self) -> str:
        """SHA-256 over both cases, in their order."""
        return content_hash([self.first.key, self.second.key])


@dataclass(frozen=True, slots=True)
class Usage:
    """What judging has used: calls sent, calls saved, tokens, US dollars (None: no price is known), failures."""

    calls: int = 0
    cached: int = 0
    repaired: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Both together; a cost that is not known makes the sum unknown."""
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        return Usage(
            self.calls + other.calls,
            self.cached + other.cached,
            self.repaired + other.repaired,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            cost,
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of a case or a pair.

    `value` is there exactly when the state is `scored`: a level of the rubric's scale for a case; for a pair −1 where
    the first output is better, 1 where the second is, 0 for a tie or where the two orders disagree. `reason` holds the
    judge's own words (untrusted), or why there is no value. `details` is JSON-ready: what each order or juror said.
    """

    state: JudgementState
    value: float | None = None
    reason: str = ""
    failure: FailureKind | None = None
    usage: Usage = field(default_factory=Usage)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.state == "scored") != (self.value is not None):
            raise ValueError(f"a {self.state} judgement with value {self.value!r}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError("a judgement's value must be finite")
        if (self.state == "failed") != (self.failure is not None):
            raise ValueError(f"a {self.state} judgement with failure {self.failure!r}")
        if self.state != "scored" and not self.reason:
            raise ValueError(f"a {self.state} judgement needs a reason")


class Judge(Protocol):
    """Whatever judges by one rubric: a served model, a classifier, a jury.

    `fingerprint` is a SHA-256 over everything that can change a judgement (model, server, rubric, prompt, settings,
    parse rule): it keys what is remembered, and a calibration holds for one fingerprint only.
    """

    name: str
    fingerprint: str
    bounds: tuple[float, float]
    pairwise: bool

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        """One judgement a case, in order; for a judge that is not pairwise."""
        ...

    def compare(self, pairs: Sequence[PairCase]) -> list[Judgement]:
        """One judgement a pair, in order, both orders asked; for a pairwise judge."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a manifest records: rubric and version, model, settings, hashes; JSON-ready, no secrets."""
        ...

    def close(self) -> None:
        """Release connections and memory."""
        ...
