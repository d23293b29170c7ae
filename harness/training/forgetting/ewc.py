"""Elastic weight consolidation: ½ λ Σ F·(w − w₀)² (Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3).

F is the diagonal of the Fisher information at the starting weights: over the sampled rows, the mean of the squared
gradient of one row's log-likelihood, ∇ log p(row), summed over its scored tokens. Each row's gradient is squared by
itself: the square of a batch's mean gradient would be another, smaller thing.

*True or empirical.* With `fisher="empirical"` the scored tokens are the row's own. With `"true"` they are drawn from
the starting model's distribution at each position, once a row: an unbiased estimate of the Fisher information given
the rows' contexts, which the empirical one is not (Kunstner et al. 2019, arXiv 1905.12558). The empirical one is the
default because it is what is mostly used, and because on rows that the model knows the two come close.

Under LoRA F is of the weights that the adapter changes, not of A and B, and multiplies the effective change s·BA,
written out layer by layer. It is kept in float32 for every one of those weights, and a row's gradient takes as much
again while F is estimated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from harness.errors import ConfigError
from harness.training.forgetting._fisher import Estimate, estimate
from harness.training.forgetting._penalty import Penalty
from harness.training.forgetting._terms import Term


class Ewc(Penalty):
    """`trainer.add_callback(Ewc(100.0, rows))`. `estimate` says what F rests on, once training began (not resumed)."""

    name = "ewc"

    def __init__(
        self,
        strength: float,
        rows: Sequence[Mapping[str, Any]],
        *,
        samples: int = 256,
        fisher: Literal["empirical", "true"] = "empirical",
        seed: int = 0,
        max_length: int = 1024,
    ) -> None:
        """Choose the rows; nothing is computed.

        Args:
            strength: λ.
            rows: what is to be remembered: `input_ids` (and `labels`), `text`, `messages`, or `prompt` and
                `completion`, of which the completion's tokens are scored.
            samples: rows of the estimate, drawn without replacement by `seed`; all where there are fewer.
            fisher: see the module.
            seed: of that draw, and of the tokens drawn for `"true"`.
            max_length: tokens of a row; a longer one is cut, and counted in `estimate`.

        Raises:
            ConfigError: there are no rows.
        """
        super().__init__(strength)
        if not rows:
            raise ConfigError("ewc: there are no rows for the Fisher estimate; name some (`ewc.rows`), or add replay")
        self.estimate: Estimate | None = None
        self._rows, self._samples, self._kind, self._seed, self._most = rows, samples, fisher, seed, max_length

    def prepare(self, model: Any, processing: Any, terms: Sequence[Term]) -> dict[str, Any]:
        """The Fisher diagonal of every term."""
        self.estimate, fishers = estimate(
            model, terms, self._rows, processing,
            samples=self._samples, kind=self._kind, seed=self._seed, max_length=self._most,
        )  # fmt: skip
        return fishers
