"""The model of a running training, handled so that the training cannot tell: mode, gradients, random state."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.errors import ConfigError


def refuse_sharded(args: Any, model: Any, what: str) -> None:
    """Raise where no process holds the whole model, or where gradients are gone before they could be added to.

    Raises:
        ConfigError: DeepSpeed, FSDP or another way of splitting parameters is in use.
    """
    used = None
    if getattr(args, "deepspeed", None) or _is_on("ACCELERATE_USE_DEEPSPEED"):
        used = "DeepSpeed"
    elif getattr(args, "fsdp", None) or _is_on("ACCELERATE_USE_FSDP"):
        used = "FSDP"
    elif any(type(parameter).__name__ == "DTensor" for parameter in model.parameters()):
        used = "a sharded model"
    if used:
        raise ConfigError(
            f"{what} needs the whole model in one process, and this training uses {used}, which splits it. Train with "
            "one device or with plain data parallelism (DDP), or leave it out and let the gate decide afterwards"
        )


def is_peft(model: Any) -> bool:
    """Whether `model` is a `PeftModel`, whose adapters can be switched off."""
    return hasattr(model, "peft_config") and hasattr(model, "disable_adapter")


def trainable(model: Any) -> dict[str, Any]:
    """The parameters that move, by name; tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def broadcast(model: Any) -> None:
    """Give every process of a data-parallel training the trainable weights of the first one."""
    import torch

    with torch.no_grad():
        for parameter in trainable(model).values():
            torch.distributed.broadcast(parameter.data, src=0)


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Evaluation mode and no gradients inside; afterwards everything is as it was found.

    Kept are each module's own mode (a frozen part may be in evaluation mode while the rest trains), each parameter's
    `requires_grad` (switching PEFT adapters off and on again sets it), and the state of every random generator, so
    that dropout and shuffling go on as if nothing had been computed.
    """
    import torch

    modes = [(module, module.training) for module in model.modules()]
    moving = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    generators = _generators()
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in moving:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        _restore(generators)


def _generators() -> dict[str, Any]:
    import numpy as np
    import torch

    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def _restore(state: dict[str, Any]) -> None:
    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")
