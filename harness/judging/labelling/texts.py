"""What a person who labels is shown: the question, the scale, and a run's texts made harmless to look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness import labelled
from harness.errors import DataError
from harness.judging import _fields
from harness.judging.records import Case
from harness.judging.rubric import Level, Rubric
from harness.records import Output, Sample
from harness.report._text import clipped
from harness.runs import Entry

_JOURNAL = frozenset({"prompt", "conversation", "reference"})
MAX_TEXT = 100_000  # characters of one text on the page; nobody reads further, and a page must open


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every item: a sentence, further instructions, and for a grade the levels, worst first."""

    title: str
    instructions: str
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """One sample: what stands above the outputs, as (title, text), and the turns of both outputs by digest."""

    fields: tuple[tuple[str, str], ...]
    outputs: Mapping[str, tuple[str, ...]]


def question_of(rubric: Rubric) -> Question:
    """What a rubric asks, for a person: its description, and the criteria in their order."""
    title = "Which answer is better?" if rubric.pairwise else "Which level does this answer reach?"
    criteria = [f"{number}. {text.strip()}" for number, text in enumerate(rubric.file.criteria, start=1)]
    return Question(title, "\n".join([rubric.file.description.strip(), *criteria]), rubric.file.scale)


def shown_of(entries: Iterable[Entry], rubric: Rubric, samples: Mapping[str, Sample]) -> dict[str, Shown]:
    """The samples of a suite by id; those with a side that did not answer in text are left out.

    Where `samples` holds the sample, a person sees the fields that the rubric shows to the judge; else what the journal
    has kept: prompt or turns, and the target.

    Raises:
        DataError: the journal has not kept what the rubric shows, so that a person would judge by less than the judge.
    """
    found = {}
    for entry in entries:
        sides = [side for outputs in (entry.baseline, entry.candidate) if (side := texts_of(outputs))]
        if len(sides) == 2:
            outputs = {labelled.digest_of_turns(side): tuple(map(_harmless, side)) for side in sides}
            sample = samples.get(entry.sample_id)
            fields = _kept(entry, rubric) if sample is None else _fields_of(sample, rubric)
            found[entry.sample_id] = Shown(tuple((title, _harmless(text)) for title, text in fields), outputs)
    return found


def texts_of(outputs: Sequence[Output]) -> tuple[str, ...] | None:
    """The texts of one side, oldest first; None where an answer is missing or is no text."""
    texts = tuple(said for output in outputs if (said := output.spoken) is not None)
    return texts if texts and len(texts) == len(outputs) else None


def _kept(entry: Entry, rubric: Rubric) -> list[tuple[str, str]]:
    """What the journal has of a sample."""
    turns = entry.details.get(rubric.name, {}).get("turns") or ()
    missing = sorted({*rubric.needs} - _JOURNAL)
    if len(entry.baseline) > max(1, len(turns)):
        missing.append("the later turns")
    if missing:
        raise DataError(
            f"sample {entry.sample_id!r}: the judge was shown {', '.join(missing)}, which the run has not kept; label "
            "where the golden set of the suite is (--root)"
        )
    sample = Sample(entry.sample_id, entry.prompt, (entry.target,) if entry.target else ())
    reference = [("reference", text) for text in sample.targets]
    return [*_asked(sample, turns), *reference]


def _fields_of(sample: Sample, rubric: Rubric) -> Iterator[tuple[str, str]]:
    """What the rubric's prompt shows of a sample, in its order, without the outputs and the answers before them."""
    hidden = {name for names in _fields.OUTPUTS.values() for name in names} | {"answers"}
    turns = sample.data.get("turns") or ()
    fields = [field for field in rubric.shown if field not in hidden]
    if turns or not {"prompt", "conversation"} & set(fields):
        yield from _asked(sample, turns)
        fields = [field for field in fields if field not in ("prompt", "conversation")]
    for field in fields:
        yield from _fields.texts(Case(sample, ""), field)


def _asked(sample: Sample, turns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The prompt, or every turn of the user; both outputs hold an answer to each."""
    if len(turns) < 2:
        yield "prompt", sample.prompt
    for number, text in enumerate(turns if len(turns) > 1 else (), start=1):
        yield f"turn {number}", text


def _harmless(text: str) -> str:
    return clipped(text, MAX_TEXT)
