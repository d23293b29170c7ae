"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306), by TRL's KTOTrainer.

It learns from single answers that are wanted or not. How far the model has moved on the whole is estimated from
answers behind another row's prompt; TRL pairs rows within a batch, so that a last batch of one row is paired with
itself, and the order of rows is fixed: here they are shuffled once, and a lone row is paired with the one before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import ConfigError, DataError
from harness.training.objectives import Job, Row, RowKind
from harness.training.objectives._arguments import PREFERENCE_SHARE, arguments
from harness.training.objectives._fitting import dataset, fitted, rows_of
from harness.training.objectives._reference import referring
from harness.training.objectives._tokens import Tokenised, Tokens
from harness.training.objectives._trainers import assembled, refuse_head, refuse_output_adapter
from harness.training.scopes import Head, Scope


class Options(BaseModel):
    """Options of `kto`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beta: float = Field(0.1, gt=0, description="how closely the model is held to where it started")
    wanted_weight: float | None = Field(None, gt=0, description="default: the rarer label weighs as much in total")
    unwanted_weight: float | None = Field(None, gt=0, description="default: the rarer label weighs as much in total")


@dataclass(frozen=True, slots=True)
class Kto:
    """See the module."""

    options: Options
    name: str = "kto"
    rows: frozenset[RowKind] = frozenset({"labelled"})
    head: Head = "language"

    def refusal(self, scope: Scope) -> str | None:
        """See `Objective.refusal`."""
        return refuse_head(self.name, self.head, scope)

    def trainer(self, job: Job) -> Any:
        """See `Objective.trainer`."""
        from trl import KTOConfig, KTOTrainer

        rows_of(job, self.name, self.rows)
        refuse_output_adapter(job)
        if job.settings.batch_size < 2:
            raise ConfigError(
                "objective kto compares the rows of a batch with each other: batch_size must be 2 or more"
            )
        train, validation = fitted(job, _encode, _columns)
        wanted, unwanted = self.weights(train)
        own = {
            "beta": self.options.beta,
            "desirable_weight": wanted,
            "undesirable_weight": unwanted,
            "max_length": None,
            "precompute_ref_log_probs": True,
            "train_sampling_strategy": "sequential",
        }
        random.Random(job.seed).shuffle(train)  # noqa: S311  # an order, not a secret
        return assembled(
            job,
            referring(KTOTrainer),
            args=arguments(job, KTOConfig, rows=len(train), rate=PREFERENCE_SHARE, own=own),
            train_dataset=dataset(mismatched(train, job.settings.batch_size)),
            eval_dataset=dataset(mismatched(validation, job.settings.batch_size)),
        )

    def weights(self, rows: Sequence[Row]) -> tuple[float, float]:
        """Weights of wanted and unwanted answers; by default both labels weigh the same in total (eq. 8, ratio 1).

        Raises:
            DataError: there are only rows of one label.
        """
        good = sum(bool(row["label"]) for row in rows)
        bad = len(rows) - good
        if not good or not bad:
            raise DataError(f"objective kto needs wanted and unwanted answers; of {len(rows)} rows, {good} are wanted")
        return (
            self.options.wanted_weight or max(1.0, bad / good),
            self.options.unwanted_weight or max(1.0, good / bad),
        )


def mismatched(rows: Sequence[dict[str, Any]], batch_size: int) -> list[dict[str, Any]]:
    """The rows, each with the completion of another one of its batch for the estimate of the divergence."""
    paired = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        for place, row in enumerate(batch):
            other = batch[place - 1] if len(batch) > 1 else rows[start - 1]
            paired.append({**row, "KL_completion_ids": other["completion_ids"]})
    return paired


def _encode(tokens: Tokens, row: Row) -> Sequence[Tokenised]:
    return [tokens.answered(row["prompt"], row["completion"])]


def _columns(row: Row, sequences: Sequence[Tokenised]) -> dict[str, Any]:
    answer = sequences[0]
    return {
        "prompt_ids": list(answer.prompt),
        "completion_ids": list(answer.completion),
        "label": bool(row["label"]),
    }


def build(options: Options) -> Kto:
    """The objective."""
    return Kto(options)
