"""Prompts to try: the rows that examples are drawn from, and a search that is the same for the same seed.

Rows are split, whole clusters at a time, into a *pool* that examples come from and *held-out* rows that prompts are
compared on. Nothing here sees a frozen sample.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from harness.errors import ConfigError, DataError, at
from harness.plugins import explain
from harness.records import Sample, content_hash
from harness.subjects.prompted import Prompt, Shot

SIZES = (1, 2, 4, 8)
_SEPARATORS = ("\n\n", "\n###\n", "\n-----\n")
_FEWEST = 20  # held-out rows below which prompts cannot be told apart at all


class Row(BaseModel):
    """One candidate row; keys that are not named here are passed on to the metric."""

    model_config = ConfigDict(extra="allow", frozen=True)

    prompt: str = Field(min_length=1)
    answer: str | int = Field(validation_alias=AliasChoices("completion", "target", "answer"))
    choices: tuple[str, ...] = ()
    cluster: str = ""

    def text(self) -> str:
        """The answer as text; an index stands for its choice."""
        if isinstance(self.answer, int):
            return self.choices[self.answer] if self.choices else str(self.answer)
        return self.answer

    def sample(self, number: int) -> Sample:
        """The row as a sample, so that a suite can ask and score it."""
        return Sample(
            f"line {number}",
            self.prompt,
            (self.text(),),
            self.cluster,
            choices=self.choices,
            data=self.model_extra or {},
        )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows to take examples from, and rows to compare prompts on; the id of each names its line."""

    pool: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    separator: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """A prompt with what it is called; None is no prompt at all."""

    title: str
    prompt: Prompt | None


def read_candidates(path: Path, *, share: float, most: int, seed: int) -> Candidates:
    """The rows of a JSON lines file, split.

    Args:
        path: rows with prompt and completion (or target, or answer), perhaps choices and cluster.
        share: of the rows that are held out.
        most: held-out rows at most; what is more goes to nobody.
        seed: of the split.

    Raises:
        DataError: the file or a row is wrong, two rows have one prompt, or there are too few rows.
    """
    rows = list(_rows(path))
    clusters = sorted({_cluster(number, row) for number, row in rows}, key=lambda c: content_hash([seed, c]))
    held = set(clusters[: round(share * len(clusters))])
    outside = [(n, row) for n, row in rows if _cluster(n, row) not in held]
    inside = [row.sample(n) for n, row in rows if _cluster(n, row) in held]
    if len(inside) < _FEWEST or not outside:
        raise DataError(
            f"{at(path)}{len(rows)} rows leave {len(inside)} held out and {len(outside)} for examples; "
            f"{_FEWEST} held-out rows are the fewest on which prompts can be compared"
        )
    kept = sorted(inside, key=lambda s: content_hash([seed, s.id]))[:most]
    pool = tuple(row.sample(number) for number, row in outside)
    return Candidates(pool, tuple(kept), _separator(path, pool))


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{at(path)}cannot be read: {error}") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _row(path, number, line)
        if row.prompt in seen:
            raise DataError(f"{at(path, number)}has the prompt of line {seen[row.prompt]}; keep one of them")
        seen[row.prompt] = number
        yield number, row


def _row(path: Path, number: int, line: str) -> Row:
    try:
        document: Any = json.loads(line)
        row = Row.model_validate(document)
        if not row.text():
            raise DataError(f"{at(path, number)}the answer is empty")
    except ValidationError as error:
        raise DataError(f"{at(path, number)}{explain(error, Row)}; a row has prompt and completion") from error
    except IndexError as error:
        raise DataError(f"{at(path, number)}the target is not the index of a choice (0 is the first)") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{at(path, number)}not valid JSON: {error}") from error
    return row


def _cluster(number: int, row: Row) -> str:
    return row.cluster or f"\0{number}"


def _separator(path: Path, pool: Sequence[Sample]) -> str:
    """The first that occurs in no answer, so that it can end one."""
    for separator in _SEPARATORS:
        if not any(separator in sample.targets[0] for sample in pool):
            return separator
    raise ConfigError(f"{at(path)}answers contain every separator that is known here: {list(_SEPARATORS)}")


def proposals(
    candidates: Candidates, instructions: Sequence[str], *, trials: int, shots: int, until: tuple[str, ...], seed: int
) -> list[Proposal]:
    """No prompt, each instruction alone, and `trials` random choices of examples, each with every instruction or none.

    A random search over examples finds about what greater effort finds (Khattab 2023), and order matters as much as
    choice, so both are drawn. The numbers of examples take turns; equal draws are made once.
    """
    drawn: list[Proposal] = [Proposal("no prompt", None)]
    drawn += [Proposal(f"instruction {i}", Prompt(system=text)) for i, text in enumerate(instructions, 1)]
    sizes = sorted({min(size, shots, len(candidates.pool)) for size in SIZES if size <= max(shots, 1)})
    source = random.Random(seed)  # noqa: S311 - a repeatable search, no secret
    known: set[tuple[int, ...]] = set()
    for trial in range(trials if shots else 0):
        chosen = tuple(source.sample(range(len(candidates.pool)), sizes[trial % len(sizes)]))
        if chosen in known:
            continue
        known.add(chosen)
        picked = [candidates.pool[i] for i in chosen]
        lines = ", ".join(sample.id.removeprefix("line ") for sample in picked)
        examples = tuple(Shot(prompt=sample.prompt, answer=sample.targets[0]) for sample in picked)
        for number, text in enumerate([None, *instructions]):
            title = f"lines {lines}" + (f" with instruction {number}" if text else "")
            drawn.append(
                Proposal(title, Prompt(system=text, shots=examples, separator=candidates.separator, until=until))
            )
    return drawn
