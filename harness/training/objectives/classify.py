"""Classification of texts, by transformers' own Trainer: the loss is the cross-entropy of the class.

The model's config names its classes (`id2label`); a row of a class that it does not name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.errors import ConfigError
from harness.training.objectives import Job, Row, RowKind
from harness.training.objectives._arguments import arguments
from harness.training.objectives._fitting import Fitting, dataset, rows_of
from harness.training.objectives._tokens import RowProblem, Tokenised
from harness.training.objectives._trainers import assembled, refuse_head
from harness.training.scopes import Fitted, Head, Scope


class Options(BaseModel):
    """`classify` has no options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Classify:
    """See the module."""

    name: str = "classify"
    rows: frozenset[RowKind] = frozenset({"class"})
    head: Head = "classes"

    def refusal(self, scope: Scope) -> str | None:
        """See `Objective.refusal`."""
        return refuse_head(self.name, self.head, scope)

    def trainer(self, job: Job) -> Any:
        """See `Objective.trainer`.

        Raises:
            ConfigError: besides, for a model that is fitted at once (scope features): that takes no trainer.
        """
        from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

        rows_of(job, self.name, self.rows)
        if isinstance(job.model, Fitted):
            raise ConfigError(f"scope {job.scope.name} is fitted to its rows at once and has no steps to train")
        names: Mapping[str, int] = {str(name): number for number, name in job.model.config.id2label.items()}

        def encode(row: Row) -> Sequence[Tokenised]:
            if str(row["label"]) not in names:
                raise RowProblem(f"its class {row['label']!r} is none of the model's: {', '.join(names)}")
            ids = tuple(job.tokenizer(row["text"])["input_ids"])
            return [Tokenised.to_read(ids)]

        def columns(row: Row, sequences: Sequence[Tokenised]) -> dict[str, Any]:
            return {"input_ids": list(sequences[0].ids), "labels": names[str(row["label"])]}

        train = Fitting(job, "train").run(job.train, encode, columns)
        validation = Fitting(job, "validation").run(job.validation, encode, columns)
        return assembled(
            job,
            Trainer,
            args=arguments(job, TrainingArguments, rows=len(train)),
            train_dataset=dataset(train),
            eval_dataset=dataset(validation),
            data_collator=DataCollatorWithPadding(job.tokenizer),
            compute_loss_func=cross_entropy,
        )


def cross_entropy(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """Mean cross-entropy over the rows of a step, however many batches they come in.

    The models' own loss is the mean over a batch; as they say that they divide by the rows of the step themselves, and
    do not, the Trainer leaves the gradient as many times too large as batches are accumulated.
    """
    from torch.nn.functional import cross_entropy as summed

    rows = labels.numel() if num_items_in_batch is None else num_items_in_batch
    return summed(outputs.logits.float(), labels, reduction="sum") / rows


def build(options: Options) -> Classify:
    """The objective."""
    return Classify()
