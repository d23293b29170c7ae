"""A lower learning rate in the middle of a training, whose schedule goes on from there in its own shape."""

from __future__ import annotations

from typing import Any

from harness.errors import ConfigError

FACTOR = 1 / 3  # twice is about an order of magnitude, and a training has few looks to find its rate with


def refuse_unknown(scheduler: Any) -> None:
    """Raise where the schedule could not be made lower: its next value might not be in proportion to a base.

    Raises:
        ConfigError: it is of another class than those that transformers makes.
    """
    from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

    if not isinstance(getattr(scheduler, "scheduler", scheduler), LambdaLR | ReduceLROnPlateau):
        raise ConfigError(
            f"ForgettingGuard(on_regression='lower_rate') can lower the schedules of transformers, and this training's "
            f"is a {type(scheduler).__name__}; name one by lr_scheduler_type, or use on_regression='stop'"
        )


def lower(optimizer: Any, scheduler: Any) -> None:
    """Multiply the rate, now and for the rest of the schedule, and let the optimiser begin anew.

    Its averages are of weights that are no longer there. Begun anew it is as it was before its first step, so what is
    kept of them on disk is no more than the weights.
    """
    inner = getattr(scheduler, "scheduler", scheduler)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * FACTOR
    if hasattr(inner, "base_lrs"):
        inner.base_lrs = [rate * FACTOR for rate in inner.base_lrs]
    optimizer.state.clear()
