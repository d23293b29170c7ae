"""Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036), by TRL's DPOTrainer.

Where DPO pushes a pair apart without end, the loss (Δ − 1 / (2β))² has a target for Δ, the difference of the two
answers' log-ratios to the start, each a mean over its tokens; so it begins at 1 / (4β²). Dropout is off.
"""

from __future__ import annotations

from pydantic import Field

from harness.training.objectives._preferences import PairObjective, PairOptions, dpo_trainer


class Options(PairOptions):
    """Options of `ipo`."""

    beta: float = Field(0.1, gt=0, description="τ of the paper; the smaller, the further apart a pair is driven")


def build(options: Options) -> PairObjective:
    """The objective."""
    return PairObjective("ipo", {"beta": options.beta, "loss_type": ["ipo"]}, dpo_trainer, reference=True)
