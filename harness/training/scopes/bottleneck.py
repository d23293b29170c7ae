"""Bottleneck adapters (Houlsby et al. 2019) behind attention and MLP; see `harness.tuners.bottleneck`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from pydantic import Field

from harness.errors import ConfigError
from harness.training.scopes import Traits
from harness.training.scopes._adapter import ALL_HEADS, AdapterScope, ScopeOptions
from harness.training.scopes._models import shortest

# The last layer of each sub-layer, by the names that transformers' models give it.
_ATTENTION = re.compile(
    r"(?:^|\.)(?:self_attn|attn|attention|self_attention)\.(?:output\.)?(?:o_proj|out_proj|c_proj|dense|out_lin|Wo)$"
)
_MLP = re.compile(
    r"(?:^|\.)(?:mlp|ffn|feed_forward)\.(?:down_proj|c_proj|dense_4h_to_h|fc2|fc_out|lin2|Wo|w2)$"
    r"|\.\d+\.(?:fc2|output\.dense)$"
)


class Options(ScopeOptions):
    """Options of `bottleneck`."""

    size: int = Field(64, ge=1, description="width of the bottleneck")
    activation: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    targets: tuple[str, ...] = Field((), description="ends of module names (default: behind attention and MLP)")


def build(options: Options) -> AdapterScope:
    """The scope."""
    traits = Traits(ALL_HEADS, merges=False, mixes=False, quantised=True, saves="adapter")
    return AdapterScope("bottleneck", traits, partial(_configure, options), defaults={"learning_rate": 3e-4})


def _configure(options: Options, model: Any, common: Mapping[str, Any]) -> Any:
    from harness.tuners.bottleneck import BottleneckConfig

    targets = list(options.targets) or _sublayers(model)
    return BottleneckConfig(target_modules=targets, size=options.size, activation=options.activation, **common)


def _sublayers(model: Any) -> list[str]:
    """The last layers of all attentions and MLPs.

    Raises:
        ConfigError: there is not one of each in every layer, as in a model of experts or with unknown names.
    """
    names = [name for name, _ in model.named_modules()]
    attention, mlp = ([n for n in names if pattern.search(n)] for pattern in (_ATTENTION, _MLP))
    layers = getattr(getattr(model.config, "text_config", None) or model.config, "num_hidden_layers", None)
    if not len(attention) == len(mlp) == layers:
        raise ConfigError(
            f"scope bottleneck finds {len(attention)} attentions and {len(mlp)} MLPs in the {layers} layers of "
            f"{model.config.model_type}; name the modules that adapters go behind with targets"
        )
    return shortest(model, [*attention, *mlp])
