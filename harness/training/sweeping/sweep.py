"""The sweep: trial after trial, each a training in its own folder, until there were enough; then the recommendation."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import LoadedConfig, load_gate
from harness.errors import ConfigError, HarnessError, Interrupted, StorageError, SubjectError
from harness.gate import Plan, make_plan
from harness.progress import Observer
from harness.records import content_hash
from harness.training.keeping import WORK
from harness.training.planning import TrainingPlan, make_training_plan
from harness.training.recipe import LoadedRecipe
from harness.training.run import TrainingResult, train
from harness.training.sweeping.candidates import Template, Values, beside, read_template
from harness.training.sweeping.outcome import Trial, front, measured, read_trial, recommended, refuse_one_sided
from harness.training.sweeping.section import LoadedSweep
from harness.training.sweeping.study import Study

Trainer = Callable[[LoadedRecipe, Observer], TrainingResult]


@dataclass(frozen=True, slots=True)
class SweepResult:
    """All trials in order; the `front` of those that no other outdoes; the chosen one and the recipe that repeats it.

    `held` and `left` are how many samples a suite has for choosing and for the verdict.
    """

    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    chosen: Trial | None
    recipe: Path | None
    out: Path
    paths: tuple[str, ...]
    held: dict[str, int]
    left: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""
        return {
            "trials": [{**asdict(t), "state": t.state, "objectives": _objectives(t)} for t in self.trials],
            "front": list(self.front),
            "recommended": None if self.chosen is None else self.chosen.number,
            "recipe": None if self.recipe is None else str(self.recipe),
            "out": str(self.out),
            "samples": {name: {"sweep": n, "verdict": self.left[name]} for name, n in self.held.items()},
        }


def run_sweep(loaded: LoadedSweep, observer: Observer) -> SweepResult:
    """Try settings of a recipe; a sweep that was ended goes on where it was.

    Raises:
        UsageError, HoldError: the sweep, its recipe or its gate is wrong, or the first trial cannot be trained.
        InfrastructureError: the machine failed; repeating the command goes on.
    """
    observer.stage("reading the sweep")
    template = read_template(loaded)
    gate = _gate(loaded, template)
    plan = make_training_plan(template.recipe({}, loaded.out), "sweep")
    make_plan(gate)  # what is left for the verdict has to do for it
    refuse_one_sided(plan.gate_plan.guards, gate.where("suites"))
    if plan.stages[-1].objective.head == "reward" and plan.loaded.recipe.merge is None:
        raise ConfigError(f"{plan.loaded.where('stages')}: the last stage is a reward model, which a gate cannot ask")
    given = {setting.path: template.given(setting.path) for setting in loaded.sweep.settings}
    study = Study(loaded.out, loaded.sweep, _key(loaded, template, plan), given)
    trials = run_trials(loaded, template, study, observer)
    return _conclude(loaded, template, trials, plan.gate_plan)


def run_trials(
    loaded: LoadedSweep, template: Template, study: Study, observer: Observer, trainer: Trainer | None = None
) -> list[Trial]:
    """Every trial of the sweep, those that were finished before among them."""
    trials = [_stored(loaded.out, number) for number in study.finished]
    while (asked := study.next()) is not None:
        number, values = asked
        folder = folder_of(loaded.out, number)
        told = ", ".join(f"{path} = {value}" for path, value in values.items())
        observer.note(f"trial {number} ({number + 1} of {loaded.sweep.trials}): {told}")
        trial = read_trial(folder) or _repeated(number, values, trials)
        if trial is None:
            trial = _run_trial(number, values, template, folder, observer, trainer or _train, trials)
        trial.write(folder)
        study.tell(trial)
        observer.note(f"trial {number}: {_told(trial)}")
        trials.append(trial)
    return trials


def folder_of(out: Path, number: int) -> Path:
    """Where a trial leaves everything."""
    return out / f"trial-{number}"


def _train(recipe: LoadedRecipe, observer: Observer) -> TrainingResult:
    return train(recipe, observer, "sweep")


def _gate(loaded: LoadedSweep, template: Template) -> LoadedConfig:
    gate = load_gate(template.loaded.folder / template.loaded.recipe.gate)
    if not gate.gate.for_sweeps:
        raise ConfigError(
            f"{gate.path}: a sweep chooses the best of many, and what is chosen by some samples has to be judged on "
            "others; add for_sweeps: 0.3 to this file, and 30 % of every suite's samples are kept for sweeps and out "
            "of every verdict"
        )
    return gate


def _key(loaded: LoadedSweep, template: Template, plan: TrainingPlan) -> dict[str, str]:
    """What the trials of one sweep have in common, by what a user would call it."""
    gate = plan.gate_plan
    return {
        "recipe": content_hash(template.loaded.recipe.model_dump(mode="json", exclude={"out"})),
        "rows": content_hash(template.rows()),
        "base": plan.base_sha256,
        "settings": content_hash([s.model_dump(mode="json") for s in loaded.sweep.settings]),
        "sampler and seed": content_hash([loaded.sweep.sampler, loaded.sweep.seed]),
        "frozen samples": content_hash({s.suite.name: [s.suite.digest(), len(s.samples)] for s in gate.states}),
        "guards": content_hash([repr(guard) for guard in gate.guards]),
    }


def _run_trial(
    number: int, values: Values, template: Template, folder: Path, observer: Observer, trainer: Trainer,
    before: list[Trial],
) -> Trial:  # fmt: skip
    """Train and measure. As long as nothing was ever measured an error ends the sweep: it may well be in all trials."""
    try:
        return _measure(number, values, template, folder, observer, trainer)
    except (StorageError, Interrupted):
        raise
    except HarnessError as error:
        if all(trial.state == "failed" for trial in before):
            raise
        reason = str(error)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError" or all(trial.state == "failed" for trial in before):
            raise
        reason = f"out of memory: {str(error).splitlines()[0]}"
    _free_memory()
    _clear(folder)
    return Trial(number, values, reason=reason)


def _measure(
    number: int, values: Values, template: Template, folder: Path, observer: Observer, trainer: Trainer
) -> Trial:
    result = trainer(template.recipe(values, folder), observer)
    gated = result.verdict
    if gated is None or result.result is None:
        raise SubjectError(result.stopped or "nothing came of the training that a gate could ask")
    stages = tuple(
        {"name": s.name, "steps": s.outcome.get("steps"), "ended": s.outcome["stopped"]} for s in result.stages
    )
    guards = measured(gated)
    _clear(folder)
    base = folder.parent
    trained, run = (os.path.relpath(path, base) for path in (result.result, gated.path))
    return Trial(number, values, guards, stages, trained, run)


def _clear(folder: Path) -> None:
    """Checkpoints and kept weights of a finished trial: its result is elsewhere, and many trials fill a disk."""
    work = folder / WORK
    for path in (*work.glob("*/checkpoint-*"), *work.glob("*/forgetting-guard/*.safetensors")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")  # where it was not even loaded there is nothing to free
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _stored(out: Path, number: int) -> Trial:
    trial = read_trial(folder_of(out, number))
    if trial is None:
        raise StorageError(
            f"{folder_of(out, number)} does not hold what trial {number} came to, though it was finished; bring the "
            "folder back, or move the whole sweep away"
        )
    return trial


def _repeated(number: int, values: Values, before: list[Trial]) -> Trial | None:
    """An earlier trial with the very same settings: trained again, it would be the same again."""
    same = next((trial for trial in before if dict(trial.values) == dict(values)), None)
    if same is None:
        return None
    return replace(same, number=number, same_as=same.number if same.same_as is None else same.same_as)


def _objectives(trial: Trial) -> dict[str, float] | None:
    if trial.state == "failed":
        return None
    gain, loss = trial.values_of
    return {"gain": gain, "loss": loss}


def _told(trial: Trial) -> str:
    if trial.state == "failed":
        return f"failed: {trial.reason}"
    worst = trial.worst
    said = f"gain {trial.least.difference:+.3f} on {trial.least.label}, worst {worst.difference:+.3f} on {worst.label}"
    return f"{said} (margin {worst.margin:g}){': a regression is shown' if trial.state == 'regressed' else ''}"


def _conclude(loaded: LoadedSweep, template: Template, trials: list[Trial], held: Plan) -> SweepResult:
    good = [trial for trial in trials if trial.state != "failed"]
    best = tuple(good[i].number for i in front([trial.values_of for trial in good]))
    chosen, recipe = recommended(trials), None
    if chosen is not None:
        recipe = beside(loaded.recipe)
        remark = (
            f"Written by `harness sweep {loaded.path.name}`: the settings of trial {chosen.number}.\n"
            "It is trained already; `harness train` of this file makes the gate's verdict on the samples that chose "
            "nothing."
        )
        template.write(chosen.values, folder_of(loaded.out, _trained_in(chosen)), recipe, remark)
    samples = {state.suite.name: len(state.samples) for state in held.states}
    left = {state.suite.name: len(state.suite.samples()) - len(state.samples) for state in held.states}
    paths = tuple(setting.path for setting in loaded.sweep.settings)
    return SweepResult(tuple(trials), best, chosen, recipe, loaded.out, paths, samples, left)


def _trained_in(trial: Trial) -> int:
    return trial.number if trial.same_as is None else trial.same_as
