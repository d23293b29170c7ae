"""Training wrapped by the gate: evaluation first, then a recipe's stages, then the verdict.

A recipe names what moves (a *scope*, one module each in `scopes`), towards what (an *objective*, one module each in
`objectives`) and on which rows (`data`). `forgetting` holds what keeps old skills while a new one is learned, as
callbacks that any `transformers.Trainer` takes. Nothing here decides: the gate does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.training.forgetting.guard import ForgettingGuard

__all__ = ["ForgettingGuard"]


def __getattr__(name: str) -> Any:
    """`ForgettingGuard`, imported when it is asked for: it loads transformers, and nothing else here does."""
    if name in __all__:
        from harness.training import forgetting

        return getattr(forgetting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
