"""Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417), by TRL's experimental CPOTrainer.

DPO with a uniform reference, so that none is kept, plus the likelihood of the chosen answer. Dropout is off.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from harness.training.objectives._preferences import PairObjective, PairOptions


class Options(PairOptions):
    """Options of `cpo`."""

    beta: float = Field(0.1, gt=0, description="steepness of the preference loss")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs that may be the wrong way round")
    sft_weight: float = Field(1.0, ge=0, description="weight of the chosen answer's own loss")


def build(options: Options) -> PairObjective:
    """The objective."""
    own = {
        "loss_type": "sigmoid",
        "beta": options.beta,
        "label_smoothing": options.label_smoothing,
        "cpo_alpha": options.sft_weight,
    }
    return PairObjective("cpo", own, cpo_trainer)


def cpo_trainer() -> tuple[Any, Any]:
    """TRL's trainer for CPO and SimPO."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return CPOTrainer, CPOConfig
