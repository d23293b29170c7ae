"""Towards what a training moves the parameters: the loss, and the rows that it reads. One module each.

An objective plugin's `build(options)` returns an `Objective`. The trainer that it makes is a `transformers.Trainer`
(TRL's for all but classification), so every callback of `harness.training.forgetting` works in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from harness.training.recipe import SettingsSection
from harness.training.scopes import Head, Scope

RowKind = Literal["text", "messages", "completion", "preference", "labelled", "prompt", "class"]
"""Normal forms of a row, in TRL's columns:

text: `text`; messages: `messages` (role, content); completion: `prompt`, `completion`; preference: `prompt`, `chosen`,
`rejected`; labelled: `prompt`, `completion`, `label` (bool: wanted or not); prompt: `prompt` and any columns that a
reward reads; class: `text`, `label` (the class's name). `prompt`, `completion`, `chosen` and `rejected` are texts, or
lists of messages throughout.
"""

Row = Mapping[str, Any]

Part = Literal["train", "validation"]


@dataclass(frozen=True, slots=True)
class Intake:
    """What became of the rows of one part when they were turned into tokens; `given` = `used` + `dropped`.

    `dropped` and `cut` are numbers of rows (from 0, in the order given) that were longer than allowed. `tokens` counts
    those of the rows in use, and `learnt` those that carry a loss (for a reward model, a classifier and prompts: all
    that are read). `notes` are sentences for the record.
    """

    part: Part
    given: int
    used: int
    dropped: tuple[int, ...] = ()
    cut: tuple[int, ...] = ()
    tokens: int = 0
    learnt: int = 0
    notes: tuple[str, ...] = ()


def ignore(intake: Intake) -> None:
    """Takes no notice."""


@dataclass(frozen=True, slots=True)
class Job:
    """One stage, ready to be trained: `model` has been through `scope`, rows are in the normal form `kind`.

    `folder` receives the trainer's checkpoints. `device` is cpu, cuda or mps. `home` is where the relative paths of an
    objective's options start: the recipe's folder. `on_intake` is told, once for each part, what became of the rows.
    """

    model: Any
    tokenizer: Any
    scope: Scope
    kind: RowKind
    train: Sequence[Row]
    validation: Sequence[Row]
    settings: SettingsSection
    folder: Path
    seed: int
    device: str
    callbacks: Sequence[Any] = ()
    home: Path = Path()
    on_intake: Callable[[Intake], None] = ignore


class Objective(Protocol):
    """A loss over rows of certain kinds. `head` is what the model must put out."""

    name: str
    rows: frozenset[RowKind]
    head: Head

    def refusal(self, scope: Scope) -> str | None:
        """Why this objective cannot be trained with a scope, with the way out; None where it can."""
        ...

    def trainer(self, job: Job) -> Any:
        """The trainer of a job, with its callbacks; `train()` on it trains `job.model` in place.

        Raises:
            DataError: rows that the objective cannot learn from (all masked, too long, no generation markers …); they
                are counted and named, never dropped in silence.
            ConfigError: settings that contradict each other.
        """
        ...
