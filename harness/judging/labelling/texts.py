"""What a person who labels is shown: the question, the scale, and a run's texts made harmless to look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness import labelled
from harness.records import Output
from harness.report._text import clipped
from harness.runs import Entry

MAX_TEXT = 100_000  # characters of one text on the page; nobody reads further, and a page must open


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a scale, with what has to be so for it."""

    value: float
    name: str
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every item: a sentence, further instructions, and for a grade the levels, worst first."""

    title: str
    instructions: str
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """One sample: its prompt, what a right answer is where that is known, and both outputs, by digest, turn by turn."""

    prompt: str
    references: tuple[str, ...]
    outputs: Mapping[str, tuple[str, ...]]


def shown_of(entries: Iterable[Entry]) -> dict[str, Shown]:
    """The samples of a suite by id; those with a side that did not answer in text are left out."""
    found: dict[str, Shown] = {}
    for entry in entries:
        sides = [texts_of(side) for side in (entry.baseline, entry.candidate)]
        if sides[0] is not None and sides[1] is not None:
            outputs = {labelled.digest_of_turns(side): tuple(_harmless(t) for t in side) for side in sides if side}
            references = (_harmless(entry.target),) if entry.target else ()
            found[entry.sample_id] = Shown(_harmless(entry.prompt), references, outputs)
    return found


def texts_of(outputs: Sequence[Output]) -> tuple[str, ...] | None:
    """The texts of one side, oldest first; None where an answer is missing or is no text."""
    texts = tuple(output.text for output in outputs if output.text is not None)
    return texts if texts and len(texts) == len(outputs) else None


def _harmless(text: str) -> str:
    return clipped(text, MAX_TEXT)
