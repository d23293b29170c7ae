"""What keeps old skills while a new one is learned: callbacks for any `transformers.Trainer`.

    from harness.training import ForgettingGuard

    trainer.add_callback(ForgettingGuard("gate.yaml"))

`ForgettingGuard` looks at the gate's frozen samples while the model is trained, and ends a training that is shown to
forget. `L2SP` and `Ewc` pull the weights back to where they started. `StopOnNaN` ends a training whose gradients are
no longer numbers. None of them needs another trainer: they work in the plain one, in TRL's, and in what builds on
those. The names are imported when they are asked for, because each loads transformers.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.training.recipe import ForgettingSection

if TYPE_CHECKING:
    from harness.training.forgetting.ewc import Ewc
    from harness.training.forgetting.guard import ForgettingGuard
    from harness.training.forgetting.l2_sp import L2SP
    from harness.training.forgetting.nan import StopOnNaN

__all__ = ["L2SP", "Ewc", "ForgettingGuard", "StopOnNaN", "callbacks"]

_HOMES = {"ForgettingGuard": "guard", "L2SP": "l2_sp", "Ewc": "ewc", "StopOnNaN": "nan"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def callbacks(
    section: ForgettingSection,
    *,
    gate: Path,
    rows: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
    baseline: Literal["start", "gate"] = "start",
) -> list[Any]:
    """What a stage's section asks for, in the order in which a trainer should be given them.

    `StopOnNaN` is always among them, and first: a gradient that is no number must not be added to. `rows` are those
    of EWC's Fisher estimate, and `baseline` is what the guard compares with, see there.
    """
    from harness.training.forgetting.nan import StopOnNaN

    chosen: list[Any] = [StopOnNaN()]
    if section.l2_sp is not None:
        from harness.training.forgetting.l2_sp import L2SP

        chosen.append(L2SP(section.l2_sp))
    if section.ewc is not None:
        from harness.training.forgetting.ewc import Ewc

        ewc = section.ewc
        chosen.append(Ewc(ewc.strength, rows, samples=ewc.samples, fisher=ewc.fisher, seed=seed))
    if section.guard is not None:
        from harness.training.forgetting.guard import ForgettingGuard

        watch = section.guard
        chosen.append(
            ForgettingGuard(
                gate, every=watch.every, samples=watch.samples, cost=watch.cost, patience=watch.patience,
                baseline=baseline, on_regression=watch.on_regression,
            )
        )  # fmt: skip
    return chosen
