"""A reward model: one number for a prompt and its answer, higher for the chosen of a pair, by TRL's RewardTrainer.

The loss is −log σ(r(chosen) − r(rejected)) (Bradley and Terry 1952). `grpo` and `rloo` take the trained folder as a
reward. Dropout is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.training.objectives import Job, Row, RowKind
from harness.training.objectives._arguments import arguments
from harness.training.objectives._fitting import dataset, fitted, rows_of
from harness.training.objectives._tokens import Tokenised, Tokens
from harness.training.objectives._trainers import assembled, refuse_head
from harness.training.scopes import Head, Scope


class Options(BaseModel):
    """Options of `reward`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    centre: float | None = Field(
        None, gt=0, description="weight of a pull of the rewards' sum towards 0 (Eisenstein et al. 2023); 0.01 is usual"
    )


@dataclass(frozen=True, slots=True)
class Reward:
    """See the module."""

    options: Options
    name: str = "reward"
    rows: frozenset[RowKind] = frozenset({"preference"})
    head: Head = "reward"

    def refusal(self, scope: Scope) -> str | None:
        """See `Objective.refusal`."""
        return refuse_head(self.name, self.head, scope)

    def trainer(self, job: Job) -> Any:
        """See `Objective.trainer`."""
        from trl import RewardConfig, RewardTrainer

        rows_of(job, self.name, self.rows)
        train, validation = fitted(job, _encode, _columns)
        own = {"max_length": None, "center_rewards_coefficient": self.options.centre}
        return assembled(
            job,
            RewardTrainer,
            args=arguments(job, RewardConfig, rows=len(train), own=own),
            train_dataset=dataset(train),
            eval_dataset=dataset(validation),
        )


def _encode(tokens: Tokens, row: Row) -> Sequence[Tokenised]:
    return [Tokenised.to_read(tokens.whole(row["prompt"], row[column])) for column in ("chosen", "rejected")]


def _columns(row: Row, pair: Sequence[Tokenised]) -> dict[str, Any]:
    return {"chosen_ids": list(pair[0].ids), "rejected_ids": list(pair[1].ids)}


def build(options: Options) -> Reward:
    """The objective."""
    return Reward(options)
