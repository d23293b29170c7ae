"""`ForgettingGuard`: looks at the gate's frozen samples while a model is trained, and stops a training that forgets.

At every evaluation of the trainer (or every so many steps) the model is asked some of the gate's frozen samples; what
the baseline answered to them was found out before the first step. What a look tests, and at which level, stands in
`_looks`; what it may cost, in `_cost`. Where a regression is shown the training is stopped, and the model gets back
the weights of the best checkpoint that had not regressed: the one of lowest validation loss, or of lowest training
loss where nothing is validated, or the latest where no loss is logged. A training in which nothing is shown is bit
for bit what it would have been without the guard.

*Baseline.* Of a `PeftModel`, the model with its adapter switched off. Of any other, the model before its first step;
`baseline="gate"` takes the gate's own instead (loaded once, asked, closed), for a later stage of a sequence.

*Several processes.* With plain data parallelism the first process looks and the others wait for what it says; a look
must be shorter than the process group's timeout. Sharded models (DeepSpeed, FSDP) are refused.

*On disk*, in `OUTPUT_DIR/forgetting-guard`: `looks.jsonl` with a line for each look, `state.json` for a resumed
training, and `kept.safetensors` with the trainable weights of the kept checkpoint. The weights are put back when
training ends: a checkpoint that the trainer saved itself after the kept step holds what forgot.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback

from harness.cache import OutputCache
from harness.config import LoadedConfig, load_gate
from harness.errors import StorageError
from harness.gate import build_subject
from harness.records import Comparison
from harness.runs import read_json, write_json
from harness.subjects import SubjectContext
from harness.subjects._weights import _keep_trainable
from harness.training.forgetting._cost import LookPlan, Meter, plan_looks
from harness.training.forgetting._kept import KeptWeights
from harness.training.forgetting._live import Asking
from harness.training.forgetting._looks import CHUNK, Look, Watch
from harness.training.forgetting._model import broadcast, refuse_sharded, undisturbed

FOLDER = "forgetting-guard"
_LOOKS_UNASKED = 10  # in a training that evaluates nothing

_log = logging.getLogger(__name__)


class ForgettingGuard(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by the type checker
    """See the module. `trainer.add_callback(ForgettingGuard("gate.yaml"))` is all that a script needs.

    Attributes:
        looks: every look of this process so far, in order.
        regressed: the look that stopped the training, or None.
        kept_step: the step whose weights are kept; 0 is where training started.
        share: compute of looks over compute of training.
    """

    def __init__(
        self,
        gate: str | Path | LoadedConfig,
        *,
        every: int | None = None,
        samples: int = 64,
        cost: float = 0.15,
        baseline: Literal["start", "gate"] = "start",
    ) -> None:
        """Read the gate and its frozen sets; no model is touched.

        Args:
            gate: a gate.yaml. Its required guards that tolerate a drop, and their suites, are what is looked at.
            every: steps between looks; None is at every evaluation, or ten times where the trainer evaluates nothing.
            samples: frozen samples of a suite at a look, at most.
            cost: compute of looks over compute of training, at most; looks are made smaller, then fewer, to keep it.
            baseline: see the module.

        Raises:
            UsageError, LockError: as `harness gate` raises them, or nothing in the gate can be looked at.
        """
        self.looks: list[Look] = []
        self.regressed: Look | None = None
        self.kept_step = 0
        self._loaded = gate if isinstance(gate, LoadedConfig) else load_gate(Path(gate))
        self._watch = Watch.of(self._loaded, samples)
        self._every, self._cost, self._baseline = every, cost, baseline
        self._running = False
        self._loss: dict[str, float] = {}
        self._kept_loss: float | None = None
        self._plan: LookPlan | None = None
        self._done_points = 0

    @property
    def share(self) -> float:
        """See the class."""
        return self._meter.share if self._running or self.looks else 0.0

    # ------------------------------------------------------------ events, as transformers names them

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Ask the baseline and keep the starting weights."""
        model = given["model"]
        refuse_sharded(args, model, "ForgettingGuard")
        self._first = bool(state.is_world_process_zero)
        self._folder = Path(args.output_dir) / FOLDER
        self._kept = KeptWeights(self._folder / "kept.safetensors")
        self._points = self._count_points(args, state)
        self._from_step, self._done_points = state.global_step, 0
        self.looks, self.regressed, self.kept_step = [], None, 0
        self._loss, self._kept_loss, self._plan = {}, None, None
        self._running = True
        if self._first:
            self._begin(args, state, model, given.get("processing_class"))

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Look, where looks have steps of their own; when the trainer evaluates at this step too, after that."""
        own_steps = self._every is not None or str(_value(args.eval_strategy)) == "no"
        if own_steps and not control.should_evaluate:
            self._maybe_look(args, state, control, given["model"])

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **given: Any) -> None:
        """Look, with the validation loss at hand."""
        losses = [v for k, v in (metrics or {}).items() if k.startswith("eval") and k.endswith("loss")]
        if losses:
            self._loss["validation"] = float(metrics.get("eval_loss", losses[0]))
        self._maybe_look(args, state, control, given["model"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Remember the training loss."""
        if logs and "loss" in logs:
            self._loss["training"] = float(logs["loss"])

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Where a regression was shown, put the kept weights back; write the last line of the log."""
        if not self._running:
            return
        stopped = self._agree(args, self.regressed is not None)
        if stopped:
            if self._first:
                self._kept.restore(given["model"])
            if args.world_size > 1:
                broadcast(given["model"])
        if self._first:
            self._meter.stop()
            self._end(state)
        self._running = False

    # ------------------------------------------------------------ what they do

    def _count_points(self, args: Any, state: Any) -> int:
        """At how many points of the whole training a look may be made; `_steps` is set to the steps between them."""
        strategy = str(_value(args.eval_strategy))
        self._steps = self._every or (int(state.eval_steps) if strategy == "steps" else 0)
        if not self._steps and strategy == "epoch":
            return int(state.num_train_epochs)
        self._steps = self._steps or max(1, math.ceil(state.max_steps / _LOOKS_UNASKED))
        return int(state.max_steps // self._steps)

    def _point(self, state: Any) -> int:
        """Which of the points this step is, from 1; 0 where it is none."""
        if self._steps:
            step = int(state.global_step)
            return step // self._steps if step % self._steps == 0 else 0
        return math.ceil(state.epoch - 1e-6)

    def _begin(self, args: Any, state: Any, model: Any, processing: Any) -> None:
        _keep_trainable(model)  # before the first forward pass
        self._asking = Asking.of(self._loaded, args, model, processing)
        resumed = self._resumed() if state.global_step else {}
        self._meter = Meter(model, resumed.get("trained", 0.0), resumed.get("looked", 0))
        with undisturbed(model), self._meter.look():
            before = self._meter.looked
            self._fingerprint = self._ask_baseline(model, resumed.get("baseline"))
            asked, self._meter.looked = self._meter.looked - before, before
        self._full = self._watch.expected_cost(
            self._asking.present(model, state.global_step), self._asking.encoder.prompt
        )
        if not state.global_step:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "looks.jsonl").unlink(missing_ok=True)
            self._kept.save(model)
        guards = [guard.label for guard in self._watch.guards]
        self._write("begin", state.global_step, guards=guards, points=self._points, baseline_tokens=asked)
        self._store()

    def _ask_baseline(self, model: Any, known: str | None) -> str:
        """Fingerprint of what was asked. `known` is that of the starting weights, which a resumed training has not."""
        with OutputCache(self._loaded.folder / self._loaded.gate.cache / "outputs.sqlite") as cache:
            if self._baseline == "gate":
                subject = build_subject(self._loaded, "baseline", SubjectContext(self._loaded.folder))
                try:
                    self._watch.ask_baseline(subject, cache, subject.fingerprint)
                finally:
                    subject.close()
                return subject.fingerprint
            start = self._asking.starting(model)
            self._watch.ask_baseline(start, cache, known or start.fingerprint)
            return known or start.fingerprint

    def _maybe_look(self, args: Any, state: Any, control: Any, model: Any) -> None:
        """Look if this is a point at which one is due, and stop the training if it shows a regression."""
        point = self._point(state) if self._running and self.regressed is None else 0
        if point <= self._done_points:
            return
        self._done_points = point
        if self._first:
            self._look_at(state, model, point)
        if self._agree(args, self.regressed is not None):
            control.should_training_stop = True

    def _look_at(self, state: Any, model: Any, point: int) -> None:
        if self._plan is None and not self._make_plan(state):
            return
        plan = self._plan
        if plan is None or point % plan.stride or point // plan.stride > plan.looks:
            return
        subject = self._asking.present(model, state.global_step)

        def affords(part: float) -> bool:
            return self._meter.looked + part * self._full <= self._cost * self._meter.trained

        with undisturbed(model), self._meter.look():
            look = self._watch.look(
                subject, state.global_step, looks=plan.looks, samples=plan.samples, affords=affords
            )  # fmt: skip
        if look is None:
            self._write("skipped", state.global_step, reason="looks have already cost what they may", share=self.share)
            return
        self._judge(look, model)

    def _make_plan(self, state: Any) -> bool:
        """Once the training's compute can be foreseen: how many looks there will be, and how large."""
        steps = max(1, state.global_step - self._from_step)
        budget = self._cost * self._meter.trained / steps * state.max_steps
        self._plan = plan_looks(self._points, self._watch.samples, self._full, budget, smallest=CHUNK)
        if self._plan is None:
            self._done_points = self._points
            said = f"a look costs {self._full:.0f} tokens and all of them may cost {budget:.0f}"
            _log.warning("ForgettingGuard: no look can be afforded: %s. Raise cost, or lower samples", said)
            self._write("skipped", state.global_step, reason=f"no look can be afforded: {said}", share=0.0)
            return False
        if (self._plan.looks, self._plan.samples) != (self._points, self._watch.samples):
            _log.warning(
                "ForgettingGuard: to keep to %.0f %% of the training's compute, %d looks of %d samples a suite instead "
                "of %d of %d",
                100 * self._cost, self._plan.looks, self._plan.samples, self._points, self._watch.samples,
            )  # fmt: skip
        self._store()
        return True

    def _judge(self, look: Look, model: Any) -> None:
        """Keep the checkpoint, or say that it has regressed."""
        loss = self._loss.get("validation", self._loss.get("training"))
        self.looks.append(Look(look.step, look.comparisons, look.samples, loss))
        if look.regressed:
            self.regressed = self.looks[-1]
            told = "; ".join(map(_sentence, look.regressed))
            _log.warning(
                "ForgettingGuard: stopped at step %d: %s. The weights of step %d are put back",
                look.step, told, self.kept_step,
            )  # fmt: skip
        elif look.clear and self._better(loss):
            self._kept.save(model)
            self.kept_step, self._kept_loss = look.step, loss
        record = self.looks[-1].as_json()
        self._write(record.pop("event"), record.pop("step"), **record, kept_step=self.kept_step, share=self.share)
        self._store()

    def _better(self, loss: float | None) -> bool:
        """Whether a checkpoint is to be kept instead of the kept one; a loss that is no number never is."""
        if loss is None or self._kept_loss is None:
            return loss is None or not math.isnan(loss)
        return loss < self._kept_loss

    def _end(self, state: Any) -> None:
        restored = self.kept_step if self.regressed else None
        plan = self._plan
        self._write(
            "end", state.global_step, looks=len(self.looks), planned=plan.looks if plan else 0, share=self.share,
            regressed_at=self.regressed.step if self.regressed else None, restored=restored,
        )  # fmt: skip
        _log.info("ForgettingGuard: %d looks took %.1f %% of the training's compute", len(self.looks), 100 * self.share)

    def _agree(self, args: Any, decided: bool) -> bool:
        """What the first process has decided, in every process."""
        if args.world_size <= 1:
            return decided
        import torch

        told = [decided]
        torch.distributed.broadcast_object_list(told, src=0)
        return bool(told[0])

    # ------------------------------------------------------------ files

    def _write(self, event: str, step: int, **facts: Any) -> None:
        line = json.dumps({"event": event, "step": step, **facts}, ensure_ascii=False)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "looks.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise StorageError(f"{self._folder}: {error}. Free space, then resume the training") from error

    def _store(self) -> None:
        """What a resumed training has to know."""
        plan = self._plan
        write_json(
            self._folder / "state.json",
            {
                "baseline": self._fingerprint, "trained": self._meter.trained, "looked": self._meter.looked,
                "kept_step": self.kept_step, "kept_loss": self._kept_loss,
                "plan": [plan.stride, plan.looks, plan.samples] if plan else None,
            },
        )  # fmt: skip

    def _resumed(self) -> Mapping[str, Any]:
        stored: Mapping[str, Any] = read_json(self._folder / "state.json")
        self.kept_step, self._kept_loss = stored["kept_step"], stored["kept_loss"]
        self._plan = LookPlan(*stored["plan"]) if stored["plan"] else None
        return stored


def _value(strategy: Any) -> Any:
    return getattr(strategy, "value", strategy)


def _sentence(comparison: Comparison) -> str:
    difference = comparison.difference or 0.0
    return (
        f"{comparison.label} lost {comparison.lost} and won {comparison.won} of {comparison.n_used} samples "
        f"({difference:+.3f}; tolerated: {-comparison.margin:g})"
    )


def read_looks(output_dir: Path) -> Sequence[Mapping[str, Any]]:
    """The lines of a training's log of looks, for a report; empty where it had no guard."""
    path = output_dir / FOLDER / "looks.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
