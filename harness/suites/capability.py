"""Capability benchmarks: any task of lm-eval, asked of both subjects and compared sample by sample.

Prompts, few-shot examples, filters and metrics are lm-eval's own, so that a sample's score is the one that
`lm_eval.simple_evaluate` logs for the same model. Three things are not: the subjects answer through our engine, code
that a model wrote runs in our sandbox, and a metric without one bounded value per sample cannot guard. lm-eval's
response cache is never used: it is keyed by the request alone and would serve one subject's answers to the other.

A local task YAML may name Python functions (`!function`), which run in this process: treat it as code.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness import plugins
from harness.errors import ConfigError, HarnessError, PluginError, SubjectError, nearest
from harness.records import Check, Estimand, Message, MetricSpec, Output, Request, Sample, Score, content_hash
from harness.subjects import Subject
from harness.suites import Pointwise, SuiteContext
from harness.suites._capability import asking, loading, metrics, shots


class Options(BaseModel):
    """What gate.yaml may say of a capability suite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(description="an lm-eval task or group, or a task YAML relative to gate.yaml")
    num_fewshot: int | None = Field(None, ge=0, description="examples in the prompt (default: the task's)")
    chat_template: bool = Field(False, description="put the prompt through the subject's chat template")
    fewshot_as_multiturn: bool = Field(True, description="with a chat template: each example is a turn of its own")
    limit: int | None = Field(None, ge=1, description="first so many samples of every task")
    data: str | None = Field(None, description="folder with the benchmark's own files, instead of the hub")
    metrics: tuple[str, ...] | None = Field(None, description="metrics to score (default: all that can guard)")
    bounds: dict[str, tuple[float, float]] = Field({}, description="bounds of metrics whose bounds are not known")
    filter: str | None = Field(None, description="which of the task's answer filters (default: its first)")
    seed: int = Field(1234, description="seed of the few-shot sampler; the default is lm-eval's")


def build(options: Options, context: SuiteContext) -> CapabilitySuite:
    """The suite plugin contract: load the task and its data.

    Raises:
        ConfigError: no such task, filter or usable metric, its data is out of reach, or it may not run code.
    """
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise PluginError(plugins.missing_extra("the capability suite", error)) from error
    for name, (low, high) in options.bounds.items():
        if not low < high:
            raise ConfigError(f"bounds of {name!r}: {low:g} is not below {high:g}")
    data = None if options.data is None else (context.folder / options.data).expanduser().resolve()
    wanted = loading.Wanted(options.task, context.folder, data, "code-execution" in context.allow, options.seed)
    return CapabilitySuite(options, loading.load(wanted))


@dataclass(slots=True)
class _Prompts:
    """The instances of all samples under one chat template, and the requests made of them."""

    instances: dict[str, list[Any]] = field(default_factory=dict)
    requests: dict[str, tuple[Request, ...]] = field(default_factory=dict)


