"""Captured production calls as a suite: each asked again of both subjects as it was asked, and what came of it compared

The set is a golden set that `harness shadow freeze` has drawn from stored traces: rows hold the conversation, the tools
and parameters of the request, and what production answered. Tools are never run. Where a subject calls tools whose
results the trace holds for just these arguments, it is told these results and goes on; where it calls anything else
the replay ends there, and the sample's details say which call was not known.

The claim is about the stream that the set was drawn from, with sessions as clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness import assets, goldens
from harness.errors import DataError, nearest
from harness.goldens import GoldenSet, call_key
from harness.goldens.pictures import shows_pictures
from harness.metrics import _calls
from harness.records import Check, Estimand, Generate, Message, MetricSpec, Output, Request, Sample, Score, content_hash
from harness.served import Prices
from harness.subjects import Subject
from harness.suites import AnsweredPair, Plain, ScorePair, SuiteContext, _replayed
from harness.suites._frozen import (
    canonical,
    lock_check,
    locked,
    request,
    training_check,
    without_pictures,
)

_DEFAULT = ("complied", "finished", "format", "valid_calls", "recorded_calls", "liked")


_LATER = ("pictures", "prices", "max_cost")


class PricesOfBoth(BaseModel):
    """Prices of the two sides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline: Prices
    candidate: Prices


class Options(BaseModel):
    """Options of a shadow suite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    set: str = Field(description="name@version of a set that `harness shadow freeze` has made")
    root: Path | None = Field(None, description="folder of the golden sets (default: goldensets/, found upwards)")
    metrics: tuple[str, ...] = Field(_DEFAULT, description="what is compared; also seconds, output_tokens and cost")
    max_seconds: float = Field(60.0, gt=0, description="slower than this is no worse (bounds `seconds`)")
    max_output_tokens: int = Field(8_192, ge=1, description="longer than this is no worse (bounds `output_tokens`)")
    max_steps: int = Field(8, ge=1, description="answers to one call, tool results told in between")
    prices: PricesOfBoth | None = Field(None, description="what the tokens of each side cost; needed for `cost`")
    max_cost: float = Field(1.0, gt=0, description="dollars a call; dearer than this is no worse (bounds `cost`)")
    pictures: bool = Field(True, description="false leaves out calls with pictures, which no local text model takes")

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = (*_replayed.checks(1.0, 1), _replayed.COST)
        for name in value:
            if name not in known:
                raise ValueError(f"no metric {name!r}: {nearest(name, known)}")
        return value

    @model_validator(mode="after")
    def _priced(self) -> Options:
        if _replayed.COST in self.metrics and self.prices is None:
            raise ValueError("the metric cost needs prices: {baseline: {input, output}, candidate: {input, output}}")
        return self


class ShadowSuite(Plain):
    """See the module."""

    estimand: Estimand = "population"

    def __init__(self, golden: GoldenSet, options: Options, context: SuiteContext) -> None:
        self.name, self.largest_cluster = golden.name, golden.card.largest_cluster
        self._golden, self._options, self._context = golden, options, context
        known = _replayed.checks(options.max_seconds, options.max_output_tokens)
        theirs: dict[str, _replayed.Check] = {}
        if options.prices is not None:
            known[_replayed.COST], theirs[_replayed.COST] = (
                _replayed.cost(prices, options.max_cost)
                for prices in (options.prices.baseline, options.prices.candidate)
            )
        asked = {name: known[name] for name in options.metrics}
        self._samples = [s for s in golden.samples if options.pictures or not shows_pictures(s)]
        # A metric that concerns no call of this set could only ever be undecided.
        self._checks = {n: c for n, c in asked.items() if any(map(c.concerns, self._samples))}
        self._theirs = {**self._checks, **theirs}
        if not self._checks:
            raise DataError(f"{golden.reference}: none of {', '.join(asked)} concerns any of its calls")
        self.metrics: Mapping[str, MetricSpec] = {name: check.spec for name, check in self._checks.items()}

    def digest(self) -> str:
        """SHA-256 over the set's files and every option."""
        # What was asked before there were these keeps its digest, and with it the runs that can be resumed.
        later = {name for name in _LATER if getattr(self._options, name) == Options.model_fields[name].default}
        options = self._options.model_dump(mode="json", exclude={"root", *later})
        return content_hash({"set": self._golden.digest, "options": options})

    def samples(self) -> Sequence[Sample]:
        """All calls of the set that are asked, in file order."""
        return self._samples

    def concerns(self, metric: str, sample: Sample) -> bool:
        """Whether a metric can be asked of a call."""
        return self._checks[metric].concerns(sample)

    def checks(self) -> Sequence[Check]:
        """Lock intact; no training row among the calls; how many are not asked, because a model takes no pictures."""
        golden, trained = self._golden, self._context.training_files
        overlap = [training_check(trained, golden.samples, golden.reference)] if trained else []
        return [lock_check(golden), *overlap, *without_pictures(golden, self._samples)]

    def requests(self, sample: Sample, subject: Subject) -> tuple[Request, ...]:
        """The call as it was asked."""
        return (self._first(sample),)

    def follow_up(self, sample: Sample, subject: Subject, outputs: Sequence[Output]) -> tuple[Request, ...]:
        """The results of the tools that were called last, where the trace holds all of them."""
        if len(outputs) >= self._options.max_steps:
            return ()
        first = self._first(sample)
        if isinstance(first.prompt, str):
            return ()
        said = list(first.prompt)
        for output in outputs:
            turn = _told(sample, output)
            if turn is None:
                return ()
            said += turn
        return (replace(first, prompt=tuple(said)),)

    def score(self, answered: Sequence[AnsweredPair]) -> list[Mapping[str, ScorePair]]:
        """See `Suite.score`."""
        return [self._score(pair) for pair in answered]

    def describe(self) -> dict[str, Any]:
        """Which set was replayed, and its entry in the lock."""
        return {"replayed": self._golden.reference, **locked(self._golden)}

    def _first(self, sample: Sample) -> Generate:
        return request(sample, self._golden.card.generation, chat=True)

    def _score(self, pair: AnsweredPair) -> dict[str, ScorePair]:
        details = _details(pair)
        return {
            name: ScorePair(
                _side(check, pair.sample, pair.baseline),
                _side(self._theirs[name], pair.sample, pair.candidate),
                details,
            )
            for name, check in self._checks.items()
            if check.concerns(pair.sample)
        }


