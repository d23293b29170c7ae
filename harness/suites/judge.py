"""An LLM judge as a suite: both subjects answer the same samples, and a judge says by a rubric what that is worth

A pointwise rubric grades each side, and a sample's score is the mean over its turns, in the rubric's own points. A
pairwise one compares both sides in both orders: a side scores 1 where it is better, 0 where it is worse, and ½ each
for a tie or where the orders disagree. Where both subjects said the same nothing is sent: the difference is 0.

What a judge could not say is a failed score, or an abstained one, and takes the pair out. Where the judge cannot be
asked at all (its server is down, its key refused) the chunk is left out of the journal, so that the same command asks
again; where the budget is spent the verdict is HOLD, and the same command goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness import assets
from harness.goldens import Generation
from harness.judging.building import JudgeSection, build_judge
from harness.judging.calibration import look_up_standing
from harness.judging.families import models_of, warning
from harness.judging.kinds import JudgeContext, remarks
from harness.judging.records import Case, Judge, Judgement, PairCase, Usage
from harness.judging.rubric import Rubric, load_rubric, require
from harness.judging.silence import refuse_silence
from harness.records import Check, Estimand, MetricSpec, Output, Request, Sample, Score, content_hash
from harness.served.client import Budget
from harness.subjects import Subject
from harness.suites import AnsweredPair, Plain, ScorePair, Suite, SuiteContext, _canaries, _questions, alike

_SHOWN = 600  # characters of a judge's reason that the journal keeps


class Spending(BaseModel):
    """What a suite's judge may use in one command; what is remembered from before costs nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: int | None = Field(None, description="requests to the judge")
    tokens: int | None = Field(None, description="tokens read and written")
    dollars: float | None = Field(None, description="US dollars; a model without a known price needs `prices`")


