"""Human labels of outputs or pairs, from JSONL or CSV, and the items that they make: a case with what people think.

One row is what one person says of one output (`output` or `output_sha256`, and `label`, a level of the rubric's scale)
or of a pair (`first` and `second`, or their `…_sha256`, and `label`: first, tie or second, or −1, 0, 1). `cannot tell`
is an answer, too. The sample stands in the row (`prompt`, and whatever else the rubric shows) or in a golden set.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import labelled
from harness.errors import DataError, at, nearest
from harness.judging.records import Case, PairCase
from harness.judging.rubric import Rubric
from harness.labelled import CANNOT_TELL, PREFERENCES, WITHDRAWN
from harness.records import Message, Sample, content_hash

_PAIR, _SINGLE = ("first", "second"), ("output",)
_NEEDED = ("sample_id", "label")
_ABOUT = ("sample_id", "label", "annotator", "split", "slice", "tags", "cluster", "note", "time", "draws")
_SHOWN = ("prompt", "messages", "target", "answers", "first_answers", "second_answers")
_SPLITS = {"": True, "test": True, "held-out": True, "dev": False}
_LIKENESS = 0.8  # from here on an unknown column counts as a known one misspelled


@dataclass(frozen=True, slots=True)
class Scale:
    """What a label may be: a preference, or one of a rubric's levels, worst first."""

    pairwise: bool
    levels: tuple[float, ...] = (-1.0, 0.0, 1.0)
    names: Mapping[str, float] = field(default_factory=lambda: PREFERENCES)

    @classmethod
    def of(cls, rubric: Rubric) -> Scale:
        """A rubric's scale; its levels go by value or by name."""
        if rubric.pairwise:
            return cls(pairwise=True)
        names = {level.name: float(level.value) for level in rubric.file.scale}
        return cls(False, tuple(names.values()), names)

    def nearest(self, value: float) -> float:
        """The level next to `value`, the mean of several labels; of two equally near, the one nearer the middle."""
        middle = (self.levels[0] + self.levels[-1]) / 2
        return min(self.levels, key=lambda level: (abs(level - value), abs(level - middle)))


