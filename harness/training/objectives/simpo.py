"""Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734), by TRL's experimental CPOTrainer.

The loss is −log σ(β (mean log-probability of the chosen answer − that of the rejected one) − γ), with no reference and
no length bias. Dropout is off.
"""

from __future__ import annotations

from pydantic import Field

from harness.training.objectives._preferences import PairObjective, PairOptions
from harness.training.objectives.cpo import cpo_trainer


class Options(PairOptions):
    """Options of `simpo`."""

    beta: float = Field(2.0, gt=0, description="scale of the mean log-probabilities; the paper uses 2 to 2.5")
    gamma: float = Field(0.5, ge=0, description="margin that the chosen answer is to win by")
    sft_weight: float = Field(0.0, ge=0, description="weight of the chosen answer's own loss (CPO-SimPO)")


def build(options: Options) -> PairObjective:
    """The objective."""
    own = {
        "loss_type": "simpo",
        "beta": options.beta,
        "simpo_gamma": options.gamma,
        "cpo_alpha": options.sft_weight,
    }
    return PairObjective("simpo", own, cpo_trainer)
