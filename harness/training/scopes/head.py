"""Head-only: the backbone is frozen, and what turns its last hidden state into classes or a reward is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.errors import ConfigError
from harness.subjects import _classes
from harness.training.scopes import Head, Traits
from harness.training.scopes._adapter import ScopeOptions
from harness.training.scopes._models import freeze, reason, refuse_encoder_decoder, refuse_quantised

_TRAITS = Traits(frozenset({"reward", "classes"}), merges=False, mixes=False, quantised=False, saves="classifier")


class Options(ScopeOptions):
    """`head` has no options."""


@dataclass(frozen=True, slots=True)
class HeadScope:
    """See `harness.training.scopes.Scope`."""

    name: str = "head"
    traits: Traits = _TRAITS
    quantization: Literal["none", "4bit"] = "none"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"learning_rate": 1e-3})

    def refusal(self, config: Any) -> str | None:
        """See `Scope.refusal`."""
        return reason(lambda: refuse_encoder_decoder(config))

    def apply(self, model: Any, head: Head) -> Any:
        """See `Scope.apply`."""
        if head not in self.traits.heads:
            raise ConfigError("scope head trains a head for classes or a reward; for next tokens, use another scope")
        refuse_quantised(model, self.name)  # the classifier subject would put the head on the whole base
        names = _classes.head_modules(model)
        if not names:
            raise ConfigError(f"{type(model).__name__} has no head; load it as a model for sequence classification")
        freeze(model)
        for name in names:
            model.get_submodule(name).requires_grad_(True)
        return model

    def resume(self, model: Any, folder: Path, head: Head) -> Any:
        """See `Scope.resume`."""
        _classes.load_head(model, folder)
        return self.apply(model, head)

    def save(self, model: Any, folder: Path) -> None:
        """See `Scope.save`: the head's tensors by their names in the model."""
        names = _classes.head_modules(model)
        state = {n: t for n, t in model.state_dict().items() if any(_classes.inside(n, head) for head in names)}
        _classes.save_head(folder, state)
        _classes.write(folder, "head", _classes.names_of(model.config) if model.config.num_labels > 1 else ())


def build(options: Options) -> HeadScope:
    """The scope."""
    return HeadScope()
