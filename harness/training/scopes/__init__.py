"""What moves in a training: which parameters are trained, and how they are saved. One module each.

A scope plugin's `build(options)` returns a `Scope`. A scope knows nothing of objectives: the two meet in the traits
that it declares and in the model that it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

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
    as `gradient_checkpointing=False`; they outrank the recipe's settings, and the recipe is told. `defaults` are
    trainer arguments that suit it (`learning_rate`, a paged `optim`); they fill in what the recipe leaves open.
    """

    name: str
    traits: Traits
    quantization: Literal["none", "4bit"]
    arguments: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def refusal(self, config: Any) -> str | None:
        """Why a base of this transformers config cannot be trained so, with the way out; None where it can.

        Nothing is loaded: the model is laid out without memory at most.
        """
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
        """Write what was trained, as safetensors, so that a fresh process answers identically with it.

        With head "classes" the classes are named beside it, in a `classifier.json` or in a checkpoint's own config.
        The tokenizer is the caller's to save.
        """
        ...


@runtime_checkable
class Fitted(Protocol):
    """A model that is fitted to rows at once instead of trained in steps: what `features` makes of a base."""

    def fit(self, texts: Sequence[str], labels: Sequence[str], tokenizer: Any, seed: int = 0) -> None:
        """Learn to tell the labels from the texts.

        Raises:
            DataError: fewer than two classes, too few rows of one, or a text longer than the model reads.
        """
        ...

    def share(self) -> Share:
        """What was fitted, beside what was frozen."""
        ...


def share_of(model: Any) -> Share:
    """How much of a model is trained, after `Scope.apply` (or after `fit` for a model that is fitted)."""
    if isinstance(model, Fitted):
        return model.share()
    trained = [p for p in model.parameters() if p.requires_grad]
    return Share(
        trainable=sum(p.numel() for p in trained),
        total=sum(_numbers(p) for p in model.parameters()),
        bytes=sum(p.numel() * p.element_size() for p in trained),
    )


def _numbers(parameter: Any) -> int:
    """Numbers in a parameter; bitsandbytes packs two 4-bit ones into each byte."""
    count = int(parameter.numel())
    if type(parameter).__name__ != "Params4bit":
        return count
    return count * 2 * int(parameter.element_size())
