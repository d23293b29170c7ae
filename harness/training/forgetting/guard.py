"""`ForgettingGuard`: looks at the gate's frozen samples while a model is trained, and stops a training that forgets.

At every evaluation of the trainer (or every so many steps) the model is asked some of the gate's frozen samples; what
the baseline answered to them was found out before the first step. What a look tests, and at which level, stands in
`_looks`; what it may cost, in `_cost`. Where a regression is shown the training is stopped, and the model gets back
the weights of the best checkpoint that had not regressed: the one of lowest validation loss (of several validation
sets the first), or of lowest training loss where nothing is validated, or the latest where no loss is logged. A
training in which nothing is shown is bit for bit what it would have been without the guard.

With `on_regression="lower_rate"` the training is not stopped: it goes on from the kept weights, with an optimiser begun
anew, at a third of the learning rate from there to the end of the schedule, and so again at the next regression. So a
training whose rate was too high ends with the new skill learned at a lower one. The number of steps stays what it was.

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
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback

from harness.config import LoadedConfig, load_gate
from harness.training.forgetting._looks import Look, Watch
from harness.training.forgetting._model import broadcast, refuse_sharded
from harness.training.forgetting._rate import lower, refuse_unknown
from harness.training.forgetting._session import FOLDER, LOOKS, Session, Settings

_LOOKS_UNASKED = 10  # in a training that evaluates nothing


class ForgettingGuard(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by the type checker
    """See the module. `trainer.add_callback(ForgettingGuard("gate.yaml"))` is all that a script needs."""

    def __init__(
        self,
        gate: str | Path | LoadedConfig,
        *,
        every: int | None = None,
        samples: int = 64,
        cost: float = 0.15,
        patience: int = 1,
        baseline: Literal["start", "gate"] = "start",
        on_regression: Literal["stop", "lower_rate"] = "stop",
    ) -> None:
        """Read the gate and its frozen sets; no model is touched.

        Args:
            gate: a gate.yaml. Its required guards that tolerate a drop, and their suites, are what is looked at.
            every: steps between looks; None is at every evaluation, or ten times where the trainer evaluates nothing.
            samples: frozen samples of a suite at a look, at most.
            cost: compute of looks over compute of training, at most; looks are made smaller, then fewer, to keep it.
            patience: looks in a row that must show a regression before training stops, or goes back. With replay a
                skill can be lost for a while and come back. Whatever it is, weights that the last look showed to have
                regressed are not what training ends with.
            baseline, on_regression: see the module.

        Raises:
            UsageError, LockError: as `harness gate` raises them, or nothing in the gate can be looked at.
        """
        loaded = gate if isinstance(gate, LoadedConfig) else load_gate(Path(gate))
        self._watch = Watch.of(loaded, samples)
        self._settings = Settings(loaded, cost, baseline, patience, on_regression)
        self._every = every
        self._session: Session | None = None
        self._running = self._stopped = False
        self._steps = self._done_points = 0
        self._loss: dict[str, float] = {}

    @property
    def looks(self) -> Sequence[Look]:
        """The looks of this process so far, in order."""
        return self._session.looks if self._session else ()

    @property
    def regressed(self) -> Look | None:
        """The last look, if it showed a regression: then the kept weights are what training ends with."""
        return self.looks[-1] if self.looks and self.looks[-1].regressed else None

    @property
    def kept_step(self) -> int:
        """The step whose weights are kept; 0 is where training started."""
        return self._session.kept_step if self._session else 0

    @property
    def lowered(self) -> int:
        """How often the training went back to the kept weights at a lower rate."""
        return self._session.lowered if self._session else 0

    @property
    def share(self) -> float:
        """Compute of looks over compute of training."""
        return self._session.share if self._session else 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Ask the baseline and keep the starting weights."""
        model = given["model"]
        refuse_sharded(args, model, "ForgettingGuard")
        if self._settings.on_regression == "lower_rate":
            refuse_unknown(given.get("lr_scheduler"))
        if self._running and self._session is not None:
            self._session.abandon()
        self._running, self._stopped, self._done_points, self._loss = True, False, 0, {}
        points = self._count_points(args, state)
        if state.is_world_process_zero:
            processing = given.get("processing_class")
            self._session = Session(self._settings, self._watch, points, args, state, model, processing)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Look, where looks have steps of their own; when the trainer evaluates at this step too, after that."""
        if self._steps and not control.should_evaluate:
            self._maybe_look(args, state, control, given)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **given: Any) -> None:
        """Look, with the validation loss at hand."""
        losses = [value for key, value in (metrics or {}).items() if key.startswith("eval") and key.endswith("loss")]
        if losses:
            self._loss["validation"] = float(metrics.get("eval_loss", losses[0]))
        self._maybe_look(args, state, control, given)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Remember the training loss."""
        if logs and "loss" in logs:
            self._loss["training"] = float(logs["loss"])

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Where the last look showed a regression, put the kept weights back; write the last line of the log."""
        if not self._running:
            return
        self._running = False
        restored = self._session.end(state.global_step, given["model"]) if self._session else False
        if self._agree(args, restored) and args.world_size > 1:
            broadcast(given["model"])

    def _count_points(self, args: Any, state: Any) -> int:
        """At how many points of the whole training a look may be made; `_steps` is set to the steps between them."""
        strategy = str(getattr(args.eval_strategy, "value", args.eval_strategy))
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
        return math.ceil(float(state.epoch) - 1e-6)

    def _maybe_look(self, args: Any, state: Any, control: Any, given: Mapping[str, Any]) -> None:
        """Look if this is a point that has not been yet, and stop the training or go back if it comes to that."""
        point = self._point(state) if self._running and not self._stopped else 0
        if point <= self._done_points:
            return
        self._done_points = point
        if self._session is not None:
            loss = self._loss.get("validation", self._loss.get("training"))
            self._session.look(int(state.global_step), int(state.max_steps), given["model"], point, loss)
        if not self._agree(args, self._session is not None and self._session.shown):
            return
        if self._settings.on_regression == "lower_rate" and state.global_step < state.max_steps:
            self._go_back(args, state, given)
        else:
            self._stopped = control.should_training_stop = True

    def _go_back(self, args: Any, state: Any, given: Mapping[str, Any]) -> None:
        """Every process goes on from the kept weights at a lower rate."""
        if self._session is not None:
            self._session.go_back(int(state.global_step), given["model"])
        if args.world_size > 1:
            broadcast(given["model"])
        lower(given["optimizer"], given["lr_scheduler"])

    def _agree(self, args: Any, decided: bool) -> bool:
        """What the first process has decided, in every process."""
        if args.world_size <= 1:
            return decided
        import torch

        told = [decided]
        torch.distributed.broadcast_object_list(told, src=0)
        return bool(told[0])


def read_looks(output_dir: Path) -> Sequence[Mapping[str, Any]]:
    """The lines of a training's log of looks, for a report; empty where it had no guard."""
    path = output_dir / FOLDER / LOOKS
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
