"""What moves in a training: which parameters are trained, and how they are saved. One module each.

A scope plugin's `build(options)` returns a `Scope`. A scope knows nothing of objectives: the two meet in the traits
that it declares and in the model that it returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Head = Literal["language", "reward", "classes"]
"""What the model puts out: next tokens, one number a text, or a class of the text."""

Saved = Literal["adapter", "checkpoint", "classifier"]
"""A PEFT adapter folder, a whole model folder, or an encoder's head (`subjects.classifier` reads it)."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a scope can do.

    `merges`: it can be folded into the base's weights exactly. `mixes`: its rows may share a batch with rows of the
    bare base (PEFT is exact there for plain LoRA only). `quantised`: it trains on a 4-bit base. `saves`: see `Saved`.
    """

    heads: frozenset[Head]
    merges: bool
    mixes: bool
    quantised: bool
    saves: Saved


@dataclass(frozen=True, slots=True)
class Share:
    """Trainable and all parameters, and what the trainable ones weigh in bytes (without gradients and optimiser)."""

    trainable: int
    total: int
    bytes: int


class Scope(Protocol):
    """Which parameters move.

    `quantization` is how the base is loaded for it. `arguments` are trainer arguments that it cannot do without, such
    as `gradient_checkpointing=False`; they outrank the recipe's settings, and the recipe is told.
    """

    name: str
    traits: Traits
    quantization: Literal["none", "4bit"]
    arguments: Mapping[str, Any]

    def refusal(self, config: Any) -> str | None:
        """Why a base of this transformers config cannot be trained so, with the way out; None where it can."""
        ...

    def apply(self, model: Any, head: Head) -> Any:
        """The freshly loaded base with exactly this scope's parameters trainable, all others frozen.

        Raises:
            ConfigError: no parameter of this model is in the scope.
        """
        ...

    def resume(self, model: Any, folder: Path, head: Head) -> Any:
        """The freshly loaded base with what an earlier stage saved in `folder` on it, trainable as after `apply`.

        For `saves == "checkpoint"` the caller has loaded the base from `folder` itself.
        """
        ...

    def save(self, model: Any, folder: Path) -> None:
        """Write what was trained, as safetensors, so that a fresh process answers identically with it."""
        ...
