"""One stage: load, train, keep the result with the record of how; what a killed run left is gone on from."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import runs
from harness.adapters import RECORD
from harness.errors import ConfigError, DataError, StorageError
from harness.progress import Observer
from harness.records import content_hash
from harness.training import forgetting, provenance
from harness.training.data import Prepared
from harness.training.loading import load_for, spec_of
from harness.training.objectives import Intake, Job, Row
from harness.training.objectives._trainers import last_checkpoint
from harness.training.planning import StagePlan, TrainingPlan
from harness.training.provenance import Point, Record
from harness.training.scopes import Fitted, Share, share_of

WORK = ".work"
_KEY = "key.json"
_LAST_GOOD = "the last weights whose gradients were numbers"


@dataclass(frozen=True, slots=True)
class Trained:
    """What a stage left: the folder, its share of trainable parameters, and how it ended."""

    name: str
    folder: Path
    share: Share
    outcome: Mapping[str, Any]
    rows: int

    def row(self) -> tuple[str, ...]:
        """For a table: name, rows, trained parameters, steps, why it ended, folder."""
        share = self.share.trainable / max(1, self.share.total)
        told = str(self.outcome["stopped"])
        return (
            self.name, f"{self.rows:,}", f"{self.share.trainable:,} ({share:.2%})", str(self.outcome["steps"]), told,
            str(self.folder),
        )  # fmt: skip


@dataclass(slots=True)
class StageRun:
    """A stage of a plan, on its prepared rows; `baseline` is what was measured before anything was trained.

    `remembered` are the rows of EWC's estimate.
    """

    plan: TrainingPlan
    stage: StagePlan
    data: Prepared
    number: int
    baseline: Mapping[str, float]
    observer: Observer
    remembered: Sequence[Row] = ()
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
            InfrastructureError: a model cannot be loaded, a disk is full …; repeating the command goes on.
        """
        if (done := self._done()) is not None:
            self.observer.note(f"{self.name} is trained already: {self.folder}")
            return done
        self._open_work()
        return self._train()

    def _key(self) -> str:
        """What fixes the outcome: the base, the stage and its scope, its rows, and the stages before it."""
        before = self.stage.starts_from
        recipe = self.plan.loaded.recipe
        return content_hash({
            "base": self.plan.base_sha256,
            "loading": recipe.base.model_dump(mode="json", exclude={"model", "revision"}),
            "scope": recipe.scope.model_dump(mode="json"),
            "stage": self.stage.section.model_dump(mode="json", exclude={"gate", "starts_from"}),
            "rows": self.data.report.hashes,
            "seed": recipe.seed,
            "before": None if before is None else _record(self.plan.folder(before)).get("key"),
        })  # fmt: skip

    def _done(self) -> Trained | None:
        if not self.folder.exists():
            return None
        record = _record(self.folder)
        if record.get("key") != self._key():
            raise ConfigError(
                f"{self.folder} holds the result of another training (other rows, settings or base); name another "
                "folder in the recipe's out, or move this one away"
            )
        return Trained(self.name, self.folder, Share(**record["share"]), record["outcome"], len(self.data.train))

    def _open_work(self) -> None:
        """The folder of the trainer's checkpoints; those of another training are cleared away."""
        path = self.work / _KEY
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != self._key():
            shutil.rmtree(self.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.data.report.write(self.work)
        runs.write_text(path, json.dumps(self._key()) + "\n")

    def _train(self) -> Trained:
        from transformers import set_seed

        recipe, before = self.plan.loaded.recipe, self.stage.starts_from
        seed = recipe.seed + self.number
        set_seed(seed)
        self.observer.stage(f"{self.name}: loading")
        spec = spec_of(recipe.base, self.plan.base, self.plan.scope)
        classes = sorted({str(row["label"]) for row in self.data.train}) if self.data.kind == "class" else ()
        from_folder = None if before is None else self.plan.folder(before)
        model = load_for(spec, self.plan.scope, self.stage.objective.head, from_folder, classes)
        if isinstance(model, Fitted):
            losses, outcome = self._fit(model, seed)
        else:
            losses, outcome = self._steps(model, seed, spec.device.partition(":")[0])
        share = share_of(model)
        self._keep(model, share, losses, outcome, {"device": spec.device, "dtype": spec.dtype})
        del model
        gc.collect()
        return Trained(self.name, self.folder, share, outcome, len(self.data.train))

    def _fit(self, model: Fitted, seed: int) -> tuple[list[Point], dict[str, Any]]:
        self.observer.stage(f"{self.name}: fitting")
        texts = [str(row["text"]) for row in self.data.train]
        model.fit(texts, [str(row["label"]) for row in self.data.train], self.plan.tokenizer, seed)
        return [], {"stopped": "fitted at once", "steps": 0}

    def _steps(self, model: Any, seed: int, device: str) -> tuple[list[Point], dict[str, Any]]:
        share = share_of(model)
        self.observer.note(
            f"{self.name}: {share.trainable:,} of {share.total:,} parameters are trained "
            f"({share.trainable / max(1, share.total):.3%}, {share.bytes / 2**20:.1f} MiB)"
        )
        callbacks = self._callbacks()
        job = Job(
            model, self.plan.tokenizer, self.plan.scope, self.data.kind, self.data.train, self.data.validation,
            self.stage.section.settings, self.work, seed, device, callbacks, self.plan.loaded.folder,
            self._intakes.append,
        )  # fmt: skip
        trainer = self.stage.objective.trainer(job)
        for intake in self._intakes:
            self.observer.note(_told(self.name, intake))
        checkpoint = last_checkpoint(self.work)
        if checkpoint is not None:
            self.observer.note(f"{self.name}: going on from {checkpoint.name}")
        self.observer.stage(f"{self.name}: training")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return _points(trainer.state.log_history), _outcome(trainer.state, callbacks)

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

    def _keep(
        self, model: Any, share: Share, losses: Sequence[Point], outcome: Mapping[str, Any], machine: dict[str, str]
    ) -> None:
        """Write the result beside its place and move it there: it is there whole or not at all."""
        part = self.plan.out / WORK / f"{self.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            self.plan.scope.save(model, part)
            if self.plan.scope.traits.saves == "checkpoint":
                self.plan.tokenizer.save_pretrained(part)
            (part / "README.md").unlink(missing_ok=True)  # PEFT's empty model card, which says nothing
            provenance.write_record(part, self._record(share, losses, outcome, machine))
            part.rename(self.folder)
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written: {error}") from error

    def _record(
        self, share: Share, losses: Sequence[Point], outcome: Mapping[str, Any], machine: dict[str, str]
    ) -> Record:
        recipe, section = self.plan.loaded.recipe, self.stage.section
        before = self.stage.starts_from
        lineage = [] if before is None else [
            *_record(self.plan.folder(before)).get("lineage", []),
            {"stage": before, "key": _record(self.plan.folder(before)).get("key", "")},
        ]  # fmt: skip
        return Record(
            stage=self.name, key=self._key(), base=recipe.base.model, base_weights_sha256=self.plan.base_sha256,
            scope=recipe.scope.model_dump(mode="json"), objective=section.objective.model_dump(mode="json"),
            settings=section.settings.model_dump(mode="json"), seed=recipe.seed, share=share,
            data={**self.data.report.as_json(), "tokens": [asdict(intake) for intake in self._intakes]},
            losses=losses, outcome=outcome, recipe=recipe.model_dump(mode="json"),
            recipe_sha256=content_hash(recipe.model_dump(mode="json")), baseline=self.baseline,
            frozen={state.suite.name: state.suite.digest() for state in self.plan.gate_plan.states},
            lineage=lineage, machine=machine, git=provenance.git_state(self.plan.loaded.folder),
        )  # fmt: skip


def _record(folder: Path) -> dict[str, Any]:
    try:
        loaded = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / RECORD} cannot be read: {error}") from error
    return loaded if isinstance(loaded, dict) else {}


def _points(history: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The loss curves of a trainer's log."""
    names = {"loss": "train", "eval_loss": "validation"}
    return [
        Point(int(entry["step"]), kind, float(entry[key]))
        for entry in history
        for key, kind in names.items()
        if key in entry
    ]


def _outcome(state: Any, callbacks: Sequence[Any]) -> dict[str, Any]:
    """How a training ended, and what watched it."""
    outcome: dict[str, Any] = {"steps": int(state.global_step), "planned": int(state.max_steps), "stopped": "finished"}
    if outcome["steps"] < outcome["planned"]:
        outcome["stopped"] = "validation loss no longer fell"
    for callback in callbacks:
        if getattr(callback, "stopped_at", None) is not None:
            at, kept = callback.stopped_at, callback.kept_step
            outcome |= {"stopped": f"gradients were no numbers at step {at}", "kept_step": kept, "kept": _LAST_GOOD}
        if hasattr(callback, "looks"):
            outcome["looks"], outcome["looks_share"] = len(callback.looks), round(callback.share, 4)
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
