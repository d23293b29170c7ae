"""BitFit: the biases that the base has, and nothing else; see `harness.tuners.bitfit` for how they are kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import Field

from harness.errors import ConfigError
from harness.subjects import _classes
from harness.training.scopes import Traits
from harness.training.scopes._adapter import ALL_HEADS, AdapterScope, ScopeOptions
from harness.training.scopes._models import shortest


class Options(ScopeOptions):
    """Options of `bitfit`."""

    only: tuple[str, ...] = Field((), description="ends of module names, such as [q_proj, fc2] (default: all biases)")


def build(options: Options) -> AdapterScope:
    """The scope."""
    traits = Traits(ALL_HEADS, merges=True, mixes=False, quantised=True, saves="adapter")
    return AdapterScope("bitfit", traits, partial(_configure, options), defaults={"learning_rate": 5e-4})


def _configure(options: Options, model: Any, common: Mapping[str, Any]) -> Any:
    from harness.tuners.bitfit import BitFitConfig

    modules = _biased(model)
    if not modules:
        raise ConfigError(
            f"{model.config.model_type} has no biases, so there is nothing for scope bitfit to train; scope "
            "additive_bias adds biases to its layers and trains those"
        )
    chosen = [m for m in modules if not options.only or any(m == e or m.endswith(f".{e}") for e in options.only)]
    if not chosen:
        raise ConfigError(f"scope bitfit: no module with a bias is named {' or '.join(options.only)}")
    return BitFitConfig(target_modules=shortest(model, chosen), **common)


def _biased(model: Any) -> list[str]:
    """Modules with a bias, outside the head; each must be of a kind that its change can be added behind."""
    from harness.tuners.bitfit import ADDED_LAST

    heads = _classes.head_modules(model)
    owners = []
    for name, _ in model.named_parameters():
        module, _, last = name.rpartition(".")
        if not last.endswith("bias") or any(_classes.inside(module, m) for m in heads):
            continue
        kind = model.get_submodule(module)
        if last != "bias" or not isinstance(kind, ADDED_LAST):
            raise ConfigError(f"scope bitfit cannot train {name}: a {type(kind).__name__} does not add it last")
        owners.append(module)
    return owners
