"""Rows of a job as token sequences that fit the model, with a count of everything that did not go in as it was.

TRL drops a row that is too long, or that truncation leaves without a label, with nothing but a progress bar to show for
it. Here a row is refused by its number unless the recipe says what to do with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from harness.errors import ConfigError, DataError
from harness.training.objectives import Intake, Job, Part, Row, RowKind
from harness.training.objectives._tokens import RowProblem, Tokenised, Tokens, end_tokens

Encode = Callable[[Row], Sequence[Tokenised]]
"""The sequences of a row: one, or two for a pair."""

Columns = Callable[[Row, Sequence[Tokenised]], dict[str, Any]]
"""What the trainer reads of a row."""

_NAMED = 5  # rows that a message names


def rows_of(job: Job, name: str, kinds: frozenset[RowKind]) -> None:
    """Raise where a job's rows are not of a kind that the objective `name` reads, or where there are none.

    Raises:
        ConfigError: rows of another kind.
        DataError: no rows.
    """
    if job.kind not in kinds:
        raise ConfigError(f"objective {name} learns from rows of kind {' or '.join(sorted(kinds))}, not {job.kind}")
    if not job.train:
        raise DataError(f"objective {name}: there is no row to train on")


def limit(job: Job) -> int | None:
    """Tokens that a row may have: the recipe's `max_length`, and never more than the model's context has room for.

    Virtual tokens (prefix, prompt and p-tuning) take their room from the context.
    """
    config = job.model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    virtual = sum(getattr(c, "num_virtual_tokens", None) or 0 for c in getattr(job.model, "peft_config", {}).values())
    bounds = [b for b in (job.settings.max_length, context - virtual if context else None) if b is not None]
    return min(bounds, default=None)


def fitted(
    job: Job, encode: Callable[[Tokens, Row], Sequence[Tokenised]], columns: Columns
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows for the trainer, training and validation; `job.on_intake` is told what became of them.

    Raises:
        DataError: rows that cannot be learnt from, by number and reason.
    """
    train = _fitted(job, "train", job.train, encode, columns)
    return train, _fitted(job, "validation", job.validation, encode, columns)


def _fitted(
    job: Job, part: Part, rows: Sequence[Row], encode: Callable[[Tokens, Row], Sequence[Tokenised]], columns: Columns
) -> list[dict[str, Any]]:
    tokens = tokens_of(job)
    return Fitting(job, part, lambda _: _merged(tokens)).run(rows, partial(encode, tokens), columns)


def tokens_of(job: Job) -> Tokens:
    """The tokenizer of a job whose model generates, or judges what was generated."""
    return Tokens(job.tokenizer, end_tokens(job.model))


def _merged(tokens: Tokens) -> Sequence[str]:
    if not tokens.merged:
        return ()
    return [
        f"in {_counted(tokens.merged)} the completion would change the prompt's last token; it was encoded by itself, "
        "as the model will be asked"
    ]


class Fitting:
    """The rows of one part on their way to the trainer.

    `notes` is given the number of rows in use when all are through, and returns sentences for the record. `room` is
    kept free behind every row, in tokens.
    """

    def __init__(
        self, job: Job, part: Part, notes: Callable[[int], Sequence[str]] | None = None, room: int = 0
    ) -> None:
        """Nothing is encoded yet.

        Raises:
            ConfigError: there is no room.
        """
        self._job, self._part, self._notes = job, part, notes
        most = limit(job)
        self._limit = None if most is None else most - room
        if self._limit is not None and self._limit < 1:
            raise ConfigError(
                f"an answer may have {room} tokens, and prompt and answer together {most}: no room is left"
            )
        self._dropped: list[int] = []
        self._cut: list[int] = []
        self._tokens = self._learnt = 0
        self._wrong: dict[str, dict[int, str]] = {what: {} for what in _WAYS_OUT}

    def run(self, rows: Sequence[Row], encode: Encode, columns: Columns) -> list[dict[str, Any]]:
        """The rows that fit, as columns; `on_intake` is told.

        Raises:
            DataError: see `fitted`.
        """
        used = []
        for number, row in enumerate(rows):
            sequences = self._fit(number, self._encoded(number, row, encode))
            if sequences:
                self._look_at(number, sequences)
                used.append(_compact(columns(row, sequences)))
        for what, found in self._wrong.items():
            self._refuse(what, found)
        if rows and not used:
            raise DataError(f"{self._part}: all {len(rows)} rows were dropped as longer than {self._limit} tokens")
        self._tell(len(rows), len(used))
        return used

    def _encoded(self, number: int, row: Row, encode: Encode) -> Sequence[Tokenised]:
        try:
            return encode(row)
        except RowProblem as error:
            self._wrong[_UNUSABLE][number] = str(error)
        except KeyError as error:
            self._wrong[_UNUSABLE][number] = f"it has no column {error}"
        return ()

    def _fit(self, number: int, row: Sequence[Tokenised]) -> Sequence[Tokenised]:
        longest = max((len(sequence.ids) for sequence in row), default=0)
        if self._limit is None or longest <= self._limit:
            return row
        if self._job.settings.too_long == "drop":
            self._dropped.append(number)
            return ()
        if self._job.settings.too_long == "refuse":
            self._wrong[_LONG][number] = f"{longest} tokens"
            return ()
        self._cut.append(number)
        return [sequence.cut(self._limit) for sequence in row]

    def _look_at(self, number: int, row: Sequence[Tokenised]) -> None:
        self._tokens += sum(len(sequence.ids) for sequence in row)
        self._learnt += sum(sequence.signal for sequence in row)
        if not all(sequence.signal for sequence in row):
            self._wrong[_EMPTY][number] = ""
        elif len(row) == 2 and row[0].ids == row[1].ids:
            self._wrong[_SAME][number] = ""

    def _refuse(self, what: str, rows: dict[int, str]) -> None:
        if not rows:
            return
        first = [f"row {n}" + (f" ({why})" if why else "") for n, why in list(rows.items())[:_NAMED]]
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        subject = _counted(len(rows)) + (", each of which" if len(rows) > 1 else "")
        way_out = _WAYS_OUT[what].format(limit=self._limit)
        raise DataError(f"{self._part}: {subject} {what}: {', '.join(first)}{more}. {way_out}".rstrip())

    def _tell(self, given: int, used: int) -> None:
        notes = tuple(self._notes(used) if self._notes else ())
        self._job.on_intake(
            Intake(self._part, given, used, tuple(self._dropped), tuple(self._cut), self._tokens, self._learnt, notes)
        )


_UNUSABLE, _LONG = "cannot be learnt from", "is too long"
_EMPTY, _SAME = "has no token left that is learnt", "has the same tokens chosen and rejected"
_WAYS_OUT = {
    _UNUSABLE: "",
    _LONG: "At most {limit} fit (max_length, or the model's context); say too_long: drop or cut to go on without.",
    _EMPTY: "Raise max_length, say too_long: drop, or take these rows out.",
    _SAME: "There is nothing to prefer; take them out.",
}


def _counted(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"


def _compact(columns: dict[str, Any]) -> dict[str, Any]:
    """Token ids as arrays, at four bytes each instead of Python's forty; a large data set has a billion of them."""
    return {
        name: np.asarray(value, dtype=np.int32)
        if isinstance(value, list) and value and type(value[0]) is int
        else value
        for name, value in columns.items()
    }


def dataset(rows: Sequence[dict[str, Any]]) -> Any:
    """A `datasets.Dataset` in memory, or None for no rows."""
    from datasets import Dataset

    return Dataset.from_list(list(rows)) if rows else None