class CapabilitySuite(Pointwise):
    """See `harness.suites.Suite`. Use `build`."""

    estimand: Estimand = "frozen"

    def __init__(self, options: Options, loaded: loading.LoadedTasks) -> None:
        """Apply the options to the loaded tasks; prompts are built when they are first asked for."""
        self.name = Path(options.task).stem if options.task.endswith((".yaml", ".yml")) else options.task
        self._options = options
        self._tasks = dict(loaded.tasks)
        self._groups = loaded.groups
        for name, task in self._tasks.items():
            _set_shots(name, task, options.num_fewshot)
        self._filters = {name: _filter(name, task, options.filter) for name, task in self._tasks.items()}
        self._docs = {name: docs[: options.limit] for name, docs in loaded.docs.items()}
        with loading.quiet():
            tasks = [(task, self._docs[name]) for name, task in self._tasks.items()]
            chosen = metrics.choose(self.name, tasks, options.metrics, options.bounds)
            self._samples = [sample for name in self._tasks for sample in self._samples_of(name)]
        self.metrics: Mapping[str, MetricSpec] = {spec.name: spec for spec in chosen}
        self._prompts: dict[str, _Prompts] = {}

    def samples(self) -> Sequence[Sample]:
        """See `Suite.samples`: ids are `task/document number`; tags name the task and groups within a group."""
        return self._samples

    def digest(self) -> str:
        """See `Suite.digest`: task configurations, all rows used, settings and lm-eval's version."""
        return content_hash(
            {
                "tasks": {name: _configuration(task) for name, task in self._tasks.items()},
                "rows": {name: shots.rows_hash(task, self._docs[name]) for name, task in self._tasks.items()},
                "filters": self._filters,
                "metrics": {name: [s.higher_is_better, *s.bounds] for name, s in self.metrics.items()},
                "options": self._options.model_dump(
                    mode="json", exclude={"data", "task", "metrics", "bounds", "filter"}
                ),
                "lm_eval": importlib.metadata.version("lm_eval"),
            }
        )

    def checks(self) -> Sequence[Check]:
        """See `Suite.checks`: "no-few-shot-leak", whether a sample is among the examples in its own prompt."""
        with loading.quiet():
            leaked = [
                f"{name}/{number}"
                for name, task in self._tasks.items()
                for number in shots.leaks(task, self._docs[name], seed=self._options.seed)
            ]
        if not leaked:
            detail = f"none of {len(self._samples)} samples is among its own few-shot examples"
            return [Check("no-few-shot-leak", True, detail)]
        some = ", ".join(leaked[:5])
        detail = (
            f"{len(leaked)} of {len(self._samples)} samples have themselves, with the answer, among their few-shot "
            f"examples ({some}{' …' if len(leaked) > 5 else ''}): draw the examples from other rows (fewshot_split)"
        )
        return [Check("no-few-shot-leak", False, detail)]

    def requests(self, sample: Sample, subject: Subject) -> tuple[Request, ...]:
        """See `Suite.requests`; built once for all subjects with the same chat template."""
        return self._prompts_for(subject).requests[sample.id]

    def score_one(self, sample: Sample, outputs: Sequence[Output]) -> Mapping[str, Score]:
        """See `Pointwise.score_one`. An error in lm-eval's scoring is a failed score, not a wrong answer."""
        name = str(sample.data["task"])
        instances = self._any_prompts().instances[sample.id]
        try:
            with loading.quiet(), loading.seeded(self._options.seed):
                scored = asking.results(self._tasks[name], instances, outputs, self._filters[name])
        except HarnessError:
            raise
        except Exception as error:
            reason = shots.scoring_failure(error)
            return {metric: Score.failed(reason) for metric in self.metrics}
        return {metric: _as_score(scored.get(metric), metric) for metric in self.metrics}

    def _samples_of(self, name: str) -> list[Sample]:
        task, alone = self._tasks[name], len(self._tasks) == 1
        tags = () if alone else (name, *self._groups.get(name, ()))
        return [
            Sample(
                id=f"{name}/{number}",
                prompt=shots.question(task, doc),
                targets=shots.answers(task, doc),
                choices=shots.choices(task, doc),
                tags=tags,
                data={"task": name, "doc_id": number},
            )
            for number, doc in enumerate(self._docs[name])
        ]

    def _prompts_for(self, subject: Subject) -> _Prompts:
        key = subject.chat_fingerprint if self._options.chat_template else ""
        if key not in self._prompts:
            self._prompts[key] = self._build(_chat(subject) if self._options.chat_template else None)
        return self._prompts[key]

    def _any_prompts(self) -> _Prompts:
        """Scoring needs the documents, not the prompts' wording, so any template's instances will do."""
        if not self._prompts:
            self._prompts[""] = self._build(None)
        return next(iter(self._prompts.values()))

    def _build(self, chat: asking.ChatTemplate | None) -> _Prompts:
        built, options = _Prompts(), self._options
        with loading.quiet(), loading.seeded(options.seed):
            for name, task in self._tasks.items():
                by_doc = asking.instances_by_doc(
                    task, limit=options.limit, seed=options.seed, chat=chat, multiturn=options.fewshot_as_multiturn
                )
                for number, instances in by_doc.items():
                    built.instances[f"{name}/{number}"] = instances
                    built.requests[f"{name}/{number}"] = asking.requests_of(instances, options.seed)
        return built


def _chat(subject: Subject) -> asking.ChatTemplate:
    """The subject's template in the form that lm-eval calls; it retries without a system turn, as lm-eval does."""

    def render(history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        turns = [Message(turn["role"], turn["content"]) for turn in history]
        try:
            return subject.render_chat(turns, add_generation_prompt=add_generation_prompt)
        except SubjectError:
            spoken = [turn for turn in turns if turn.role != "system"]
            if len(spoken) == len(turns):
                raise
            return subject.render_chat(spoken, add_generation_prompt=add_generation_prompt)

    return render


def _set_shots(name: str, task: Any, wanted: int | None) -> None:
    """The number of examples as simple_evaluate would set it, but a setting that it would ignore is an error."""
    own = task.get_config("num_fewshot")
    if wanted is not None and own == 0 and wanted != 0:
        raise ConfigError(f"task {name!r} fixes num_fewshot at 0; leave num_fewshot out")
    if wanted is not None or own is None:
        task.set_config(key="num_fewshot", value=wanted or 0)


def _filter(name: str, task: Any, wanted: str | None) -> str:
    known = asking.filter_names(task)
    if wanted is None:
        return known[0]
    if wanted not in known:
        raise ConfigError(f"task {name!r} has no filter {wanted!r}: {nearest(wanted, known)}")
    return wanted


def _as_score(value: Any, metric: str) -> Score:
    try:
        return Score.of(float(value))
    except (TypeError, ValueError):
        return Score.failed(f"{metric} gave {value!r}, not one finite number")


def _configuration(task: Any) -> Any:
    """A task's configuration without what only says where it lies on this machine."""
    config = {
        key: value
        for key, value in task.dump_config().items()
        if key not in ("metadata", "dataset_kwargs", "custom_dataset")
    }
    return json.loads(json.dumps(config, default=str))