class Options(BaseModel):
    """Options of a judge suite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judge: str = Field(description="a rubric: judges/<name>.yaml with judges/<name>.prompt.md")
    by: JudgeSection = Field(description="who applies it: `kind` (default: served) and the options of that kind")
    samples: str | None = Field(None, description="a golden set, name@version")
    root: Path | None = Field(None, description="folder of the golden sets (default: goldensets/, found upwards)")
    chat: bool = Field(False, description="send every prompt through the chat template")
    mt_bench: str | None = Field(None, description="MT-Bench instead: its question.jsonl, or a data set of the hub")
    references: Path | None = Field(None, description="file of reference answers to MT-Bench's questions")
    generation: Generation | None = Field(None, description="how answers to MT-Bench's questions are asked for")
    judges: Path | None = Field(None, description="folder of the rubrics (default: judges/, found upwards)")
    labels: int = Field(0, ge=0, description="pairs that people judge; with them the corrected interval decides")
    budget: Spending | None = None
    canaries: _canaries.Settings = _canaries.Settings()

    @field_validator("labels")
    @classmethod
    def _enough(cls, value: int) -> int:
        if 0 < value < 30:
            raise ValueError("fewer than 30 labels give no interval worth having; 100 to 300 are usual")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if (self.samples is None) == (self.mt_bench is None):
            raise ValueError("give samples or mt_bench, one of them")
        if self.samples is not None and (self.references or self.generation):
            raise ValueError("references and generation are for mt_bench; a golden set's card has its own")
        return self


class JudgeSuite(Plain):
    """See the module."""

    estimand: Estimand = "frozen"
    asks_judges = True

    def __init__(self, options: Options, context: SuiteContext, rubric: Rubric, judge: Judge, rubrics: Path) -> None:
        self.questions = _questions_of(options, context)
        require(rubric, [self.questions.of_turn(s, 0, ()) for s in self.questions.samples])
        self.name, self.labels = f"{self.questions.name} {rubric.name}", options.labels
        self.largest_cluster = self.questions.largest_cluster
        self.metrics: Mapping[str, MetricSpec] = {rubric.name: _metric(rubric)}
        self.rubric, self.judge = rubric, judge
        self._options, self._context, self._rubrics = options, context, rubrics
        self._usage, self._tied, self._asked = Usage(), 0, 0

    def digest(self) -> str:
        """SHA-256 over the samples, how they are asked, and everything that can change a judgement."""
        asks = {"samples": self.questions.digest, "chat": self._options.chat}
        return content_hash(
            {**asks, "generation": self.questions.generation.model_dump(), "by": self.judge.fingerprint}
        )

    def samples(self) -> Sequence[Sample]:
        """All samples, in file order."""
        return self.questions.samples

    def checks(self) -> Sequence[Check]:
        """The samples' own checks, and whether the judge may be required."""
        return [*self.questions.checks(), self._standing()]

    def requests(self, sample: Sample, subject: Subject) -> tuple[Request, ...]:
        """The first turn."""
        return (self.questions.first(sample),)

    def follow_up(self, sample: Sample, subject: Subject, outputs: Sequence[Output]) -> tuple[Request, ...]:
        """The next turn, in the light of the subject's own answers."""
        following = self.questions.next(sample, outputs)
        return () if following is None else (following,)

    def companions(self) -> Sequence[Suite]:
        """The canaries of this judge."""
        settings = self._options.canaries
        return [_canaries.CanarySuite(self, settings, self.rubric, self.judge)] if settings.families else []

    def describe(self) -> dict[str, Any]:
        """Who judges by what, and a family that it shares. Not its calibration, which may come after the run."""
        judge = self.judge.describe()
        pairs = ((model, name) for model in models_of(judge) for name in self._context.candidates)
        said = next(filter(None, (warning(*pair, self._context.folder) for pair in pairs)), "")
        more = {"warning": said} if said else {}
        return {"judge": judge, "asked": self.questions.reference, **more, **self.questions.lock}

    def remarks(self) -> Sequence[str]:
        """What was asked of the judge, and what was saved."""
        if not self._asked:
            return ()
        used = self._usage
        cost = "" if not used.cost else f", ${used.cost:.4f}"
        return (
            f"{self._asked} pairs: {self._tied} with the same output were not judged; {used.calls} calls to the judge, "
            f"{used.cached} remembered, {used.prompt_tokens + used.completion_tokens:,} tokens{cost}",
            *remarks(self.judge),
        )

    def close(self) -> None:
        """Let go of the judge."""
        self.judge.close()

    def score(self, answered: Sequence[AnsweredPair]) -> list[Mapping[str, ScorePair]]:
        """See `Suite.score`.

        Raises:
            BudgetError: what the judge may use is used up.
            JudgeError: the judge cannot be asked.
        """
        found = [_without_judge(pair) for pair in answered]
        open_pairs = [pair for pair, score in zip(answered, found, strict=True) if score is None]
        judged = iter(self._compare(open_pairs) if self.judge.pairwise else self._grade(open_pairs))
        self._asked += len(answered)
        self._tied += sum(score is not None and score.baseline.state == "tied" for score in found)
        return [{self.rubric.name: score or next(judged)} for score in found]

    def cases(self, sample: Sample, outputs: Sequence[Output]) -> list[Case]:
        """One case a turn, with what the subject has said before."""
        said = [output.spoken or "" for output in outputs]
        return [Case(self.questions.of_turn(sample, turn, said), text) for turn, text in enumerate(said)]

    def count(self, judgements: Sequence[Judgement]) -> Usage:
        """What judgements have used, added to what this suite tells.

        Raises:
            BudgetError, JudgeError: see `score`; what was said until then is remembered.
        """
        used = reduce(add, (j.usage for j in judgements), Usage())
        self._usage += used
        refuse_silence(self.judge.name, judgements)
        return used

    def _grade(self, pairs: Sequence[AnsweredPair]) -> list[ScorePair]:
        sides = [self.cases(p.sample, outputs) for p in pairs for outputs in (p.baseline, p.candidate)]
        said = iter(self.judge.grade([case for side in sides for case in side]))
        graded = [[next(said) for _ in side] for side in sides]
        self.count([judgement for side in graded for judgement in side])
        both = zip(graded[::2], graded[1::2], strict=True)
        return [
            ScorePair(_mean(b), _mean(c), _details(pair.sample, baseline=b, candidate=c))
            for pair, (b, c) in zip(pairs, both, strict=True)
        ]

    def _compare(self, pairs: Sequence[AnsweredPair]) -> list[ScorePair]:
        turns = [
            [
                PairCase(b, c)
                for b, c in zip(self.cases(p.sample, p.baseline), self.cases(p.sample, p.candidate), strict=True)
            ]
            for p in pairs
        ]
        said = iter(self.judge.compare([pair for turn in turns for pair in turn]))
        compared = [[next(said) for _ in turn] for turn in turns]
        self.count([judgement for turn in compared for judgement in turn])
        return [_won(pair.sample, judgements) for pair, judgements in zip(pairs, compared, strict=True)]

    def _standing(self) -> Check:
        """Whether the judge has earned what its guards want of it."""
        section, required = self._context.judges, self._context.required
        found = look_up_standing(self.rubric, self.judge, self._rubrics, kappa=section.kappa, labels=section.labels)
        name = f"{found.name} {self.name}"
        if required is not None and self.rubric.name not in required:
            return Check(name, True, f"its guards are advisory; {_first_sentence(found.detail)}")
        if not found.passed and section.uncalibrated:
            found_to_be = _first_sentence(found.detail)
            return Check(name, True, f"it need not be, as gate.yaml says: {section.uncalibrated} ({found_to_be})")
        return Check(name, found.passed, found.detail)


