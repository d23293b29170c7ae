"""BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): train the biases that a model has, and nothing else.

PEFT's own `bias="all"` trains the base's biases in place, and switching the adapter off leaves them changed. Here a
module with bias b keeps it, and what is trained is the change c: the layer puts out base(x) + c, the base with b + c.
The gradient of c is that of b, so the training is the same, but for weight decay, which pulls towards the base's biases
and not towards zero. Merging adds c to b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from peft.utils.peft_types import PeftType
from torch import nn
from transformers.pytorch_utils import Conv1D

from harness.tuners._registration import add_method
from harness.tuners._tuner import Tuner, TunerConfig, TunerLayer

ADDED_LAST = (nn.Linear, nn.LayerNorm, Conv1D)
"""Modules whose output is something plus the bias along its last axis, so that the change can be added behind them."""


@dataclass
class BitFitConfig(TunerConfig):
    """Its targets are modules of the kinds `ADDED_LAST` that have a bias."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("BITFIT")


class Change(nn.Module):  # type: ignore[misc]  # torch is not followed by the type checker
    """A vector as a module: trainers that copy an adapter look for tensors below its name."""

    def __init__(self, like: Any) -> None:
        """Zeros, [features], of the type and on the device of `like`."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(like))


class BitFitLayer(TunerLayer):
    """A module with a bias, and the changes of it."""

    adapter_layer_names = ("bitfit_change",)

    def prepare(self) -> None:
        """See `TunerLayer.prepare`."""
        self.bitfit_change = nn.ModuleDict()

    def fill(self, adapter_name: str, config: Any) -> None:
        """See `TunerLayer.fill`."""
        base = self.get_base_layer()
        if not isinstance(base, ADDED_LAST) or base.bias is None:
            raise ValueError(f"{type(base).__name__} has no bias that a change could be added to")
        self.bitfit_change[adapter_name] = Change(base.bias)

    def change(self, adapter_name: str, output: Any) -> Any:
        """See `TunerLayer.change`; a change may be kept in a wider type than the base computes in."""
        return (output + self.bitfit_change[adapter_name].weight).to(output.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the change to the base's bias; `safe_merge` refuses one that is not finite."""
        bias = self.get_base_layer().bias
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.bitfit_change:
                continue
            merged = bias.data + self.bitfit_change[name].weight.data
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"the biases of adapter {name} are not finite")
            bias.data = merged.to(bias.dtype)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take the change away again, up to rounding."""
        bias = self.get_base_layer().bias
        while self.merged_adapters:
            bias.data = (bias.data - self.bitfit_change[self.merged_adapters.pop()].weight.data).to(bias.dtype)


class BitFitModel(Tuner):
    """The tuner that PEFT builds for a `BitFitConfig`."""

    prefix = "bitfit_"
    tuner_layer_cls = BitFitLayer


add_method("bitfit", BitFitConfig, BitFitModel)
