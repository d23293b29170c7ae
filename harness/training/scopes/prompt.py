"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): learned embeddings before every text, nothing deeper."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.training.scopes._prompt import PromptOptions, PromptScope, prompt_scope


class Options(PromptOptions):
    """Options of `prompt`."""

    init: Literal["vocabulary", "random"] = Field("vocabulary", description="start from embeddings of random tokens")


def build(options: Options) -> PromptScope:
    """The scope."""

    def config(**common: Any) -> Any:
        from peft import PromptTuningConfig

        start = {"vocabulary": "SAMPLE_VOCAB", "random": "RANDOM"}[options.init]
        return PromptTuningConfig(num_virtual_tokens=options.tokens, prompt_tuning_init=start, **common)

    return prompt_scope("prompt", 3e-2, config)