def build(options: Options, context: SuiteContext) -> JudgeSuite:
    """The suite.

    Raises:
        ConfigError: no such rubric or kind of judge, a wrong option, a key that is not set, a budget of zero.
        DataError: a sample lacks what the rubric shows.
        LockError: the golden set is not what was frozen.
    """
    named = context.folder / options.judges if options.judges is not None else None
    rubrics = assets.find("judges", named, start=context.folder)
    rubric = load_rubric(options.judge, rubrics)
    store = None if context.cache is None else context.cache / "judgements.sqlite"
    budget = None if options.budget is None else Budget(**options.budget.model_dump())
    judging = JudgeContext(context.folder, store, budget)
    judge = build_judge(options.by, rubric, judging, where=f"judge {rubric.name}: by")
    return JudgeSuite(options, context, rubric, judge, rubrics)


def _questions_of(options: Options, context: SuiteContext) -> _questions.Questions:
    if options.samples is not None:
        return _questions.of_golden_set(options.samples, options.root, context, chat=options.chat)
    generation = options.generation or Generation(max_tokens=1024)
    return _questions.of_mt_bench(options.mt_bench or "", options.references, generation, context)


def _metric(rubric: Rubric) -> MetricSpec:
    return MetricSpec(rubric.name, chance=0.5) if rubric.pairwise else MetricSpec(rubric.name, bounds=rubric.bounds)


def _without_judge(pair: AnsweredPair) -> ScorePair | None:
    """The scores of a pair that no judge has to see: a side has failed, or both said the same."""
    failures = [
        next((o.failure for o in side if o.failure is not None), None) for side in (pair.baseline, pair.candidate)
    ]
    if any(failures):
        baseline, candidate = (Score.failed(f or "the other side has no answer") for f in failures)
        return ScorePair(baseline, candidate)
    return ScorePair.tied() if alike(pair.baseline, pair.candidate) else None


def _mean(judgements: Sequence[Judgement]) -> Score:
    """The mean over the turns; a turn without a value leaves the sample without one."""
    for judgement in judgements:
        if judgement.value is None:
            return Score(judgement.state, None, _clipped(judgement.reason))
    values = [j.value for j in judgements if j.value is not None]
    return Score("scored", sum(values) / len(values), _clipped(" / ".join(j.reason for j in judgements)))


def _won(sample: Sample, judgements: Sequence[Judgement]) -> ScorePair:
    both = _mean(judgements)
    details = _details(sample, pair=judgements)
    if both.value is None:
        return ScorePair(both, both, details)
    baseline, candidate = (Score("scored", (1 + sign * both.value) / 2, both.reason) for sign in (-1, 1))
    return ScorePair(baseline, candidate, details)


def _details(sample: Sample, **said: Sequence[Judgement]) -> dict[str, Any]:
    """What the journal keeps of how a score came about: every judgement, what they used together, and the turns."""
    used = reduce(add, (j.usage for each in said.values() for j in each), Usage())
    asked = _questions.turns(sample)
    turns = {"turns": list(asked)} if len(asked) > 1 else {}
    return {"usage": asdict(used), **turns, **{name: [_as_json(j) for j in each] for name, each in said.items()}}


def _as_json(judgement: Judgement) -> dict[str, Any]:
    said = {"state": judgement.state, "value": judgement.value, "reason": _clipped(judgement.reason)}
    more = {"failure": judgement.failure, "details": dict(judgement.details)}
    return {**said, **{key: value for key, value in more.items() if value}}


def _first_sentence(text: str) -> str:
    """What was found, without the ways out of it: nobody needs one here."""
    return text.partition(". ")[0]


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"
