"""One stage: load, train, keep the result with the record of how; what a killed run left is gone on from."""

from __future__ import annotations

import gc
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from harness import runs
from harness.adapters import as_recorded, folder_digests
from harness.errors import AdapterError, ConfigError, DataError
from harness.progress import Observer
from harness.records import content_hash
from harness.training import forgetting, provenance
from harness.training.data import Prepared
from harness.training.data.rows import sha256
from harness.training.keeping import WORK, fitting_in_memory, keep, make_folder, storing
from harness.training.loading import load_for, save_tokenizer, spec_of
from harness.training.objectives import Intake, Job, Row
from harness.training.objectives._trainers import last_checkpoint
from harness.training.planning import StagePlan, TrainingPlan
from harness.training.provenance import Point, Record, read_record
from harness.training.scopes import Fitted, Share, share_of

_KEY = "key.json"
_FINISHED = "finished"
_LAST_GOOD = "the last weights whose gradients were numbers"


@dataclass(frozen=True, slots=True)
class Trained:
    """What a stage left: the folder, its share of trainable parameters, and how it ended."""

    name: str
    folder: Path
    share: Share
    outcome: Mapping[str, Any]
    rows: int

    @property
    def broken(self) -> bool:
        """Whether it ended because there was no going on, and not because it was done."""
        return bool(self.outcome.get("broken"))

    def row(self) -> tuple[str, ...]:
        """For a table: name, rows, trained parameters, steps, why it ended, folder."""
        share = self.share.trainable / max(1, self.share.total)
        told = str(self.outcome["stopped"])
        return (
            self.name, f"{self.rows:,}", f"{self.share.trainable:,} ({share:.2%})", str(self.outcome["steps"]), told,
            str(self.folder),
        )  # fmt: skip


