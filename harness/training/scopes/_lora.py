"""What LoRA is configured with, on a plain and on a 4-bit base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from harness.subjects import _classes
from harness.training.scopes._adapter import ScopeOptions

_MOVES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


class LoraOptions(ScopeOptions):
    """Options of LoRA (Hu et al. 2021, arXiv 2106.09685) and its variants."""

    rank: int = Field(16, ge=1, description="columns of A, rows of B")
    alpha: float = Field(32, gt=0, description="the change is scaled by alpha / rank, with rslora by alpha / √rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the input of A, while training")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="ends of module names, such as [q_proj, v_proj]"
    )
    dora: bool = Field(False, description="train direction and magnitude apart (Liu et al. 2024, arXiv 2402.09353)")
    rslora: bool = Field(False, description="rank-stabilised scale (Kalajdzievski 2023, arXiv 2312.03732)")
    init: Literal["kaiming", "gaussian", "orthogonal"] = Field(
        "kaiming", description="of A, with B zero; orthogonal: of both, with a product of zero up to rounding"
    )
    bias: Literal["none"] = Field("none", description="biases stay as they are; to train them is scope bitfit")

    @field_validator("init", mode="before")
    @classmethod
    def _keeps_the_base(cls, value: Any) -> Any:
        if str(value).startswith(_MOVES_THE_BASE):
            raise ValueError(
                f"{value} changes the base's weights and puts the difference into the adapter, so that the base with "
                "the adapter switched off is no longer the baseline; use kaiming, gaussian or orthogonal"
            )
        return value

    @field_validator("bias", mode="before")
    @classmethod
    def _leaves_biases(cls, value: Any) -> Any:
        if value in ("all", "lora_only"):
            raise ValueError(
                f"bias {value!r} trains the base's biases in place, and they stay when the adapter is switched off; "
                "to train biases, use scope bitfit"
            )
        return value


def lora_config(options: LoraOptions, model: Any, common: Mapping[str, Any]) -> Any:
    """PEFT's config for a model."""
    from peft import LoraConfig

    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=options.targets if isinstance(options.targets, str) else list(options.targets),
        exclude_modules=_classes.head_modules(model) or None,
        use_dora=options.dora,
        use_rslora=options.rslora,
        init_lora_weights=True if options.init == "kaiming" else options.init,
        bias=options.bias,
        **common,
    )
