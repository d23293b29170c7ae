"""Prefix tuning (Li & Liang 2021, arXiv 2101.00190): learned keys and values before every text, in every layer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.training.scopes._prompt import PromptOptions, PromptScope, prompt_scope


class Options(PromptOptions):
    """Options of `prefix`."""

    projection: int | None = Field(None, ge=1, description="width of a network that makes the prefix (null: none)")


def build(options: Options) -> PromptScope:
    """The scope."""

    def config(**common: Any) -> Any:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            num_virtual_tokens=options.tokens,
            prefix_projection=options.projection is not None,
            encoder_hidden_size=options.projection,
            **common,
        )

    # The prefix stands in a cache, which activation checkpointing throws away.
    return prompt_scope("prefix", 1e-3, config, {"gradient_checkpointing": False})
