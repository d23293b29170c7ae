"""P-tuning (Liu et al. 2021, arXiv 2103.10385): embeddings before every text, made by a network that is learned.

The network is PEFT's multi-layer perceptron. With the paper's LSTM what is saved differs by rounding from what was
trained, as the LSTM's sums depend on the batch.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.training.scopes._prompt import PromptOptions, PromptScope, prompt_scope


class Options(PromptOptions):
    """Options of `ptuning`."""

    width: int = Field(128, ge=1, description="of the network")


def build(options: Options) -> PromptScope:
    """The scope."""

    def config(**common: Any) -> Any:
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            num_virtual_tokens=options.tokens,
            encoder_hidden_size=options.width,
            **common,
        )

    return prompt_scope("ptuning", 1e-3, config)
