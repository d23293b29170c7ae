"""A whole recipe: frozen sets and the baseline first, then the rows, the stages, the merge, and the gate's verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.candidates import with_candidate
from harness.config import LoadedConfig, Part
from harness.errors import ConfigError, DataError, HoldError
from harness.gate import GateResult, run_gate
from harness.progress import Observer
from harness.records import EXIT_CODES
from harness.training import merging
from harness.training.baseline import measure_baseline
from harness.training.data import Prepared, Request, prepare
from harness.training.keeping import WORK, alone, make_folder
from harness.training.loading import spec_of
from harness.training.objectives import Row, RowKind
from harness.training.planning import StagePlan, TrainingPlan, make_training_plan
from harness.training.recipe import DataSection, LoadedRecipe
from harness.training.stages import StageRun, Trained, classes_of

_REMEMBERED: frozenset[RowKind] = frozenset({"text", "messages", "completion"})


@dataclass(slots=True)
class TrainingResult:
    """What a recipe came to: its stages, the folder that was gated last, and every verdict by the gated name.

    `stopped` says why stages after the last one were not trained, `ungated` why the result has no verdict.
    """

    stages: list[Trained] = field(default_factory=list)
    verdicts: dict[str, GateResult] = field(default_factory=dict)
    result: Path | None = None
    stopped: str = ""
    ungated: str = ""

    @property
    def verdict(self) -> GateResult | None:
        """The last verdict; none where nothing was trained that the gate can ask."""
        return next(reversed(self.verdicts.values()), None)

    @property
    def exit_code(self) -> int:
        """That of the verdict; of HOLD where the recipe did not come to its end though nothing was blocked."""
        code = 0 if self.verdict is None else EXIT_CODES[self.verdict.verdict.verdict]
        return code or (HoldError.exit_code if self.stopped else 0)


def train(
    loaded: LoadedRecipe, observer: Observer, part: Part = "verdict", callbacks: Sequence[Any] = ()
) -> TrainingResult:
    """Train a recipe and gate what comes of it; a run that was ended goes on where it was.

    `part` is which frozen samples are asked: a trial of a sweep leaves those alone that verdicts are made on.
    `callbacks` are transformers' TrainerCallbacks that every stage's trainer is given before those of the recipe; they
    may watch, and what they change is not in the record.

    Raises:
        UsageError: the recipe, its gate or its rows are wrong; nothing has been trained.
        LockError: a golden set of the gate is not frozen.
        AdapterError: what an earlier run trained has been changed since.
        InfrastructureError: the machine failed; repeating the command goes on.
    """
    observer.stage("reading the recipe")
    plan = make_training_plan(loaded, part)
    with alone(plan.out):
        return _train(plan, observer, callbacks)


def _train(plan: TrainingPlan, observer: Observer, callbacks: Sequence[Any]) -> TrainingResult:
    prepared = [_prepare(plan, stage, number, observer) for number, stage in enumerate(plan.stages)]
    remembered = [_remembered(plan, stage, number, observer) for number, stage in enumerate(plan.stages)]
    observer.stage("measuring the baseline")
    baseline = measure_baseline(plan.gate_plan, observer)
    for name, mean in baseline.items():
        observer.note(f"before training: {name} {mean:.3f}")
    result = TrainingResult()
    for number, (stage, rows, kept) in enumerate(zip(plan.stages, prepared, remembered, strict=True)):
        run = StageRun(plan, stage, rows, number, baseline, observer, kept, callbacks)
        trained = run.run()
        result.stages.append(trained)
        result.result = trained.folder
        if stage.section.gate and not _promoted(result, plan, trained.name, trained.folder, observer):
            result.stopped = f"the gate did not promote stage {trained.name}"
            return result
        if trained.broken and stage is not plan.stages[-1]:
            result.stopped = f"stage {trained.name} broke off: {trained.outcome['stopped']}"
            return result
    _conclude(result, plan, observer)
    return result


def _prepare(plan: TrainingPlan, stage: StagePlan, number: int, observer: Observer) -> Prepared:
    """The rows of a stage, with the report shown and, in the end, written beside its checkpoints."""
    folder = plan.out / WORK / stage.section.name
    make_folder(folder)
    prepared = prepare(_request(plan, stage.section.data, stage.objective.rows, number, observer, folder))
    if prepared.conversational and not plan.tokenizer.chat_template:
        raise DataError(
            f"{plan.loaded.where('stages', number, 'data')}: the rows are conversations, and the tokenizer of "
            f"{plan.loaded.recipe.base.model} has no chat template; give one with base.chat_template, or rows of texts"
        )
    classes_of(prepared)
    for line in (f"{stage.section.name}: rows of kind {prepared.kind}", *prepared.report.text().splitlines()):
        observer.note(line)
    return prepared


def _remembered(plan: TrainingPlan, stage: StagePlan, number: int, observer: Observer) -> Sequence[Row]:
    """The rows of EWC's estimate: those it names, or else the replay's."""
    ewc, data = stage.section.forgetting.ewc, stage.section.data
    if ewc is None:
        return ()
    sources = ewc.rows or (data.replay.sources if data.replay is not None else ())
    if not sources:
        where = plan.loaded.where("stages", number, "forgetting", "ewc")
        raise ConfigError(f"{where}: name the rows that are to be remembered (`rows`), or add replay to the data")
    section = DataSection(train=sources, validation=0.0, near_duplicates=None, contaminated="drop")
    return prepare(_request(plan, section, _REMEMBERED, number, observer, None)).train


def _request(
    plan: TrainingPlan,
    section: DataSection,
    accepted: frozenset[RowKind],
    number: int,
    observer: Observer,
    out: Path | None,
) -> Request:
    chat = bool(plan.tokenizer.chat_template)
    return Request(
        section, plan.loaded.folder, accepted, plan.frozen, plan.loaded.recipe.seed + number, chat=chat,
        render=_renderer(plan.tokenizer) if chat else None, out=out, observer=observer,
    )  # fmt: skip


def _renderer(tokenizer: Any) -> Callable[[Row], str]:
    """The text that a chat template makes of a conversational row, of each of its answers."""

    def render(row: Row) -> str:
        if "messages" in row:
            conversations = [row["messages"]]
        else:
            answers = [row[key] for key in ("completion", "chosen", "rejected") if row.get(key)]
            conversations = [[*row["prompt"], *answer] for answer in answers or [[]]]
        return "\n".join(tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations)

    return render


def _conclude(result: TrainingResult, plan: TrainingPlan, observer: Observer) -> None:
    """Merge where that is asked for, and gate what the recipe came to."""
    recipe = plan.loaded.recipe
    if recipe.merge is not None:
        observer.stage("merging")
        spec = spec_of(recipe.base, plan.base, plan.scope)
        folders = [plan.folder(name) for name in recipe.merge.stages]
        result.result = merging.merge(recipe.merge, spec, folders, plan.folder(merging.NAME))
        _promoted(result, plan, merging.NAME, result.result, observer)
        return
    last = plan.stages[-1]
    name = last.section.name
    if last.objective.head == "reward":
        result.ungated = f"stage {name} trains a reward model, which answers nothing that a gate could ask"
    elif name not in result.verdicts:
        _promoted(result, plan, name, plan.folder(name), observer)


def _promoted(result: TrainingResult, plan: TrainingPlan, name: str, folder: Path, observer: Observer) -> bool:
    """Gate what a stage left."""
    config: LoadedConfig = with_candidate(plan.gate, folder, name)
    result.verdicts[name] = gated = run_gate(config, observer)
    observer.note(f"{name}: {gated.verdict.verdict.upper()}, {gated.path}")
    return gated.verdict.verdict == "promote"
