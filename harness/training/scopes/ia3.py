"""(IA)³ (Liu et al. 2022, arXiv 2205.05638): a learned factor for each key, value and inner feed-forward activation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import Field, model_validator

from harness.errors import ConfigError
from harness.training.scopes import Traits
from harness.training.scopes._adapter import ALL_HEADS, AdapterScope, ScopeOptions

_LLAMA_LIKE = ("k_proj", "v_proj", "down_proj")


class Options(ScopeOptions):
    """Options of `ia3`. Without targets they are those of the paper, where the model's names are known."""

    targets: tuple[str, ...] = Field((), description="ends of module names whose output, or input, is scaled")
    feedforward: tuple[str, ...] = Field((), description="those of the targets whose input is scaled")

    @model_validator(mode="after")
    def _among_targets(self) -> Options:
        if not set(self.feedforward) <= set(self.targets):
            raise ValueError("feedforward: every one of them must be among the targets")
        return self


def build(options: Options) -> AdapterScope:
    """The scope."""
    traits = Traits(ALL_HEADS, merges=True, mixes=False, quantised=True, saves="adapter")
    return AdapterScope("ia3", traits, partial(_configure, options), defaults={"learning_rate": 3e-3})


def _configure(options: Options, model: Any, common: Mapping[str, Any]) -> Any:
    from peft import IA3Config

    targets, feedforward = (options.targets, options.feedforward) if options.targets else _usual(model)
    return IA3Config(target_modules=list(targets), feedforward_modules=list(feedforward), **common)


def _usual(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from peft.utils import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    )

    # Before PEFT's list, which has Qwen2's queries scaled where the paper has keys.
    if set(_LLAMA_LIKE) <= {name.rpartition(".")[2] for name, _ in model.named_modules()}:
        return _LLAMA_LIKE, _LLAMA_LIKE[-1:]
    kind = model.config.model_type
    if kind in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        known = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[kind]
        return tuple(known), tuple(TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[kind])
    raise ConfigError(f"scope ia3 does not know the layers of {kind}; name them with targets and feedforward")
