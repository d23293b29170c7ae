"""Scopes that put virtual tokens before every text, as PEFT's prompt-learning methods.

PEFT saves the virtual tokens themselves, and not the small network that makes them while training; from these alone no
later stage could go on, as it would start with a new network. So the network is saved beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.errors import AdapterError, ConfigError
from harness.training.scopes import Head, Traits
from harness.training.scopes._adapter import AdapterScope, ScopeOptions
from harness.training.scopes._models import reason, refuse_encoder_decoder

ENCODER = "prompt_encoder.safetensors"


class PromptOptions(ScopeOptions):
    """Options of every such scope."""

    tokens: int = Field(20, ge=1, description="virtual tokens; they take room in the model's context")


@dataclass(frozen=True, slots=True)
class PromptScope:
    """See `harness.training.scopes.Scope`; `inner` does what is as for any PEFT method."""

    inner: AdapterScope
    name: str
    traits: Traits
    quantization: Literal["none", "4bit"] = "none"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def refusal(self, config: Any) -> str | None:
        """See `Scope.refusal`: virtual tokens are for models that generate."""
        return reason(lambda: _need_generator(config, self.name))

    def apply(self, model: Any, head: Head) -> Any:
        """See `Scope.apply`."""
        _need_generator(model.config, self.name)
        return self.inner.apply(model, head)

    def resume(self, model: Any, folder: Path, head: Head) -> Any:
        """See `Scope.resume`; the network is made as the options say and filled from the folder."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        adapted = self.apply(model, head)
        try:
            _encoder(adapted).load_state_dict(load_file(folder / ENCODER))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise AdapterError(f"{folder} holds no prompt that scope {self.name} could go on from: {error}") from error
        return adapted

    def save(self, model: Any, folder: Path) -> None:
        """See `Scope.save`."""
        from safetensors.torch import save_file

        self.inner.save(model, folder)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in _encoder(model).state_dict().items()}
        save_file(state, folder / ENCODER)


def prompt_scope(
    name: str, learning_rate: float, config: Callable[[], Any], arguments: Mapping[str, Any] | None = None
) -> PromptScope:
    """A scope from a function that makes PEFT's config when it is wanted."""
    # As a classifier reads the last token by its position in the text, which virtual tokens shift: language only.
    traits = Traits(frozenset({"language"}), merges=False, mixes=False, quantised=False, saves="adapter")
    inner = AdapterScope(name, traits, lambda model, common: config(**common))
    return PromptScope(inner, name, traits, arguments=dict(arguments or {}), defaults={"learning_rate": learning_rate})


def _encoder(model: Any) -> Any:
    return model.prompt_encoder["default"]


def _need_generator(config: Any, scope: str) -> None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    refuse_encoder_decoder(config)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(f"scope {scope} needs a causal language model, and {config.model_type} is none")
