"""Stops a training whose gradients are no longer numbers, and gives the model its last good weights back.

The trainer hides a NaN loss from its logs (`logging_nan_inf_filter`), so what is looked at is the gradients, right
before the optimiser would apply them: a NaN or infinite loss always shows there. The step is not made. As the weights
that the last step left may be what is broken, the model goes back to the last copy that is known to be good: one is
taken every so many steps, at a moment when the weights have just given finite gradients. In float16 an overflow is
part of how the loss scale is found, and the scaler skips the step by itself; only a long row of them counts.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from harness.training.forgetting._kept import KeptWeights
from harness.training.forgetting._model import broadcast, refuse_sharded

_log = logging.getLogger(__name__)

_COPIES = 20  # in a training, unless `every` says otherwise
_OVERFLOWS = 25  # in a row, in float16: the scale has been halved to 2⁻⁹ of its usual start by then


class StopOnNaN(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by the type checker
    """See the module. `stopped_at` is the step that could not be made (None: all could), `kept_step` the copy's."""

    def __init__(self, every: int | None = None) -> None:
        """`every`: steps between two copies of the trainable weights (default: a twentieth of the training)."""
        self.stopped_at: int | None = None
        self.kept_step = 0
        self._every = every
        self._bad = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Nothing is copied yet: the first step shows whether the start is good."""
        refuse_sharded(args, given["model"], "StopOnNaN")
        self._kept = KeptWeights(Path(args.output_dir) / "last-good.safetensors")
        self._steps = self._every or max(1, math.ceil(state.max_steps / _COPIES))
        self._taken: int | None = None
        self.stopped_at, self._bad = None, 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Refuse gradients that are no numbers; with good ones, copy the weights that gave them if it is time."""
        if _finite(given["model"]):
            self._bad = 0
            if self._taken is None or state.global_step - self._taken >= self._steps:
                if state.is_world_process_zero:
                    self._kept.save(given["model"])
                self._taken = self.kept_step = state.global_step
            return
        self._bad += 1
        if args.fp16 and self._bad < _OVERFLOWS:
            return
        for parameter in given["model"].parameters():
            parameter.grad = None
        self.stopped_at = state.global_step + 1
        control.should_training_stop = True
        _log.error(
            "step %d: the loss or its gradient is not a finite number, so the step is not made and training stops. %s "
            "Likely causes: a learning rate that is too high, float16 where bfloat16 is needed, a row without labels",
            self.stopped_at,
            "Nothing was trained." if self._taken is None else f"The weights of step {self.kept_step} are put back.",
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Put the copy back, and remove the file."""
        if self.stopped_at is not None and self._taken is not None:
            if state.is_world_process_zero:
                self._kept.restore(given["model"])
            if args.world_size > 1:
                broadcast(given["model"])
        if state.is_world_process_zero:
            self._kept.path.unlink(missing_ok=True)


def _finite(model: Any) -> bool:
    import torch

    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        return True
    norms = torch._foreach_norm([g.detach() for g in gradients])
    return bool(torch.isfinite(torch.stack([n.to(norms[0].device) for n in norms])).all())
