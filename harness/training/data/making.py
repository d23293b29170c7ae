"""Files of rows that models make: answers of a teacher to prompts, and a judge's preferences between two answers

Both read rows as a recipe's sources are read, ask through the client of served models, which keeps every reply on disk
the moment it arrives, and write the rows last and whole. Repeating an interrupted command asks for what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.judging.records import Judge
from harness.progress import Observer
from harness.served.client import Budget
from harness.training.data import normal
from harness.training.data.formats import EmptyRow, Normaliser
from harness.training.data.reading import open_source
from harness.training.data.report import write_lines
from harness.training.keeping import make_folder
from harness.training.objectives import Row
from harness.training.objectives._distill import Distilled, DistillOptions, distilled
from harness.training.objectives._label_pairs import Labelled, labelled
from harness.training.recipe import SourceSection

_ANSWERS = ("answers", "responses", "completions")
"""Names that the column with two answers may have."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file of rows: how many, and how many of those read held no text that could be asked about."""

    path: Path
    rows: int
    read: int
    empty: int


def distill(
    source: SourceSection, options: DistillOptions, out: Path, store: Path, observer: Observer, folder: Path = Path(),
    budget: Budget | None = None,
) -> tuple[Distilled, Written]:  # fmt: skip
    """Write a teacher's answers to the prompts of `source` as rows of kind completion into `out`.

    Relative paths of `source` start at `folder`. `store` is the SQLite file that remembers replies, and `budget` what
    may be spent.

    Raises:
        ConfigError, DataError, SubjectError: as `distilled` raises them, or `out` exists.
        StorageError: `out` cannot be written.
    """
    _refuse_taken(out)
    observer.stage(f"reading {source.path or source.dataset}")
    prompts, empty = _prompts(source, folder)
    observer.stage(f"asking {options.model}")

    def told(done: int, of: int) -> None:
        observer.asking("prompts", options.model, done, of)

    made = distilled(prompts, options, store, told, budget)
    return made, _write(out, made.rows, len(prompts) + empty, empty)


def label(
    source: SourceSection, judge: Judge, out: Path, observer: Observer, folder: Path = Path(),
    max_failures: float = 0.05,
) -> tuple[Labelled, Written]:  # fmt: skip
    """Write what a judge prefers of the two answers in each row of `source` as rows of kind preference into `out`.

    A row has `prompt` and `answers` (two texts, or two lists of messages), or `prompt`, `chosen` and `rejected`, whose
    order is then forgotten.

    Raises:
        ConfigError, DataError, SubjectError: as `labelled` raises them, or `out` exists.
        StorageError: `out` cannot be written.
    """
    _refuse_taken(out)
    observer.stage(f"reading {source.path or source.dataset}")
    pairs = [_pair(str(origin), values) for origin, values in open_source(source, folder).rows()]
    if not pairs:
        raise DataError(f"{source.path or source.dataset} holds no row")
    observer.stage(f"asking {judge.name} about {len(pairs):,} pairs, each in both orders")
    made = labelled(pairs, judge, max_failures, lambda done, of: observer.asking("pairs", judge.name, done, of))
    return made, _write(out, made.rows, len(pairs), 0)


def _prompts(source: SourceSection, folder: Path) -> tuple[list[Row], int]:
    """The prompts of a source, and how many rows held none; an answer that a row has already is left aside."""
    opened = open_source(source, folder)
    found: list[Row] = []
    empty = 0
    normaliser = Normaliser(frozenset({"prompt"}), True)
    for origin, values in opened.rows():
        try:
            row = normaliser.row(origin, {k: v for k, v in values.items() if k == "prompt"} or values)
            found.append({"prompt": row["prompt"]})
        except EmptyRow:
            empty += 1
    if not found:
        raise DataError(f"{opened.name} holds no prompt ({empty} rows are empty)")
    return found, empty


def _pair(place: str, values: Mapping[str, Any]) -> Row:
    """A row with the two answers under one name; what is wrong with it names its place."""
    given = next((values[name] for name in _ANSWERS if name in values), None)
    if given is None and {"chosen", "rejected"} <= values.keys():
        given = [values["chosen"], values["rejected"]]
    if not isinstance(given, list | tuple) or len(given) != 2 or "prompt" not in values:
        raise DataError(
            f"{place}: a pair has the columns prompt and answers (two of them), or prompt, chosen and rejected; this "
            f"row has {', '.join(sorted(values)) or 'none'}"
        )
    try:
        prompt = normal.text_or_turns(values["prompt"], "prompt")
        answers = [normal.text_or_turns(answer, "answers") for answer in given]
    except (normal.RowError, EmptyRow) as error:
        raise DataError(f"{place}: {error}") from error
    if answers[0] == answers[1]:
        raise DataError(f"{place}: its two answers are the same, so there is nothing to prefer")
    return {"prompt": prompt, "answers": answers}


def _refuse_taken(out: Path) -> None:
    """Rows that somebody may have trained on are not overwritten."""
    if out.exists():
        raise DataError(f"{out} exists; name another file, or move it away")


def _write(out: Path, rows: tuple[dict[str, Any], ...], read: int, empty: int) -> Written:
    make_folder(out.parent)
    write_lines(out, rows)
    return Written(out, len(rows), read, empty)
