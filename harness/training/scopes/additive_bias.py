"""Additive biases, BEFT in PEFT (arXiv 2509.15974): a learned vector added to what a linear layer puts out.

This is no BitFit: the layers may have no bias of their own, as those of Llama. An added bias has no place in such a
model's files, so it is not merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import Field

from harness.errors import ConfigError
from harness.subjects import _classes
from harness.training.scopes import Traits
from harness.training.scopes._adapter import ALL_HEADS, AdapterScope, ScopeOptions
from harness.training.scopes._models import decoder_head, shortest


class Options(ScopeOptions):
    """Options of `additive_bias`."""

    targets: tuple[str, ...] = Field((), description="ends of module names (default: all linear layers)")


def build(options: Options) -> AdapterScope:
    """The scope."""
    traits = Traits(ALL_HEADS, merges=False, mixes=False, quantised=True, saves="adapter")
    return AdapterScope("additive_bias", traits, partial(_configure, options), defaults={"learning_rate": 5e-4})


def _configure(options: Options, model: Any, common: Mapping[str, Any]) -> Any:
    from peft import BeftConfig

    return BeftConfig(target_modules=list(options.targets) or _linear(model), **common)


def _linear(model: Any) -> list[str]:
    from torch import nn

    output = decoder_head(model)
    skipped = [*_classes.head_modules(model), *([output] if output else [])]
    chosen = [
        n
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and not any(_classes.inside(n, m) for m in skipped)
    ]
    if not chosen:
        raise ConfigError(
            f"{model.config.model_type} has no linear layers that biases could be added to; where it has biases of its "
            "own, use scope bitfit"
        )
    return shortest(model, chosen)
