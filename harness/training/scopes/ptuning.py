"""P-tuning (Liu et al. 2021, arXiv 2103.10385): embeddings before every text, made by a network that is learned."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.training.scopes._prompt import PromptOptions, PromptScope, prompt_scope


class Options(PromptOptions):
    """Options of `ptuning`."""

    width: int = Field(128, ge=1, description="of the network")
    network: Literal["mlp", "lstm"] = "mlp"


def build(options: Options) -> PromptScope:
    """The scope."""

    def config(**common: Any) -> Any:
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            num_virtual_tokens=options.tokens,
            encoder_hidden_size=options.width,
            encoder_reparameterization_type=options.network.upper(),
            **common,
        )

    return prompt_scope("ptuning", 1e-3, config)
