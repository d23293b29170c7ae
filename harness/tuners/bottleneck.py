"""Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751): two small layers behind each sub-layer of a model.

With y the output of a sub-layer (attention or MLP, after its projection back to the model's width and before the
residual is added), an adapter makes of it y + U σ(D y + d) + u, where D maps to `size` dimensions and U back. The
paper starts near the identity with small normal weights; here U and u are zero and D is as torch makes it, so that
an untrained adapter is the identity bit for bit. It is not linear, so it cannot be merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft.tuners.tuners_utils import _get_in_out_features
from peft.utils.peft_types import PeftType
from torch import nn
from transformers.activations import ACT2FN

from harness.tuners._registration import add_method
from harness.tuners._tuner import Tuner, TunerConfig, TunerLayer


@dataclass
class BottleneckConfig(TunerConfig):
    """`size` is the width of the bottleneck, `activation` a name that transformers knows."""

    size: int = 64
    activation: str = "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("BOTTLENECK")


class BottleneckLayer(TunerLayer):
    """A projection with adapters behind it."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def prepare(self) -> None:
        """See `TunerLayer.prepare`."""
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.activations: dict[str, Any] = {}

    def fill(self, adapter_name: str, config: Any) -> None:
        """See `TunerLayer.fill`: with U and u zero the output stays as it is."""
        width = _get_in_out_features(self.get_base_layer())[1]
        up = nn.Linear(config.size, width)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = nn.Linear(width, config.size), up
        self.activations[adapter_name] = ACT2FN[config.activation]

    def change(self, adapter_name: str, output: Any) -> Any:
        """See `TunerLayer.change`; adapters may be kept in a wider type than the base computes in."""
        down, up = self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name]
        inner = self.activations[adapter_name](down(output.to(down.weight.dtype)))
        return output + up(inner).to(output.dtype)


class BottleneckModel(Tuner):
    """The tuner that PEFT builds for a `BottleneckConfig`."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _check_merge_allowed(self) -> None:
        raise ValueError("a bottleneck adapter is not linear, so no weights exist that it could be merged into")


add_method("bottleneck", BottleneckConfig, BottleneckModel)
