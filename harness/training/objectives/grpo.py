"""Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300), by TRL's GRPOTrainer.

The advantage of a completion is its reward less the mean of its prompt's, by default over their standard deviation.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from harness.training.objectives._online import OnlineObjective, OnlineOptions


class Options(OnlineOptions):
    """Options of `grpo`."""

    beta: float = Field(0.0, ge=0, description="weight of the divergence from the start; 0 keeps no reference")
    loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = Field("dapo", description="how tokens are weighed; TRL's names")
    scale: Literal["group", "batch", "none"] = Field("group", description="standard deviation that divides advantages")


def build(options: Options) -> OnlineObjective:
    """The objective."""
    own = {"beta": options.beta, "loss_type": options.loss, "scale_rewards": options.scale}
    return OnlineObjective("grpo", options, own, _trl)


def _trl() -> tuple[Any, Any]:
    from trl import GRPOConfig, GRPOTrainer

    return GRPOTrainer, GRPOConfig
