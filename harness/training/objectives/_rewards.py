"""Rewards of generated answers: a reward model that was trained here, a metric of ours, or a judge (RLAIF).

TRL gives a completion whose reward is missing no advantage and says so in a log line; a training whose judge is down
would run to its end having learnt nothing. Here a reward that goes missing too often ends the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness import plugins
from harness.config import OpenSection
from harness.errors import ConfigError, DataError, SubjectError, UsageError
from harness.judging.building import JudgeSection, build_judge, check_section
from harness.judging.criteria import DEFAULT, by_criterion
from harness.judging.kinds import JudgeContext
from harness.judging.records import Case, Judge
from harness.judging.rubric import load_rubric, require
from harness.metrics import Metric
from harness.records import Message, Output, Sample
from harness.training.objectives import Job, Row
from harness.training.objectives._reward_model import RewardModel

Texts = Sequence[str]
Score = Callable[..., list[float | None]]
"""(prompts, completions, ended, rows) → a reward each; `ended` says whether the model stopped by itself."""

_ENOUGH = 20  # rewards asked for before a share of failures says anything


class JudgeReward(OpenSection):
    """A judge as a reward: a rubric by name, or one criterion in words; other keys are options of its kind."""

    kind: str = Field("served", description="kind of judge: served, classifier, reward_model, jury …")
    rubric: str | None = Field(None, description="name of a pointwise rubric in judges/")
    criterion: str | None = Field(None, min_length=1, description="what a good answer is, where there is no rubric")

    @model_validator(mode="after")
    def _one_of_them(self) -> JudgeReward:
        if self.rubric is not None and self.criterion is not None:
            raise ValueError("give rubric or criterion, not both")
        return self

    @model_validator(mode="after")
    def _known_options(self) -> JudgeReward:
        try:  # before anything is loaded, not when the training begins
            check_section(self.section, "judge")
        except UsageError as error:
            raise ValueError(str(error).removeprefix("judge: ")) from error
        return self

    @property
    def section(self) -> JudgeSection:
        """The judge alone."""
        return JudgeSection(kind=self.kind, **self.options)


class RewardSection(BaseModel):
    """One reward; several are added up by weight."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="folder of a reward model that objective reward has trained")
    base: str | None = Field(
        None, description="model below it, where the folder is an adapter (default: what it names)"
    )
    metric: str | None = Field(None, description="a metric; it reads the column target of a row")
    options: dict[str, Any] = Field(default_factory=dict, description="of the metric")
    allow_code: bool = Field(False, description="let the metric run, in the sandbox, what the model writes")
    judge: JudgeReward | None = Field(None, description="a judge that grades answers; its worst level is 0, its best 1")
    weight: float = Field(1.0, description="below 0: the less the better")

    @model_validator(mode="after")
    def _one_of_them(self) -> RewardSection:
        if sum(part is not None for part in (self.model, self.metric, self.judge)) != 1:
            raise ValueError("give model, metric or judge, one of them")
        return self

    @property
    def name(self) -> str:
        """Of the reward, in logs."""
        if self.judge is not None:
            return f"judge_{self.judge.rubric}" if self.judge.rubric else "judge"
        return self.metric or f"model_{Path(self.model or '').name}"


def built(section: RewardSection, job: Job, max_failures: float) -> Callable[..., list[float | None]]:
    """A reward as TRL calls it.

    Raises:
        ConfigError: there is no such reward, or it may not be had.
        DataError: rows that the metric cannot score.
    """
    score = _score(section, job)
    ends = frozenset(_ends(job))
    tally = Tally(section.name, max_failures)

    def reward(
        prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        rows = [
            {name: values[i] for name, values in columns.items() if isinstance(values, list)}
            for i in range(len(prompts))
        ]
        ended = [bool(ids) and ids[-1] in ends for ids in completion_ids]
        return tally.checked(score(prompts, [plain(c) for c in completions], ended, rows))

    reward.__name__ = section.name  # what TRL logs it under
    return reward


class Tally:
    """Counts rewards that could not be had.

    `checked` raises SubjectError once more than the share `max_failures` of all is missing.
    """

    def __init__(self, name: str, max_failures: float) -> None:
        """Nothing has been asked yet."""
        self._name, self._share = name, max_failures
        self.asked = self.failed = 0

    def checked(self, rewards: Sequence[float | None]) -> list[float | None]:
        """The rewards, counted."""
        missing = sum(reward is None for reward in rewards)
        self.asked += len(rewards)
        self.failed += missing
        if missing == len(rewards) or (self.asked >= _ENOUGH and self.failed > self._share * self.asked):
            raise SubjectError(
                f"reward {self._name}: {self.failed} of {self.asked} answers could not be scored, more than "
                f"max_failures ({self._share:g}) allows. Checkpoints are kept; mend the reward and resume."
            )
        return list(rewards)


def plain(value: Any) -> str:
    """Text of a prompt or completion: a text itself, or its messages, the last one bare where it stands alone."""
    if isinstance(value, str):
        return value
    if len(value) == 1:
        return str(value[0]["content"])
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in value)


