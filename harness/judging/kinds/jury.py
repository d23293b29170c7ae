"""A jury: several judges apply one rubric, and a stated rule makes one judgement of theirs

`majority` is the value that more than half of the votes have; `median` and `mean` are of all votes. Only a scored
judgement is a vote: a juror that fails or abstains has none, and is never counted as the lowest level. Where fewer
than `quorum` jurors voted there is no value: the jury failed if it is failures that kept it from its quorum, else it
abstained.

With `escalate` the last judge is asked only where the others do not agree, and then its judgement stands, as in a
cascade (FrugalGPT, Chen et al. 2023). Cheap judges that agree are taken at their word: what they cost in agreement
with the last one is for the calibration to show, which holds for the jury as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean, median
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.errors import ConfigError
from harness.judging.building import JudgeSection, bare_judge
from harness.judging.kinds import JudgeContext, _pairs, judged_by, remarks
from harness.judging.records import Case, Judge, Judgement, PairCase
from harness.judging.rubric import Rubric
from harness.records import content_hash

Rule = Literal["majority", "median", "mean"]


class Options(BaseModel):
    """Options of a jury."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judges: tuple[JudgeSection, ...] = Field(min_length=2, description="its judges, each with its kind and options")
    rule: Rule = Field("majority", description="how votes become a value; a pairwise jury has majority")
    quorum: int | None = Field(
        None, ge=1, description="votes that a value needs (default: more than half of the jurors)"
    )
    escalate: bool = Field(False, description="ask the last judge only where the others disagree or one has no value")
    tolerance: float = Field(
        0, ge=0, description="largest difference between votes, in score points, that is agreement"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if self.quorum is not None and self.quorum > len(self.judges):
            raise ValueError(f"quorum {self.quorum} is more than the {len(self.judges)} judges")
        if self.escalate and self.quorum is not None:
            raise ValueError("with escalate every judge but the last has to vote; quorum says nothing there")
        if self.tolerance and not self.escalate:
            raise ValueError("tolerance says when to escalate; set escalate: true")
        return self


def build(options: Options, rubric: Rubric, context: JudgeContext) -> Jury:
    """The kind's contract.

    Raises:
        ConfigError: two judges are one and the same, or the rule does not go with the rubric.
    """
    if rubric.pairwise and options.rule != "majority":
        raise ConfigError(f"rule: a comparison has no {options.rule}; a pairwise jury has majority")
    jurors: list[Judge] = []
    try:
        for number, section in enumerate(options.judges):
            jurors.append(bare_judge(section, rubric, context, f"judges.{number}"))
        _need_different(jurors)
    except Exception:
        for juror in jurors:
            juror.close()
        raise
    return Jury(options, rubric, jurors)


class Jury:
    """See the module and `harness.judging.records.Judge`."""

    def __init__(self, options: Options, rubric: Rubric, jurors: Sequence[Judge]) -> None:
        """Take the jurors over: `close` closes them."""
        self._options, self._rubric, self._jurors = options, rubric, list(jurors)
        self._quorum = options.quorum or len(jurors) // 2 + 1
        self.name = f"jury of {len(jurors)}"
        self.bounds = rubric.bounds
        self.pairwise = rubric.pairwise
        self.fingerprint = content_hash(["jury", rubric.hash, self._rules(), [j.fingerprint for j in jurors]])

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        """See `Judge.grade`."""
        return self._decide(cases, lambda judge, some: judge.grade(some))

    def compare(self, pairs: Sequence[PairCase]) -> list[Judgement]:
        """See `Judge.compare`; every juror looks at both orders itself."""
        return self._decide(pairs, lambda judge, some: judge.compare(some))

    def describe(self) -> dict[str, Any]:
        """See `Judge.describe`."""
        return judged_by(
            self, self._rubric, kind="jury", judges=[juror.describe() for juror in self._jurors], **self._rules()
        )

    def remarks(self) -> list[str]:
        """What the jurors have to tell."""
        return [f"{juror.name}: {told}" for juror in self._jurors for told in remarks(juror)]

    def close(self) -> None:
        """Close every juror."""
        for juror in self._jurors:
            juror.close()

    def _decide(self, asked: Sequence[Any], ask: Callable[[Judge, Sequence[Any]], list[Judgement]]) -> list[Judgement]:
        first = self._jurors[:-1] if self._options.escalate else self._jurors
        with ThreadPoolExecutor(len(first)) as pool:  # each asks its own server, and none waits for another
            votes = list(zip(*pool.map(lambda juror: ask(juror, asked), first), strict=True))
        if not self._options.escalate:
            return [self._joined(row, self._by_rule(row)) for row in votes]
        open_ = [i for i, row in enumerate(votes) if not self._agree(row)]
        last = dict(zip(open_, ask(self._jurors[-1], [asked[i] for i in open_]) if open_ else [], strict=True))
        return [
            self._joined((*row, last[i]), last[i]) if i in last else self._joined(row, _agreed(row))
            for i, row in enumerate(votes)
        ]

    def _agree(self, votes: Sequence[Judgement]) -> bool:
        values = [v.value for v in votes if v.value is not None]
        return len(values) == len(votes) and max(values) - min(values) <= self._options.tolerance

    def _by_rule(self, votes: Sequence[Judgement]) -> Judgement:
        """The jury's judgement, without usage and details."""
        values = [v.value for v in votes if v.value is not None]
        if len(values) < self._quorum:
            return self._without_quorum(votes, len(values))
        if self._options.rule != "majority":
            value = float((fmean if self._options.rule == "mean" else median)(values))
            return Judgement("scored", value, _reason(votes, value))
        value, count = Counter(values).most_common(1)[0]
        if 2 * count > len(values):
            return Judgement("scored", value, _reason(votes, value))
        split = "no majority: " + ", ".join(f"{v:g}" for v in sorted(values))
        # A jury that is divided over a pair has not found one output better, which is what a tie says. There is no such
        # level on a scale.
        return Judgement("scored", _pairs.TIE, split) if self.pairwise else Judgement("abstained", None, split)

    def _without_quorum(self, votes: Sequence[Judgement], voted: int) -> Judgement:
        failed = [v for v in votes if v.state == "failed"]
        reason = f"{voted} of {len(votes)} judges gave a value, and {self._quorum} must"
        if voted + len(failed) < self._quorum:
            return Judgement("abstained", None, reason)
        return Judgement("failed", None, f"{reason}; {failed[0].reason}", failed[0].failure)

    def _joined(self, votes: Sequence[Judgement], decided: Judgement) -> Judgement:
        jurors = [
            {
                "judge": juror.name, "state": vote.state, "value": vote.value, "reason": _pairs.kept(vote.reason),
                "failure": vote.failure, "details": dict(vote.details),
            }
            for juror, vote in zip(self._jurors, votes, strict=False)  # the last may not have been asked
        ]  # fmt: skip
        details = {"jurors": jurors}
        return Judgement(decided.state, decided.value, decided.reason, decided.failure, _pairs.total(votes), details)

    def _rules(self) -> dict[str, Any]:
        kept = {"rule", "escalate", "tolerance"}
        return {**self._options.model_dump(include=kept), "quorum": None if self._options.escalate else self._quorum}


def _agreed(votes: Sequence[Judgement]) -> Judgement:
    """What judges say who differ by no more than the tolerance."""
    value = float(median(v.value for v in votes if v.value is not None))
    return Judgement("scored", value, _reason(votes, value))


def _reason(votes: Sequence[Judgement], value: float) -> str:
    """The words of the first juror who said what the jury says; else who said what."""
    said = next((v.reason for v in votes if v.value == value and v.reason), "")
    return said or "votes: " + ", ".join("none" if v.value is None else f"{v.value:g}" for v in votes)


def _need_different(jurors: Sequence[Judge]) -> None:
    seen: dict[str, int] = {}
    for number, juror in enumerate(jurors):
        if juror.fingerprint in seen:
            raise ConfigError(
                f"judges.{number} is the same judge as judges.{seen[juror.fingerprint]} ({juror.name}); asked twice it "
                "says the same"
            )
        seen[juror.fingerprint] = number