@dataclass
class StageRun:
    """A stage of a plan, on its prepared rows; `baseline` is what was measured before anything was trained.

    `remembered` are the rows of EWC's estimate, and `watchers` further callbacks of the trainer.
    """

    plan: TrainingPlan
    stage: StagePlan
    data: Prepared
    number: int
    baseline: Mapping[str, float]
    observer: Observer
    remembered: Sequence[Row] = ()
    watchers: Sequence[Any] = ()
    _intakes: list[Intake] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.section.name

    @property
    def folder(self) -> Path:
        """Where it leaves what it trained."""
        return self.plan.folder(self.name)

    @property
    def work(self) -> Path:
        """Checkpoints of the trainer, and the report of the rows."""
        return self.plan.out / WORK / self.name

    def run(self) -> Trained:
        """Train the stage, or go on with it, or take what a finished run of the very same stage left.

        Raises:
            UsageError: the folder holds another training, or the rows cannot be learnt from.
            AdapterError: what a finished run left has been changed since.
            InfrastructureError: a model cannot be loaded, a disk is full …; repeating the command goes on.
        """
        if (done := self._done()) is not None:
            self.observer.note(f"{self.name} is trained already: {self.folder}")
            return done
        self._open_work()
        return self._train()

    @cached_property
    def key(self) -> str:
        """What fixes the outcome: base and tokenizer, the stage and its scope, its rows, the stages before it."""
        before = self.stage.starts_from
        recipe = self.plan.loaded.recipe
        return content_hash({
            "base": self.plan.base_sha256,
            "tokenizer": self.plan.tokenizer_sha256,
            "loading": recipe.base.model_dump(mode="json", include={"dtype", "device"}),
            "scope": recipe.scope.model_dump(mode="json"),
            "stage": self.stage.section.model_dump(mode="json", exclude={"gate", "starts_from"}),
            "named": _named_folders(self.stage.section.objective.options, self.plan.loaded.folder),
            "rows": self.data.report.hashes,
            "remembered": sha256(self.remembered),
            "seed": self.seed,
            "before": None if before is None else read_record(self.plan.folder(before)).get("key"),
        })  # fmt: skip

    @property
    def seed(self) -> int:
        """Another one for each stage."""
        return self.plan.loaded.recipe.seed + self.number

    def _done(self) -> Trained | None:
        if not self.folder.exists():
            return None
        record = read_record(self.folder)
        if record.get("key") != self.key:
            raise ConfigError(
                f"{self.folder} holds the result of another training (other rows, settings or base); name another "
                "folder in the recipe's out, or move this one away"
            )
        refuse_changed(self.folder)
        return Trained(self.name, self.folder, Share(**record["share"]), record["outcome"], len(self.data.train))

    def _open_work(self) -> None:
        """The folder of the trainer's checkpoints; those of another training are cleared away."""
        path = self.work / _KEY
        make_folder(self.work)
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if known != self.key:  # without a key, too: a clearing that was killed may have left checkpoints
            if last_checkpoint(self.work) is not None:
                self.observer.note(
                    f"{self.name}: the checkpoints in {self.work} are of another training and are removed"
                )
            with storing(self.work):
                shutil.rmtree(self.work)
        make_folder(self.work)
        self.data.report.write(self.work)
        runs.write_text(path, json.dumps(self.key) + "\n")

    def _train(self) -> Trained:
        from transformers import set_seed

        before = self.stage.starts_from
        set_seed(self.seed)
        self.observer.stage(f"{self.name}: loading")
        spec = spec_of(self.plan.loaded.recipe.base, self.plan.base, self.plan.scope)
        from_folder = None if before is None else self.plan.folder(before)
        model = load_for(spec, self.plan.scope, self.stage.objective.head, from_folder, classes_of(self.data))
        if isinstance(model, Fitted):
            losses, outcome = self._fit(model)
            share = share_of(model)
        else:
            share = share_of(model)  # before a trainer puts an adapter for reference beside ours
            losses, outcome = self._steps(model, share, spec.device.partition(":")[0])
        made = self._record(share, losses, outcome, {"device": spec.device, "dtype": spec.dtype})
        keep(self.folder, partial(self._write, model, made))
        del model
        gc.collect()
        return Trained(self.name, self.folder, share, outcome, len(self.data.train))

    def _fit(self, model: Fitted) -> tuple[list[Point], dict[str, Any]]:
        self.observer.stage(f"{self.name}: fitting")
        texts = [str(row["text"]) for row in self.data.train]
        with fitting_in_memory(self.name):
            model.fit(texts, [str(row["label"]) for row in self.data.train], self.plan.tokenizer, self.seed)
        return [], {"stopped": "fitted at once", "steps": 0}

    def _steps(self, model: Any, share: Share, device: str) -> tuple[list[Point], dict[str, Any]]:
        self.observer.note(
            f"{self.name}: {share.trainable:,} of {share.total:,} parameters are trained "
            f"({share.trainable / max(1, share.total):.3%}, {share.bytes / 2**20:.1f} MiB)"
        )
        callbacks = self._callbacks()
        job = Job(
            model, self.plan.tokenizer, self.plan.scope, self.data.kind, self.data.train, self.data.validation,
            self.stage.section.settings, self.work, self.seed, device, [*self.watchers, *callbacks],
            self.plan.loaded.folder, self._intakes.append,
        )  # fmt: skip
        with storing(self.work), fitting_in_memory(self.name):
            trainer = self.stage.objective.trainer(job)
            for intake in self._intakes:
                self.observer.note(_told(self.name, intake))
            checkpoint = last_checkpoint(self.work)
            if checkpoint is not None:
                self.observer.note(f"{self.name}: going on from {checkpoint.name}")
            self.observer.stage(f"{self.name}: training")
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        outcome = _outcome(trainer.state, callbacks, best=job.settings.patience is not None)
        if outcome["stopped"] != _FINISHED:
            self.observer.note(f"{self.name}: {outcome['stopped']}")
        return _points(trainer.state.log_history), outcome

    def _callbacks(self) -> list[Any]:
        """What the stage's section asks for; a head that writes no text cannot be asked the frozen samples."""
        section = self.stage.section.forgetting
        if self.stage.objective.head != "language" and section.guard is not None:
            section = section.model_copy(update={"guard": None})
        # Whole weights that an earlier stage has moved are no longer the base, and cannot be switched back to it.
        moved = self.stage.starts_from is not None and self.plan.scope.traits.saves == "checkpoint"
        return forgetting.callbacks(
            section, gate=self.plan.gate.path, rows=self.remembered, seed=self.plan.loaded.recipe.seed,
            baseline="gate" if moved else "start",
        )  # fmt: skip

    def _write(self, model: Any, made: Record, folder: Path) -> None:
        self.plan.scope.save(model, folder)
        if self.plan.scope.traits.saves == "checkpoint":
            save_tokenizer(self.plan.loaded.recipe.base, self.plan.base, self.plan.loaded.folder, folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card, which says nothing
        provenance.write_record(folder, made)

    def _record(
        self, share: Share, losses: Sequence[Point], outcome: Mapping[str, Any], machine: dict[str, str]
    ) -> Record:
        recipe, section = self.plan.loaded.recipe, self.stage.section
        before = self.stage.starts_from
        lineage = [] if before is None else [
            *read_record(self.plan.folder(before)).get("lineage", []),
            {"stage": before, "key": read_record(self.plan.folder(before)).get("key", "")},
        ]  # fmt: skip
        return Record(
            stage=self.name, key=self.key, base=recipe.base.model, base_weights_sha256=self.plan.base_sha256,
            scope=recipe.scope.model_dump(mode="json"), objective=section.objective.model_dump(mode="json"),
            settings=section.settings.model_dump(mode="json"), seed=recipe.seed, share=share,
            data={**self.data.report.as_json(), "tokens": [asdict(intake) for intake in self._intakes]},
            losses=losses, outcome=outcome, recipe=recipe.model_dump(mode="json"),
            recipe_sha256=content_hash(recipe.model_dump(mode="json")), baseline=self.baseline,
            frozen={state.suite.name: state.suite.digest() for state in self.plan.gate_plan.states},
            lineage=lineage, machine=machine, git=provenance.git_state(self.plan.loaded.folder),
        )  # fmt: skip


def refuse_changed(folder: Path) -> None:
    """Raise where the files of a result are no longer those that its training left.

    Raises:
        AdapterError: they are not.
    """
    check = as_recorded(folder)
    if check is not None and not check.passed:
        raise AdapterError(
            f"{folder}: {check.detail}. Put the files back, or move the folder away and repeat the command to train "
            "it anew"
        )


def classes_of(data: Prepared) -> list[str]:
    """The classes of labelled texts, in the order of a classifier's outputs; none for rows of other kinds.

    Raises:
        DataError: there is only one.
    """
    if data.kind != "class":
        return []
    if len({str(row["label"]) for row in data.train}) < 2:
        raise DataError(
            f"all training rows are of the class {data.train[0]['label']!r}, so nothing is to be told apart"
        )
    return sorted({str(row["label"]) for row in (*data.train, *data.validation)})


def _named_folders(options: Any, home: Path) -> dict[str, Any]:
    """What the folders that an objective's options name hold: a reward model may be trained anew in its place."""
    if isinstance(options, Mapping):
        return {name: found for key in options for name, found in _named_folders(options[key], home).items()}
    if isinstance(options, list | tuple):
        return {name: found for value in options for name, found in _named_folders(value, home).items()}
    if isinstance(options, str) and options and (home / options).is_dir():
        return {options: folder_digests(home / options)}
    return {}


def _points(history: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The loss curves of a trainer's log."""
    names = {"loss": "train", "eval_loss": "validation"}
    return [
        Point(int(entry["step"]), kind, float(entry[key]) if math.isfinite(entry[key]) else None)
        for entry in history
        for key, kind in names.items()
        if key in entry
    ]


def _outcome(state: Any, callbacks: Sequence[Any], *, best: bool) -> dict[str, Any]:
    """How a training ended, and what watched it; with `best` the trainer has put the best checkpoint back."""
    outcome: dict[str, Any] = {"steps": int(state.global_step), "planned": int(state.max_steps), "stopped": _FINISHED}
    if outcome["steps"] < outcome["planned"]:
        outcome["stopped"] = "validation no longer got better"
    if best and state.best_global_step:
        outcome["kept_step"] = int(state.best_global_step)
    for callback in callbacks:
        if getattr(callback, "stopped_at", None) is not None:
            at, kept = callback.stopped_at, callback.kept_step
            outcome |= {"stopped": f"gradients were no numbers at step {at}", "kept_step": kept, "kept": _LAST_GOOD}
            outcome["broken"] = True
        if hasattr(callback, "looks"):
            outcome["looks"], outcome["looks_share"] = len(callback.looks), round(callback.share, 4)
            if callback.lowered:
                outcome["rate_lowered"] = callback.lowered
            if callback.regressed is not None:
                kept = callback.kept_step
                what = f"the weights of step {kept} are kept" if kept else "the weights are those of the start again"
                outcome |= {"stopped": f"a regression was shown; {what}", "kept_step": kept}
    return outcome


def _told(stage: str, intake: Intake) -> str:
    parts = [f"{stage}: {intake.part}: {intake.used} of {intake.given} rows, {intake.learnt:,} tokens are learnt"]
    if intake.dropped:
        parts.append(f"{len(intake.dropped)} rows too long and dropped")
    if intake.cut:
        parts.append(f"{len(intake.cut)} rows cut")
    return "; ".join([*parts, *intake.notes])