def _score(section: RewardSection, job: Job) -> Score:
    if section.metric is not None:
        return _by_metric(section, job)
    if section.judge is not None:
        return _by_judge(_judge(section.judge, job))
    model = RewardModel(job.home / (section.model or ""), _base(section, job), job.device)
    return lambda prompts, completions, ended, rows: list(model(prompts, completions, ended))


def _base(section: RewardSection, job: Job) -> str | None:
    if section.base is None:
        return None
    beside = job.home / section.base
    return str(beside) if beside.is_dir() else section.base


def _judge(section: JudgeReward, job: Job) -> Judge:
    if section.rubric is None:
        rubric = by_criterion(section.criterion or DEFAULT)
    else:
        rubric = load_rubric(section.rubric, start=job.home)
    if rubric.pairwise:
        raise ConfigError(
            f"judge {rubric.name!r} compares two answers, and a reward is of one; name one that gives levels"
        )
    for part, rows in (("train", job.train), ("validation", job.validation)):
        require(rubric, (replace(_sample(r["prompt"], r), id=f"row {n} of {part}") for n, r in enumerate(rows)))
    context = JudgeContext(job.home, job.folder / "judgements.sqlite")
    return build_judge(section.section, rubric, context, "objective.rewards: judge")


def _by_judge(judge: Judge) -> Score:
    low, high = judge.bounds

    def score(prompts: Sequence[Any], completions: Texts, ended: Sequence[bool], rows: Sequence[Row]) -> list[Any]:
        asked = zip(prompts, completions, rows, strict=True)
        judged = judge.grade([Case(_sample(prompt, row), text) for prompt, text, row in asked])
        return [None if j.value is None else (j.value - low) / (high - low) for j in judged]

    return score


def _by_metric(section: RewardSection, job: Job) -> Score:
    name = section.metric or ""
    module = plugins.load("metrics", name)
    if module.SCORES != "text":
        raise ConfigError(f"reward {name}: this metric reads likelihoods of choices, not what the model writes")
    if vars(module).get("RUNS_CODE") and not section.allow_code:
        raise ConfigError(f"reward {name} runs what the model writes; say allow_code: true to let it, in the sandbox")
    metric: Metric = module.build(plugins.options("metrics", name, section.options, where="objective.rewards"))
    sign = 1.0 if metric.spec.higher_is_better else -1.0
    _scorable(metric, name, [("train", job.train), ("validation", job.validation)])

    def score(prompts: Sequence[Any], completions: Texts, ended: Sequence[bool], rows: Sequence[Row]) -> list[Any]:
        scored = [
            metric.spec.checked(metric.score(_sample(p, row), [Output(text=c)])).value
            for p, c, row in zip(prompts, completions, rows, strict=True)
        ]
        return [None if value is None else sign * value for value in scored]

    return score


def _scorable(metric: Metric, name: str, parts: Sequence[tuple[str, Sequence[Row]]]) -> None:
    for part, rows in parts:
        for number, row in enumerate(rows):
            score = metric.score(_sample(row["prompt"], row), [Output(text="probe")])
            if score.state == "failed":
                raise DataError(f"{part}: row {number} cannot be scored by {name}: {score.reason}")


def _sample(prompt: Any, row: Mapping[str, Any]) -> Sample:
    target = row.get("target")
    targets = () if target is None else (str(target),) if not isinstance(target, list) else tuple(map(str, target))
    spoken = () if isinstance(prompt, str) else tuple(Message(m["role"], m["content"]) for m in prompt)
    return Sample("row", plain(prompt), targets, messages=spoken, data=dict(row))


def _ends(job: Job) -> list[int]:
    from harness.training.objectives._tokens import end_tokens

    return [job.tokenizer.eos_token_id, *end_tokens(job.model)]
