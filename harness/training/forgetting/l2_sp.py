"""L2-SP: ½ λ ‖w − w₀‖², a pull to the starting weights (Li, Grandvalet and Davoine 2018, arXiv 1802.01483, eq. 2).

The paper's α is our λ. Its second term, a decay of weights that the starting model does not have (a new head), is
left to the optimiser's weight decay. Under LoRA w − w₀ is the effective change s·BA (see `_terms`), whose norm and
gradient are computed without writing ΔW out: ‖BA‖² = tr(BᵀB · AAᵀ).
"""

from __future__ import annotations

from harness.training.forgetting._penalty import Penalty


class L2SP(Penalty):
    """`trainer.add_callback(L2SP(0.01))`. Memory: a copy of the trained weights. See the module and `_penalty`."""

    name = "l2_sp"
