"""Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691), by TRL's experimental ORPOTrainer.

The likelihood of the chosen answer plus a penalty on the odds of the rejected one, without a reference: it stands in
for supervised fine-tuning and a preference stage at once. TRL's likelihood is over prompt and answer. Dropout is off.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.training.objectives._preferences import PairObjective, PairOptions


class Options(PairOptions):
    """Options of `orpo`."""

    beta: float = Field(0.1, gt=0, description="λ of the paper: weight of the odds ratio")


def build(options: Options) -> PairObjective:
    """The objective."""
    return PairObjective("orpo", {"beta": options.beta}, _trl)


def _trl() -> tuple[Any, Any]:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer, ORPOConfig
