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
from harness.training.scopes._adapter import ADAPTER, AdapterScope, ScopeOptions
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
        return _keeping_the_network(self.inner.apply(model, head))

    def resume(self, model: Any, folder: Path, head: Head) -> Any:
        """See `Scope.resume`; the network is made as the options say and filled from the folder."""
        adapted = self.apply(model, head)
        _fill(adapted.prompt_encoder[ADAPTER], folder)
        return adapted

    def save(self, model: Any, folder: Path) -> None:
        """See `Scope.save`."""
        self.inner.save(model, folder)


def prompt_scope(
    name: str, learning_rate: float, config: Callable[..., Any], arguments: Mapping[str, Any] | None = None
) -> PromptScope:
    """A scope from a function that makes PEFT's config when it is wanted."""
    # As a classifier reads the last token by its position in the text, which virtual tokens shift: language only.
    traits = Traits(frozenset({"language"}), merges=False, mixes=False, quantised=False, saves="adapter")
    inner = AdapterScope(name, traits, lambda model, common: config(**common))
    return PromptScope(inner, name, traits, arguments=dict(arguments or {}), defaults={"learning_rate": learning_rate})


def _keeping_the_network(model: Any) -> Any:
    """The model saving the network wherever it is saved, a trainer's checkpoints included, and loading it again.

    PEFT would load the virtual tokens of a checkpoint into the network's input, and go on with wrong ones.
    """
    from safetensors.torch import save_file

    class NetworkKept(type(model)):  # type: ignore[misc]  # peft is not followed by the type checker
        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
            super().save_pretrained(save_directory, *args, **kwargs)
            for name, encoder in self.prompt_encoder.items():
                folder = Path(save_directory) if name == ADAPTER else Path(save_directory) / name  # as PEFT lays out
                state = {key: tensor.detach().cpu().contiguous() for key, tensor in encoder.state_dict().items()}
                if folder.is_dir():
                    save_file(state, folder / ENCODER)

        def load_adapter(self, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
            if adapter_name not in self.peft_config:
                super().load_adapter(model_id, adapter_name, *args, **kwargs)
            _fill(self.prompt_encoder[adapter_name], Path(model_id))

    model.__class__ = NetworkKept  # not a method of the instance, which a deep copy would share with the original
    return model


def _fill(encoder: Any, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        encoder.load_state_dict(load_file(folder / ENCODER))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise AdapterError(f"{folder} holds no prompt that a training could go on from: {error}") from error


def _need_generator(config: Any, scope: str) -> None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    refuse_encoder_decoder(config)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(f"scope {scope} needs a causal language model, and {config.model_type} is none")
