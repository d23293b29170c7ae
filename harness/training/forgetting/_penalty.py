"""What both penalties have in common: when their gradient is added, where they start, and what they log.

**Where it lands.** transformers 5.23 calls `on_pre_optimizer_step` once for every optimiser step, after the gradients
of all micro-batches are summed, unscaled (float16) and clipped, and right before `optimizer.step()`. So the penalty is
counted once a step whatever the gradient accumulation and the batch size, is not clipped, and does not show in the
logged `grad_norm`; `max_grad_norm` bounds the gradient of the task alone. With plain data parallelism every process
adds the same. Optimisers that step during the backward pass (LOMO, layer-wise ones) are over by then: refused.

The value is logged with the training loss, which does not contain it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from harness.errors import ConfigError
from harness.training.forgetting._kept import read_tensors, write_tensors
from harness.training.forgetting._model import refuse_sharded
from harness.training.forgetting._terms import Term, terms_of

_IN_BACKWARD = ("lomo", "layerwise")


class Penalty(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by the type checker
    """½ λ Σ f · (w − w₀)², added to what any trainer minimises, by its gradient."""

    name = ""
    """Key of the value in the trainer's logs, and stem of the file with the starting point."""

    def __init__(self, strength: float) -> None:
        """λ, larger than 0.

        Raises:
            ConfigError: it is not.
        """
        if not strength > 0:
            raise ConfigError(f"{self.name}: strength {strength} must be larger than 0")
        self.strength = strength
        self.value: float | None = None
        self._terms: Sequence[Term] = ()
        self._fishers: Mapping[str, Any] = {}
        self._last: Any = None

    def prepare(self, model: Any, processing: Any, terms: Sequence[Term]) -> dict[str, Any]:
        """Weights f by the terms' names, computed before the first step; nothing where they are all 1."""
        return {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Remember where the weights start; a resumed training reads it."""
        model = given["model"]
        refuse_sharded(args, model, self.name)
        optimizer = str(getattr(args.optim, "value", args.optim))
        if any(word in optimizer for word in _IN_BACKWARD):
            raise ConfigError(
                f"{self.name}: the optimiser {optimizer} steps during the backward pass, before a penalty can be "
                "added; use another, such as adamw_torch"
            )
        self._terms = terms_of(model, self.name)
        path = Path(args.output_dir) / "penalties" / f"{self.name}.safetensors"
        if state.global_step:
            stored = self._read(path)
        else:
            fishers = self.prepare(model, given.get("processing_class"), self._terms)
            stored = {name: tensor for term in self._terms for name, tensor in term.start().items()}
            stored |= {f"{name}.fisher": fisher for name, fisher in fishers.items()}
            if str(getattr(args.save_strategy, "value", args.save_strategy)) != "no" and state.is_world_process_zero:
                write_tensors(path, stored)  # without checkpoints nothing can be resumed
        for term in self._terms:
            term.anchor(stored)
        device = next(model.parameters()).device
        self._fishers = {k.removesuffix(".fisher"): v.to(device) for k, v in stored.items() if k.endswith(".fisher")}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Add the gradient; see the module."""
        import torch

        with torch.no_grad():
            values = [term.pull(self.strength, self._fishers.get(term.name)) for term in self._terms]
            self._last = torch.stack([value.to(values[0].device) for value in values]).sum()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Put the value beside the training loss, also in the trainer's own history."""
        if logs is None or "loss" not in logs or self._last is None:
            return
        self.value = float(self._last)
        logs[self.name] = self.value
        if state.log_history:
            state.log_history[-1][self.name] = self.value

    def _read(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            raise ConfigError(
                f"{self.name}: a training is resumed, and {path}, which says where its weights started, is not there; "
                "resume with the same output_dir, or start anew"
            )
        return read_tensors(path)