def build(options: Options, context: SuiteContext) -> ShadowSuite:
    """The suite.

    Raises:
        LockError: the set is not frozen, or not what was frozen.
        DataError: no metric concerns any of its calls.
    """
    explicit = context.folder / options.root if options.root is not None else None
    golden = goldens.load(assets.find("goldensets", explicit, start=context.folder), options.set)
    return ShadowSuite(golden, options, context)


def _side(check: _replayed.Check, sample: Sample, outputs: Sequence[Output]) -> Score:
    failures = [output.failure for output in outputs if output.failure is not None]
    if failures or not outputs:
        return Score.failed(failures[0] if failures else "no answer")
    return check.spec.checked(check.score(sample, outputs))


def _told(sample: Sample, output: Output) -> list[Message] | None:
    """An answer with tool calls, and the recorded results of all of them; None where there is no call, or no result."""
    if output.failure is not None:
        return None
    calls = _calls.written(output.spoken or "")
    found = [_result(sample, call) for call in calls]
    if not calls or any(result is None for result in found):
        return None
    asked = [{"id": f"call_{i}", "name": c.name, "arguments": dict(c.arguments)} for i, c in enumerate(calls)]
    turn = Message("assistant", output.text or "" if output.tool_calls else "", tool_calls=canonical(asked))
    return [turn, *(Message("tool", r or "", tool_call_id=f"call_{i}") for i, r in enumerate(found))]


def _details(pair: AnsweredPair) -> dict[str, Any]:
    """How far each side came: its steps, and the calls at which its replay ended for want of a recorded result."""
    sides = {"baseline": pair.baseline, "candidate": pair.candidate}
    told: dict[str, dict[str, Any]] = {
        arm: {"steps": len(outputs), "unknown_calls": _unknown(pair.sample, outputs)} for arm, outputs in sides.items()
    }
    return told if any(said["steps"] > 1 or said["unknown_calls"] for said in told.values()) else {}


def _unknown(sample: Sample, outputs: Sequence[Output]) -> list[str]:
    if not outputs or outputs[-1].failure is not None:
        return []
    calls = _calls.written(outputs[-1].spoken or "")
    return [_calls.spelled(call) for call in calls if _result(sample, call) is None][:8]


def _result(sample: Sample, call: _calls.Call) -> str | None:
    """What the tool said in production; None where it was not called so, or the call cannot be read."""
    try:
        key = call_key(call.name, dict(call.arguments))
    except ValueError:
        return None
    found = (sample.data.get("results") or {}).get(key) if call.name else None
    return found if isinstance(found, str) else None
