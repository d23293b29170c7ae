"""Objectives that learn from pairs, a chosen and a rejected answer to one prompt, and differ in the loss alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.training.objectives import Job, Row, RowKind
from harness.training.objectives._arguments import PREFERENCE_SHARE, arguments
from harness.training.objectives._fitting import dataset, fitted, limit, rows_of
from harness.training.objectives._reference import referring
from harness.training.objectives._tokens import Tokenised, Tokens
from harness.training.objectives._trainers import assembled, refuse_head, refuse_output_adapter
from harness.training.scopes import Head, Scope

Rows = list[dict[str, Any]]

_VIRTUAL = frozenset({"prompt", "ptuning"})


class PairOptions(BaseModel):
    """Base of the options of an objective over pairs."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class PairObjective:
    """See `harness.training.objectives.Objective`.

    `own` are the trainer's arguments that make the loss. With `reference` the loss compares with the model as it was
    (TRL's DPOTrainer); without, the trainer is TRL's for ORPO or CPO, as `trl` gives (trainer, config).
    """

    name: str
    own: Mapping[str, Any]
    trl: Callable[[], tuple[Any, Any]]
    reference: bool = False
    rows: frozenset[RowKind] = frozenset({"preference"})
    head: Head = "language"

    def refusal(self, scope: Scope) -> str | None:
        """See `Objective.refusal`."""
        if not self.reference and scope.name in _VIRTUAL:
            return (
                f"scope {scope.name} puts virtual tokens before a text, and TRL's trainer for {self.name} compares the "
                "logits with the text token by token; use scope prefix or lora, or objective dpo"
            )
        return refuse_head(self.name, self.head, scope)

    def trainer(self, job: Job) -> Any:
        """See `Objective.trainer`."""
        rows_of(job, self.name, self.rows)
        make, config = self.trl()
        train, validation = fitted(job, encode_pair, with_reference if self.reference else without_reference)
        if self.reference:
            refuse_output_adapter(job)
            own = {**self.own, "max_length": None, "precompute_ref_log_probs": True}
            make = referring(make)
        else:
            own = {**self.own, "max_length": limit(job), "remove_unused_columns": False}
            make = tokenised(make)
        return assembled(
            job,
            make,
            args=arguments(job, config, rows=len(train), rate=PREFERENCE_SHARE, own=own),
            train_dataset=dataset(train),
            eval_dataset=dataset(validation),
        )


def dpo_trainer() -> tuple[Any, Any]:
    """TRL's trainer for DPO and IPO."""
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer, DPOConfig


def encode_pair(tokens: Tokens, row: Row) -> Sequence[Tokenised]:
    """The chosen and the rejected answer behind their prompt."""
    return [tokens.answered(row["prompt"], row[column]) for column in ("chosen", "rejected")]


def with_reference(row: Row, pair: Sequence[Tokenised]) -> dict[str, Any]:
    """Columns of DPO's collator."""
    chosen, rejected = pair
    return {
        "prompt_ids": list(chosen.prompt),
        "chosen_ids": list(chosen.completion),
        "rejected_ids": list(rejected.completion),
    }


def without_reference(row: Row, pair: Sequence[Tokenised]) -> dict[str, Any]:
    """Columns of the collator of ORPO and CPO."""
    columns: dict[str, Any] = {}
    for name, sequence in zip(("chosen", "rejected"), pair, strict=True):
        columns[f"{name}_input_ids"] = list(sequence.ids)
        columns[f"{name}_attention_mask"] = [1] * len(sequence.ids)
        columns[f"{name}_labels"] = sequence.labels
    return columns


@functools.cache
def tokenised(make: type[Any]) -> type[Any]:
    """`make` (TRL's trainer for ORPO or CPO) for rows that have been tokenised."""

    class TakesTokens(make):  # type: ignore[misc]  # a class that is known at run time only
        def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
            return feature

    TakesTokens.__name__ = TakesTokens.__qualname__ = make.__name__
    return TakesTokens