@dataclass(frozen=True, slots=True)
class Label:
    """One row: what one person said of one output, or of two. `value` is None where they could not tell.

    `where` is the `file:line: ` of the row. `held_out` is False where the row says `split: dev`: somebody looked at it
    while the prompt was written. `row` holds everything that the row says, for the sample in it.
    """

    where: str
    sample_id: str
    outputs: tuple[str, ...]
    value: float | None
    annotator: str
    held_out: bool
    slices: tuple[str, ...]
    cluster: str
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LabelFile:
    """The labels of one file that hold, and a digest of all its rows that does not depend on their order."""

    path: Path
    scale: Scale
    labels: tuple[Label, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Item:
    """One case or pair with everyone's labels. `value` is their mean: a level, or for a pair in [−1, 1]."""

    sample_id: str
    case: Case | PairCase
    value: float
    by_annotator: Mapping[str, float]
    held_out: bool
    slices: tuple[str, ...]
    cluster: str


# ---------------------------------------------------------------- rows


def read_labels(path: Path, scale: Scale) -> LabelFile:
    """All labels of a file, JSONL or CSV, by its ending.

    Raises:
        DataError: no such file, no row, a missing or misspelled column, a label off the scale, or one annotator who
            says two things of the same output; with file and line.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{at(path)}holds no label")
    held: dict[tuple[str, tuple[str, ...], str], Label] = {}
    for where, row in rows:
        label, withdrawn = _label(where, row, scale)
        key = label.sample_id, _unordered(label.outputs), label.annotator
        if withdrawn:
            held.pop(key, None)
        else:
            _refuse_other(held.get(key), label)
            held.setdefault(key, label)
    if not held:
        raise DataError(f"{at(path)}holds no label: every one was withdrawn")
    return LabelFile(path, scale, tuple(held.values()), rows_digest(row for _, row in rows))


def digest_of(path: Path) -> str:
    """The digest that `read_labels` finds, without a scale: whether a file still is what it was."""
    return rows_digest(row for _, row in _rows(path))


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over all rows, whatever their order."""
    return content_hash(sorted(content_hash(row) for row in rows))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    readers = {".jsonl": _jsonl, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{at(path)}unknown format {path.suffix!r}; known: {', '.join(readers)}")
    if not path.is_file():
        raise DataError(f"{at(path)}no such file; it should hold human labels")
    return reader(path)


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line, the last one included although its end may be missing: editors leave it out."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield at(path, number), _parsed(at(path, number), line)
    except UnicodeDecodeError as error:
        raise DataError(f"{at(path)}not UTF-8: {error.reason} at byte {error.start}") from error


def _parsed(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        content_hash(row)  # refuses NaN, which is no label
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}expected an object with sample_id and label")
    return row


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                where = at(path, reader.line_num)
                if None in row or None in row.values():
                    raise DataError(f"{where}another number of columns than the header")
                yield where, {name: value for name, value in row.items() if value != "" or name in _NEEDED}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{at(path)}cannot be read: {error}") from error


def _label(where: str, row: Mapping[str, Any], scale: Scale) -> tuple[Label, bool]:
    """One row as a label, and whether it withdraws the one before it."""
    _refuse_misspelled(where, row)
    for name in _NEEDED:
        if row.get(name) in (None, ""):
            hint = f"write {CANNOT_TELL!r} where a person could not say" if name in row else nearest(name, row)
            raise DataError(f"{where}no {name!r}: {hint}")
    outputs = tuple(_output_digest(where, row, name) for name in (_PAIR if scale.pairwise else _SINGLE))
    split = str(row.get("split") or "")
    if split not in _SPLITS:
        raise DataError(f"{where}split {split!r}: {nearest(split, filter(None, _SPLITS))}")
    told = row["label"] not in (CANNOT_TELL, WITHDRAWN)
    label = Label(
        where=where,
        sample_id=str(row["sample_id"]),
        outputs=outputs,
        value=_value(where, row["label"], scale) if told else None,
        annotator=str(row.get("annotator") or ""),
        held_out=_SPLITS[split],
        slices=_slices(row.get("slice") or row.get("tags") or ()),
        cluster=str(row.get("cluster") or ""),
        row=row,
    )
    return label, row["label"] == WITHDRAWN


def _refuse_misspelled(where: str, row: Mapping[str, Any]) -> None:
    """Any column may hold what a rubric shows, but `spilt: dev` must not make a label count that should not."""
    known = (*_ABOUT, *_PAIR, *_SINGLE, *_SHOWN)
    for name in row:
        like = difflib.get_close_matches(name, _ABOUT, n=1, cutoff=_LIKENESS)
        if name not in known and like:
            raise DataError(f"{where}unknown column {name!r}: did you mean {like[0]!r}?")


def _output_digest(where: str, row: Mapping[str, Any], name: str) -> str:
    """The digest of the output in column `name`, from its text or as given; both must agree."""
    text, given = row.get(name), row.get(f"{name}_sha256")
    if text is None and given is None:
        raise DataError(f"{where}no {name!r} and no '{name}_sha256': {nearest(name, row)}")
    if text is not None and not isinstance(text, str):
        raise DataError(f"{where}{name} must be a text, not {type(text).__name__}")
    if text is None:
        return str(given)
    found = labelled.digest_of_turns([*_answers(where, row, name), text])
    if given is not None and given != found:
        raise DataError(f"{where}{name}_sha256 is not the SHA-256 of {name}, which is {found}")
    return found


def _answers(where: str, row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The answers that came before the last one, for a conversation."""
    column = "answers" if name == "output" else f"{name}_answers"
    value = row.get(column) or ()
    if isinstance(value, str) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{where}{column} must be a list of texts, oldest first")
    return tuple(value)


def _value(where: str, label: Any, scale: Scale) -> float:
    if isinstance(label, str) and label in scale.names:
        return scale.names[label]
    try:
        number = math.nan if isinstance(label, bool) else float(label)
    except (TypeError, ValueError):
        number = math.nan
    if number not in scale.levels:
        known = ", ".join(f"{level:g} ({name})" for name, level in scale.names.items())
        raise DataError(f"{where}label {label!r} is not on the scale: {known}; or {CANNOT_TELL!r}")
    return number


def _slices(value: Any) -> tuple[str, ...]:
    parts = value.split(";") if isinstance(value, str) else [str(part) for part in value]
    return tuple(part.strip() for part in parts if part.strip())


def _refuse_other(before: Label | None, label: Label) -> None:
    if before is None or _turned(before.value, before.outputs) == _turned(label.value, label.outputs):
        return
    who = f"annotator {label.annotator!r}" if label.annotator else "the same annotator (none is named)"
    raise DataError(
        f"{label.where}{who} says {_word(label)} of sample {label.sample_id!r}, and said {_word(before)} of the same "
        f"at {before.where.rstrip(': ')}; keep one, or name the annotators in `annotator`"
    )


def _word(label: Label) -> str:
    return str(label.row["label"])


def _unordered(outputs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(outputs))


def _turned(value: float | None, outputs: tuple[str, ...]) -> float | None:
    """A preference as if the outputs had been given in the order of their digests."""
    return value if value is None or outputs == _unordered(outputs) else -value


# ---------------------------------------------------------------- items


def items_of(
    file: LabelFile, samples: Mapping[str, Sample] | None = None, outputs: Mapping[str, Sequence[str]] | None = None
) -> tuple[Item, ...]:
    """Cases with everyone's labels, in an order that the rows' order does not change; nobody's where none could tell.

    Args:
        file: the labels.
        samples: the samples by id; where there are none, every row has to hold its own.
        outputs: texts by digest, oldest answer first, for rows that give only the digest.

    Raises:
        DataError: a sample or an output is unknown, or one item is told to be held out and not to be.
    """
    grouped: dict[tuple[str, tuple[str, ...]], list[Label]] = {}
    for label in file.labels:
        grouped.setdefault((label.sample_id, _unordered(label.outputs)), []).append(label)
    made = (_item(sorted(group, key=_by_annotator), samples, outputs or {}) for _, group in sorted(grouped.items()))
    return tuple(item for item in made if item is not None)


def _by_annotator(label: Label) -> tuple[str, tuple[str, ...]]:
    return label.annotator, label.outputs


def _item(
    group: Sequence[Label], samples: Mapping[str, Sample] | None, outputs: Mapping[str, Sequence[str]]
) -> Item | None:
    """One item of its labels; None where nobody could tell."""
    orders = {label.outputs for label in group}
    order = orders.pop() if len(orders) == 1 else _unordered(group[0].outputs)
    said = {g.annotator: g.value if g.outputs == order else -g.value for g in group if g.value is not None}
    if not said:
        return None
    if len({label.held_out for label in group}) > 1:
        raise DataError(f"{group[-1].where}{group[0].sample_id!r} is `split: dev` in one row and not in another")
    sample = _sample(group, samples)
    cases = tuple(Case(sample, *_texts(group, digest, outputs)) for digest in order)
    return Item(
        sample_id=sample.id,
        case=cases[0] if len(cases) == 1 else PairCase(cases[0], cases[1]),
        value=math.fsum(said.values()) / len(said),
        by_annotator=said,
        held_out=group[0].held_out,
        slices=tuple(sorted({*sample.tags, *(tag for label in group for tag in label.slices)})),
        cluster=min((label.cluster for label in group if label.cluster), default=sample.cluster),
    )


def _sample(group: Sequence[Label], samples: Mapping[str, Sample] | None) -> Sample:
    """The sample of an item: of the golden set if one is given, else of the rows, which must not disagree."""
    first = group[0]
    if samples is not None:
        if first.sample_id not in samples:
            raise DataError(f"{first.where}no sample {first.sample_id!r}: {nearest(first.sample_id, samples)}")
        return samples[first.sample_id]
    found = [(_sample_in(label), label) for label in group if "prompt" in label.row or "messages" in label.row]
    if not found:
        raise DataError(f"{first.where}no 'prompt' for sample {first.sample_id!r}; name its golden set with --samples")
    for other, label in found[1:]:
        if other != found[0][0]:
            raise DataError(f"{label.where}sample {other.id!r} reads otherwise at {found[0][1].where.rstrip(': ')}")
    return found[0][0]


def _sample_in(label: Label) -> Sample:
    """What a row says of its sample: every column that is not about the label is shown to the judge by its name."""
    row = label.row
    messages = tuple(_message(label.where, message) for message in row.get("messages") or ())
    target = row.get("target")
    targets = () if target is None else tuple(str(t) for t in (target if isinstance(target, list) else [target]))
    about = {*_ABOUT, *_SHOWN, *_PAIR, *_SINGLE, *(f"{name}_sha256" for name in (*_PAIR, *_SINGLE))}
    prompt = str(row["prompt"]) if "prompt" in row else "\n\n".join(message.content for message in messages)
    data = {name: value for name, value in row.items() if name not in about}
    return Sample(id=label.sample_id, prompt=prompt, targets=targets, messages=messages, data=data)


def _message(where: str, value: Any) -> Message:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in ("role", "content")):
        raise DataError(f"{where}messages must be a list of objects with role and content")
    return Message(value["role"], value["content"])


def _texts(group: Sequence[Label], wanted: str, outputs: Mapping[str, Sequence[str]]) -> tuple[str, tuple[str, ...]]:
    """(last answer, answers before it) of the output with digest `wanted`."""
    for label in group:
        for name, digest in zip(_PAIR if len(label.outputs) == 2 else _SINGLE, label.outputs, strict=True):
            if digest == wanted and name in label.row:
                return str(label.row[name]), _answers(label.where, label.row, name)
    if wanted in outputs:
        *before, last = outputs[wanted]
        return last, tuple(before)
    raise DataError(
        f"{group[0].where}the text of output {wanted[:12]}… of sample {group[0].sample_id!r} is not known; name the "
        "run that it is of with --run"
    )
