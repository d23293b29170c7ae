"""A golden set as a suite: frozen samples, asked as their card says, each side scored by itself.

The requests of a sample come in this order: one `Generate` when any metric reads text, then, when any metric reads
choices, one `LogLikelihood` per choice in the order of the row. A row with `messages`, and every row with `chat: true`,
goes through the subject's chat template; any other prompt is sent as it stands. A choice is continued after one space,
unless the context ends in white space, the choice begins with it, or the context is a conversation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from harness import assets, goldens, plugins, sandbox
from harness.errors import ConfigError, DataError, at
from harness.goldens import GoldenSet, MetricUse
from harness.metrics import Metric
from harness.records import (
    Check,
    Estimand,
    LogLikelihood,
    Message,
    MetricSpec,
    Output,
    Request,
    Sample,
    Score,
    content_hash,
)
from harness.subjects import Subject
from harness.suites import AnsweredPair, Pointwise, ScorePair, SuiteContext
from harness.suites._frozen import asked, lock_check, locked, request, training_check

CODE = "code-execution"


class Options(BaseModel):
    """Options of a golden suite."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    set: str = Field(description="name@version, or name for its latest frozen version")
    root: Path | None = Field(None, description="folder of the golden sets (default: goldensets/, found upwards)")
    metrics: tuple[MetricUse, ...] | None = Field(None, description="instead of the card's: ids, or {id: options}")
    chat: bool = Field(False, description="send every prompt through the chat template")

    @field_validator("metrics", mode="before")
    @classmethod
    def _parse_metrics(cls, value: Any) -> Any:
        if isinstance(value, list) and not value:
            raise ValueError("an empty list scores nothing; leave it out to use the card's metrics")
        return tuple(MetricUse.parse(v) for v in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class _Scorer:
    """A built metric, what it reads, and whether scoring runs code; `settings` identifies it in the digest."""

    metric: Metric
    reads: str
    runs_code: bool
    settings: Mapping[str, Any]


class GoldenSuite(Pointwise):
    """See the module."""

    estimand: Estimand = "frozen"

    def __init__(self, golden: GoldenSet, scorers: Sequence[_Scorer], options: Options, context: SuiteContext) -> None:
        self.name, self.largest_cluster = golden.name, golden.card.largest_cluster
        self.metrics = {s.metric.spec.name: _with_chance(s, golden.samples) for s in scorers}
        self._golden, self._scorers, self._chat, self._context = golden, scorers, options.chat, context
        self._text = any(s.reads == "text" for s in scorers)
        self._choices = any(s.reads == "choices" for s in scorers)
        self._runs_code = any(s.runs_code for s in scorers)

    def digest(self) -> str:
        """SHA-256 over the set's files, the metrics with all their options, and `chat`."""
        settings = [dict(s.settings) for s in self._scorers]
        return content_hash({"set": self._golden.digest, "metrics": settings, "chat": self._chat})

    def describe(self) -> dict[str, Any]:
        """The set's entry in the lock."""
        return locked(self._golden)

    def samples(self) -> Sequence[Sample]:
        """All samples of the set, in file order."""
        return self._golden.samples

    def checks(self) -> Sequence[Check]:
        """Lock intact; no training row among the samples; the sandbox works where one is needed."""
        checks = [lock_check(self._golden)]
        if self._context.training_files:
            golden = self._golden
            checks.append(training_check(self._context.training_files, golden.samples, golden.reference))
        if self._runs_code:
            reason = sandbox.available()
            checks.append(Check("sandbox", reason is None, reason or "code can be confined on this machine"))
        return checks

    def requests(self, sample: Sample, subject: Subject) -> tuple[Request, ...]:
        """See the module; nothing about `subject` makes a difference before its chat template."""
        requests: list[Request] = []
        if self._text:
            requests.append(request(sample, self._golden.card.generation, chat=self._chat))
        if self._choices:
            context = asked(sample, chat=self._chat)
            requests += [LogLikelihood(context, _continuation(context, choice)) for choice in sample.choices]
        return tuple(requests)

    def score_one(self, sample: Sample, outputs: Sequence[Output]) -> Mapping[str, Score]:
        """Each metric on the outputs that it reads."""
        first = 1 if self._text else 0
        parts = {"text": outputs[:first], "choices": outputs[first:]}
        return {s.metric.spec.name: s.metric.score(sample, parts[s.reads]) for s in self._scorers}

    def score(self, answered: Sequence[AnsweredPair]) -> list[Mapping[str, ScorePair]]:
        """See `Suite.score`. Metrics that run code wait for the sandbox, so their pairs are scored side by side."""
        if not self._runs_code:
            return super().score(answered)
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(self._score_pair, answered))


