"""Full fine-tuning: every parameter moves, and a whole model is saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.training.scopes import Head, Traits
from harness.training.scopes._adapter import ALL_HEADS, ScopeOptions
from harness.training.scopes._models import reason, refuse_encoder_decoder, refuse_quantised

_TRAITS = Traits(ALL_HEADS, merges=False, mixes=False, quantised=False, saves="checkpoint")


class Options(ScopeOptions):
    """`full` has no options."""


@dataclass(frozen=True, slots=True)
class FullScope:
    """See `harness.training.scopes.Scope`."""

    name: str = "full"
    traits: Traits = _TRAITS
    quantization: Literal["none", "4bit"] = "none"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"learning_rate": 1e-5})

    def refusal(self, config: Any) -> str | None:
        """See `Scope.refusal`."""
        return reason(lambda: refuse_encoder_decoder(config))

    def apply(self, model: Any, head: Head) -> Any:
        """See `Scope.apply`."""
        refuse_encoder_decoder(model.config)
        refuse_quantised(model, self.name)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model

    def resume(self, model: Any, folder: Path, head: Head) -> Any:
        """See `Scope.resume`: the model has been loaded from the folder."""
        return self.apply(model, head)

    def save(self, model: Any, folder: Path) -> None:
        """See `Scope.save`: safetensors and the config, which names the classes where there are some."""
        model.save_pretrained(folder)


def build(options: Options) -> FullScope:
    """The scope."""
    return FullScope()
