"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): LoRA on a base in 4-bit NF4 with double quantisation.

The base's layers that stay unquantised keep their type, where peft's `prepare_model_for_kbit_training` would widen
them to float32: the model that is trained is then the very model that a fresh process loads, and it needs less memory.
An adapter is never merged into 4-bit weights, as rounding would change the answers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field

from harness.errors import ConfigError
from harness.training.scopes import Traits
from harness.training.scopes._adapter import ALL_HEADS, AdapterScope
from harness.training.scopes._lora import LoraOptions, lora_config


class Options(LoraOptions):
    """Options of `qlora`."""

    optimizer: str = Field("paged_adamw_32bit", description="paged: its state moves out of a GPU's memory when full")


def build(options: Options) -> AdapterScope:
    """The scope."""
    return AdapterScope(
        "qlora",
        Traits(ALL_HEADS, merges=False, mixes=not options.dora, quantised=True, saves="adapter"),
        partial(lora_config, options),
        quantization="4bit",
        defaults={"learning_rate": 2e-4, "optim": options.optimizer},
        prepare=_prepare,
    )


def _prepare(model: Any) -> None:
    if not getattr(model, "is_loaded_in_4bit", False):
        raise ConfigError("scope qlora needs a base in 4 bits, and this one was loaded otherwise; use scope lora")
