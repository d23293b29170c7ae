"""A judge by itself, without a gate: answers from a file are graded, or compared with those of another, into scores

What comes out is what `harness compare` reads: one row a sample, with a `score` exactly where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError, nearest
from harness.judging.labels import rows_of, sample_in
from harness.judging.records import Case, Judge, Judgement, PairCase
from harness.judging.rubric import Rubric, require
from harness.records import Sample

Refuse = Callable[[str, Sequence[Judgement]], None]
"""Raises where judgements show that the judge could not be asked; see `harness.judging.silence`."""

_ROUND = 1_000  # cases that are asked together


@dataclass(frozen=True, slots=True)
class Answers:
    """One case a sample, in the order of the file that they were read from."""

    path: Path
    cases: tuple[Case, ...]


def read_answers(path: Path, samples: Mapping[str, Sample] | None) -> Answers:
    """Answers of one model from JSONL or CSV: `sample_id`, `output`, and the sample's own columns.

    Args:
        path: the file.
        samples: a golden set's samples by id; without one every row must hold `prompt` or `messages`.

    Raises:
        DataError: a column is missing, a sample is unknown or there twice, or there is no row; with file and line.
    """
    cases: dict[str, Case] = {}
    for where, row in rows_of(path):
        for needed in ("sample_id", "output"):
            if not isinstance(row.get(needed), str):
                raise DataError(f"{where}no {needed!r}: {nearest(needed, row)}")
        identifier = str(row["sample_id"])
        if identifier in cases:
            raise DataError(f"{where}sample {identifier!r} is there twice")
        cases[identifier] = Case(_sample(where, identifier, row, samples), str(row["output"]))
    if not cases:
        raise DataError(f"{path}: holds no answer")
    return Answers(path, tuple(cases.values()))


def judged(
    judge: Judge, rubric: Rubric, answers: Answers, against: Answers | None, refuse: Refuse
) -> Iterator[tuple[str, Judgement]]:
    """(sample id, judgement) for every answer, in the file's order; of a pair, `against` holds the first outputs.

    Raises:
        DataError: a sample lacks what the rubric shows, or is in one of the files only.
        BudgetError, JudgeError: by `refuse`; what was said until then is remembered.
    """
    require(rubric, [case.sample for case in answers.cases])
    pairs = [] if against is None else _pairs(answers, against)
    for start in range(0, len(answers.cases), _ROUND):
        cases = answers.cases[start : start + _ROUND]
        said = judge.grade(cases) if against is None else judge.compare(pairs[start : start + _ROUND])
        refuse(judge.name, said)
        yield from zip((case.sample.id for case in cases), said, strict=True)


def row_of(sample_id: str, judgement: Judgement, rubric: Rubric) -> dict[str, Any]:
    """One row of scores; a pairwise value becomes the share of a win: 1 better, ½ a tie, 0 worse."""
    row: dict[str, Any] = {"sample_id": sample_id, "metric": rubric.name, "state": judgement.state}
    if judgement.value is not None:
        row["score"] = (1 + judgement.value) / 2 if rubric.pairwise else judgement.value
    return {**row, "reason": judgement.reason, **({"failure": judgement.failure} if judgement.failure else {})}


def _sample(where: str, identifier: str, row: Mapping[str, Any], samples: Mapping[str, Sample] | None) -> Sample:
    if samples is None:
        if "prompt" not in row and "messages" not in row:
            raise DataError(f"{where}no 'prompt' for sample {identifier!r}; name its golden set with --samples")
        return sample_in(where, identifier, row)
    if identifier not in samples:
        raise DataError(f"{where}no sample {identifier!r}: {nearest(identifier, samples)}")
    return samples[identifier]


def _pairs(answers: Answers, against: Answers) -> list[PairCase]:
    others = {case.sample.id: case for case in against.cases}
    ours = {case.sample.id for case in answers.cases}
    for path, missing in ((against.path, ours - others.keys()), (answers.path, others.keys() - ours)):
        if missing:
            raise DataError(f"{path}: no answer to sample {min(missing)!r}, which the other file has")
    return [PairCase(others[case.sample.id], case) for case in answers.cases]
