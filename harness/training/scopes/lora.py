"""LoRA: every chosen matrix W becomes W + (alpha / rank) B A, with A and B of low rank; the default scope."""

from __future__ import annotations

from functools import partial

from harness.training.scopes import Traits
from harness.training.scopes._adapter import ALL_HEADS, AdapterScope
from harness.training.scopes._lora import LoraOptions, lora_config


class Options(LoraOptions):
    """Options of `lora`."""


def build(options: Options) -> AdapterScope:
    """The scope."""
    # With DoRA a row of the bare base cannot stand in one batch with a row of the adapter: PEFT refuses it.
    traits = Traits(ALL_HEADS, merges=True, mixes=not options.dora, quantised=True, saves="adapter")
    return AdapterScope("lora", traits, partial(lora_config, options), defaults={"learning_rate": 2e-4})
