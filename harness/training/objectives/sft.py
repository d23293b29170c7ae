"""Supervised fine-tuning: the next token of texts, answers or conversations, by TRL's SFTTrainer.

The loss is the mean over all tokens of a step that are learnt, however the step is split into batches. A completion is
learnt and its prompt is not; of a conversation the assistant's turns are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.training.objectives import Job, Row, RowKind
from harness.training.objectives._arguments import arguments
from harness.training.objectives._fitting import dataset, fitted, rows_of
from harness.training.objectives._tokens import Learn, Tokenised, Tokens
from harness.training.objectives._trainers import assembled, refuse_head, refuse_output_adapter
from harness.training.scopes import Head, Scope


class Options(BaseModel):
    """Options of `sft`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learn: Learn = Field(
        "assistant", description="of a conversation: the assistant's turns, the last of them, or every token"
    )


@dataclass(frozen=True, slots=True)
class Sft:
    """See the module."""

    options: Options
    name: str = "sft"
    rows: frozenset[RowKind] = frozenset({"text", "messages", "completion"})
    head: Head = "language"

    def refusal(self, scope: Scope) -> str | None:
        """See `Objective.refusal`."""
        return refuse_head(self.name, self.head, scope)

    def trainer(self, job: Job) -> Any:
        """See `Objective.trainer`."""
        from trl import SFTConfig, SFTTrainer

        rows_of(job, self.name, self.rows)
        refuse_output_adapter(job)
        train, validation = fitted(job, self._encode, _columns)
        own = {"max_length": None, "packing": False}  # rows fit already, and nothing is cut behind our back
        return assembled(
            job,
            SFTTrainer,
            args=arguments(job, SFTConfig, rows=len(train), own=own),
            train_dataset=dataset(train),
            eval_dataset=dataset(validation),
        )

    def _encode(self, tokens: Tokens, row: Row) -> Sequence[Tokenised]:
        if "messages" in row:
            return [tokens.conversation(row["messages"], self.options.learn)]
        if "completion" in row:
            return [tokens.answered(row["prompt"], row["completion"])]
        return [tokens.text(row["text"])]


def _columns(row: Row, sequences: Sequence[Tokenised]) -> dict[str, Any]:
    return {"input_ids": list(sequences[0].ids), "labels": sequences[0].labels}


def build(options: Options) -> Sft:
    """The objective."""
    return Sft(options)
