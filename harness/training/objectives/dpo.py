"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), by TRL's DPOTrainer.

The loss is −log σ(β (log π/π₀ of the chosen answer − that of the rejected one)), where π₀ is the model as it is at the
start; so it begins at ln 2. Dropout is off.
"""

from __future__ import annotations

from pydantic import Field

from harness.training.objectives._preferences import PairObjective, PairOptions, dpo_trainer


class Options(PairOptions):
    """Options of `dpo`."""

    beta: float = Field(0.1, gt=0, description="how closely the model is held to where it started")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs that may be the wrong way round")
    sft_weight: float = Field(0.0, ge=0, description="share of the chosen answer's own loss that is added")


def build(options: Options) -> PairObjective:
    """The objective."""
    own = {"beta": options.beta, "label_smoothing": options.label_smoothing, "loss_type": ["sigmoid"]}
    if options.sft_weight:
        own |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, options.sft_weight]}
    return PairObjective("dpo", own, dpo_trainer, reference=True)