def build(options: Options, context: SuiteContext) -> GoldenSuite:
    """The suite.

    Raises:
        LockError: the set is not frozen, or not what was frozen.
        ConfigError, DataError: no such set, or a metric is unknown, has wrong options or does not fit the samples.
        PluginError: a metric's dependency is not installed.
    """
    explicit = context.folder / options.root if options.root is not None else None
    golden = goldens.load(assets.find("goldensets", explicit, start=context.folder), options.set)
    from_card = options.metrics is None
    where = f"{at(golden.folder / 'card.yaml')}metrics" if from_card else f"{golden.reference}: metrics"
    uses = golden.card.metrics if options.metrics is None else options.metrics
    if not uses:
        raise ConfigError(f"{where}: the card names none, so only a judge suite can score this set; name some here")
    folder = golden.folder if from_card else context.folder
    scorers = [_scorer(use, f"{where}.{use.id}", folder, from_card, context.allow) for use in uses]
    names = [s.metric.spec.name for s in scorers]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: two metrics are called {name!r}; give one another `name`")
    if any(s.reads == "choices" for s in scorers):
        _require_choices(golden, where)
    return GoldenSuite(golden, scorers, options, context)


def _scorer(use: MetricUse, where: str, folder: Path, from_card: bool, allow: Iterable[str]) -> _Scorer:
    chosen = plugins.options("metrics", use.id, use.options, where=where)
    chosen = _resolved(chosen, folder, confined=from_card, where=where)
    module = plugins.load("metrics", use.id)
    runs_code = _flag(module, "RUNS_CODE")
    if runs_code and CODE not in allow:
        raise ConfigError(f"{where} runs what the model wrote, in a sandbox; gate.yaml must say `allow: [{CODE}]`")
    if from_card and _flag(module, "LOADS_CODE"):
        raise ConfigError(f"{where} loads code that you must name yourself, in this suite's `metrics` in gate.yaml")
    try:
        make: Callable[[BaseModel], Metric] = module.build
        metric = make(chosen)
    except ImportError as error:
        raise ConfigError(f"{where}: {plugins.missing_extra('it', error)}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return _Scorer(metric, module.SCORES, runs_code, _settings(use.id, chosen))


def _settings(identifier: str, chosen: BaseModel) -> dict[str, Any]:
    paths = _paths(chosen)
    files = {key: _content(getattr(chosen, key)) for key in sorted(paths)}
    return {"id": identifier, "options": chosen.model_dump(mode="json", exclude=paths), "files": files}


def _resolved(chosen: BaseModel, folder: Path, *, confined: bool, where: str) -> BaseModel:
    """Paths among the options, relative to the file that names them; a card's may not lead out of the frozen set."""
    update = {}
    for key in _paths(chosen):
        path = (folder / getattr(chosen, key)).resolve()
        if confined and not path.is_relative_to(folder.resolve()):
            raise ConfigError(f"{where}.{key}: {path} is not in the folder of the set, so it is not frozen with it")
        update[key] = path
    return chosen.model_copy(update=update)


def _paths(chosen: BaseModel) -> set[str]:
    return {key for key, value in chosen if isinstance(value, Path)}


def _content(path: Path) -> str:
    """Hash of what a path option leads to: its content decides a score, its place does not."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return content_hash({str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})


def _flag(module: ModuleType, name: str) -> bool:
    return bool(module.__dict__.get(name, False))


def _require_choices(golden: GoldenSet, where: str) -> None:
    for sample in golden.samples:
        if not sample.choices or not sample.targets:
            raise DataError(f"{where}: sample {sample.id!r} of {golden.reference} lacks choices or the right one")


def _with_chance(scorer: _Scorer, samples: Sequence[Sample]) -> MetricSpec:
    """The metric's own declaration; for choices with what guessing earns on just these samples."""
    spec = scorer.metric.spec
    if scorer.reads != "choices" or spec.chance or spec.bounds != (0.0, 1.0):
        return spec
    return replace(spec, chance=sum(len(set(s.targets)) / len(s.choices) for s in samples) / len(samples))


def _continuation(context: str | tuple[Message, ...], choice: str) -> str:
    if isinstance(context, tuple) or choice[0].isspace() or context[-1].isspace():
        return choice
    return f" {choice}"
