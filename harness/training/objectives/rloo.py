"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740), by TRL's RLOOTrainer.

The advantage of a completion is its reward less the mean reward of the others to its prompt. PPO has left TRL 1.16; the
paper finds this as good and simpler.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.training.objectives._online import OnlineObjective, OnlineOptions


class Options(OnlineOptions):
    """Options of `rloo`."""

    generations: int = Field(4, ge=2, description="completions for each prompt; batch_size counts completions")
    beta: float = Field(0.05, ge=0, description="weight of the divergence from the start, taken off the reward")


def build(options: Options) -> OnlineObjective:
    """The objective."""
    return OnlineObjective("rloo", options, {"beta": options.beta}, _trl)


def _trl() -> tuple[Any, Any]:
    from trl import RLOOConfig, RLOOTrainer

    return RLOOTrainer, RLOOConfig
