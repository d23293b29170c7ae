"""The human labels of a stored run: which pairs were drawn for people to look at, and what they said.

`<run>/labels/` holds two files for each judged metric. `<suite>.<metric>.plan.json` is written before the first label:
every pair that may be drawn with its probability, and the positions drawn, which no answer ever changes.
`<suite>.<metric>.jsonl` gets one line an answer, appended and fsynced; a later line of the same person on the same
outputs replaces an earlier one, so that undoing is one more line. Reading both needs no model and no judge.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import DataError, StorageError, at, nearest
from harness.records import Evidence, HumanDraw, HumanLabels, content_hash

FOLDER = "labels"
CANNOT_TELL, WITHDRAWN = "cannot tell", "withdrawn"
PREFERENCES: Mapping[str, float] = {"first": -1.0, "tie": 0.0, "second": 1.0}
MAX_LINE_BYTES = 8 * 2**20

_PLAN = ".plan.json"
_HEX = re.compile(r"[0-9a-f]{64}")
DrawState = Literal["labelled", "cannot tell", "open"]
Outputs = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FramePair:
    """A pair that may be drawn: with which probability in one draw, and the digests of both outputs."""

    sample_id: str
    probability: float
    baseline: str
    candidate: str


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """What is to be labelled, fixed before the first answer.

    `frame` holds every pair that could be drawn; the probabilities sum to 1. `draws` are positions in it, drawn with
    replacement in this order from `seed`. `planned` says how many draws each planning asked for; more draws only
    ever follow those that are there.
    """

    suite: str
    metric: str
    seed: str
    pairwise: bool
    higher_is_better: bool
    bounds: tuple[float, float]
    frame: tuple[FramePair, ...]
    draws: tuple[int, ...]
    planned: tuple[int, ...]

    @property
    def items(self) -> tuple[FramePair, ...]:
        """The pairs that were drawn, each once, in the order of their first draw: what people are shown."""
        return tuple(self.frame[index] for index in dict.fromkeys(self.draws))

    def positions(self, pair: FramePair) -> list[int]:
        """In which draws a pair came up, from 0."""
        return [t for t, index in enumerate(self.draws) if self.frame[index].sample_id == pair.sample_id]

    def as_json(self) -> dict[str, Any]:
        """What the plan's file holds."""
        frame = [[p.sample_id, p.probability, p.baseline, p.candidate] for p in self.frame]
        plain = {name: getattr(self, name) for name in ("suite", "metric", "seed", "pairwise", "higher_is_better")}
        lists = {name: list(getattr(self, name)) for name in ("bounds", "draws", "planned")}
        return {**plain, **lists, "frame": frame}


@dataclass(frozen=True, slots=True)
class RunDraw:
    """One draw with what people said of its pair.

    `difference` is candidate − baseline in the metric's score points, oriented so that higher is better: the mean over
    everyone who could tell. It is None where nobody could tell, and where nobody has answered yet (`open`).
    """

    sample_id: str
    probability: float
    state: DrawState
    difference: float | None = None


@dataclass(frozen=True, slots=True)
class RunLabels:
    """A plan with the answers so far: one entry of `draws` for each draw of the plan, in its order."""

    plan: LabelPlan
    draws: tuple[RunDraw, ...]
    annotators: int

    @property
    def answered(self) -> int:
        """How many draws from the first on have an answer; only these may be used before all have one."""
        return next((t for t, draw in enumerate(self.draws) if draw.state == "open"), len(self.draws))

    @property
    def complete(self) -> bool:
        """Whether every planned draw has an answer, be it that nobody can tell."""
        return self.answered == len(self.draws)


# ---------------------------------------------------------------- files


def digest(text: str) -> str:
    """SHA-256 (hex) of an output's text, by which a label names it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_of_turns(texts: Sequence[str]) -> str:
    """The digest of one answer, or of a conversation's answers together, oldest first."""
    return digest(texts[0]) if len(texts) == 1 else content_hash(list(texts))


def seed_of(manifest: Mapping[str, Any], suite: str, metric: str, frame: Sequence[FramePair]) -> str:
    """What the draws of a plan follow from: the run, and what is drawn from with which probability."""
    return content_hash([content_hash(manifest), suite, metric, [[p.sample_id, p.probability] for p in frame]])


def plan_path(run: Path, suite: str, metric: str) -> Path:
    """Where a run keeps the plan for one metric of one suite."""
    return run / FOLDER / f"{_file_name(suite)}.{_file_name(metric)}{_PLAN}"


def labels_path(run: Path, suite: str, metric: str) -> Path:
    """Where a run keeps the answers for one metric of one suite."""
    return run / FOLDER / f"{_file_name(suite)}.{_file_name(metric)}.jsonl"


def read_run_labels(run: Path) -> dict[tuple[str, str], RunLabels]:
    """All plans of a run with the answers so far, by (suite, metric); empty where nothing was planned.

    Raises:
        DataError: an answer is of no pair in the plan, or is no answer; with file and line.
        StorageError: a plan is damaged.
    """
    plans = [read_plan(path) for path in sorted((run / FOLDER).glob("*" + _PLAN))]
    return {(p.suite, p.metric): read_answers(p, labels_path(run, p.suite, p.metric)) for p in plans}


def with_labels(evidence: Sequence[Evidence], run: Path) -> list[Evidence]:
    """The evidence of a run with what people said of its pairs, where pairs were drawn for them."""
    found = read_run_labels(run)
    return [
        replace(e, human=_human(labels)) if (labels := found.get((e.suite, e.metric.name))) else e for e in evidence
    ]


def _human(labels: RunLabels) -> HumanLabels:
    draws = (HumanDraw(d.sample_id, d.difference, open=d.state == "open") for d in labels.draws)
    return HumanLabels({pair.sample_id: pair.probability for pair in labels.plan.frame}, tuple(draws))


def read_plan(path: Path) -> LabelPlan:
    """One plan.

    Raises:
        StorageError: the file is not there, or not a plan as it was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        plan = _plan_from_json(content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StorageError(f"{path}: not a plan of labels as it was written ({error}); see docs/judges.md") from error
    return plan


def read_answers(plan: LabelPlan, path: Path) -> RunLabels:
    """The answers in `path` to a plan; a file that is not there holds none."""
    said = latest(iter(answers(plan, path)))
    by_sample: dict[str, dict[str, dict[Outputs, float | None]]] = {}
    for (sample_id, outputs, annotator), value in said.items():
        by_sample.setdefault(sample_id, {}).setdefault(annotator, {})[outputs] = value
    found = {pair.sample_id: _draw(plan, pair, by_sample.get(pair.sample_id, {})) for pair in plan.items}
    draws = tuple(found[plan.frame[index].sample_id] for index in plan.draws)
    return RunLabels(plan, draws, len({annotator for _, _, annotator in said}))


def answers(plan: LabelPlan, path: Path) -> list[Answer]:
    """Every line of the answers to a plan, in the order of the file.

    Raises:
        DataError: a line is of no pair in the plan, or is no answer.
    """
    if not path.exists():
        return []
    frame = {pair.sample_id: pair for pair in plan.frame}
    return [_answer(plan, frame, where, row) for where, row in read_rows(path)]


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of a file of labels: a value, None for "cannot tell"; or the withdrawal of the line before it."""

    sample_id: str
    outputs: Outputs
    annotator: str
    value: float | None
    withdrawn: bool = False


def latest(answers: Iterator[Answer]) -> dict[tuple[str, Outputs, str], float | None]:
    """What holds of answers in the order in which they were given: by sample, outputs and annotator."""
    said: dict[tuple[str, Outputs, str], float | None] = {}
    for answer in answers:
        key = answer.sample_id, answer.outputs, answer.annotator
        if answer.withdrawn:
            said.pop(key, None)
        else:
            said[key] = answer.value
    return said


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`file:line: ` and object of every line; a last line without its end is still being written and is left out.

    Raises:
        DataError: a line is too long, or not a JSON object.
        StorageError: the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{at(path, number)}line longer than {MAX_LINE_BYTES // 2**20} MiB")
                if not line.endswith(b"\n"):
                    return
                if line.strip():
                    yield at(path, number), _object(at(path, number), line)
    except OSError as error:
        raise StorageError(f"{path}: {error}") from error


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line durably: all of it or nothing, also while others append to the same file.

    Raises:
        StorageError: the file cannot be written.
    """
    line = json.dumps(row, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            _append_locked(handle, line)
        finally:
            os.close(handle)
        if fresh:
            _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: the label was not stored: {error}") from error


def _append_locked(handle: int, line: bytes) -> None:
    """Under a lock that ends with the handle: cut off what a crash left half written, then write and sync."""
    try:
        import fcntl
    except ImportError:  # Windows: one session at a time, as its users are told
        pass
    else:
        fcntl.flock(handle, fcntl.LOCK_EX)
    size = os.fstat(handle).st_size
    whole = _end_of_lines(handle, size)
    if whole < size:
        os.ftruncate(handle, whole)
    try:
        if os.write(handle, line) != len(line):
            raise OSError("the disk is full")
        os.fsync(handle)
    except OSError:  # whoever is told that it was not stored must not find it later
        os.ftruncate(handle, whole)
        raise


def _end_of_lines(handle: int, size: int) -> int:
    """Where the last whole line ends, in bytes."""
    position = size
    while position > 0:
        start = max(0, position - 65_536)
        os.lseek(handle, start, os.SEEK_SET)
        block = os.read(handle, position - start)
        found = block.rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file_name(name: str) -> str:
    """A name as part of a file's name; one that had to be changed gets a hash, so that no two become one."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
    return plain if plain == name else f"{plain[:80]}-{content_hash(name)[:8]}"


# ---------------------------------------------------------------- from rows to answers


def _plan_from_json(content: Mapping[str, Any]) -> LabelPlan:
    frame = tuple(FramePair(str(i), float(q), _hex(b), _hex(c)) for i, q, b, c in content["frame"])
    draws = tuple(int(index) for index in content["draws"])
    if any(not 0 <= index < len(frame) for index in draws):
        raise ValueError("a draw of no pair")
    if any(not (0 <= pair.probability <= 1) for pair in frame):
        raise ValueError("a probability outside [0, 1]")
    if len({pair.sample_id for pair in frame}) < len(frame):
        raise ValueError("a sample stands twice in the frame")
    low, high = (float(bound) for bound in content["bounds"])
    return LabelPlan(
        suite=str(content["suite"]),
        metric=str(content["metric"]),
        seed=str(content["seed"]),
        pairwise=bool(content["pairwise"]),
        higher_is_better=bool(content["higher_is_better"]),
        bounds=(low, high),
        frame=frame,
        draws=draws,
        planned=tuple(int(n) for n in content["planned"]),
    )


def _hex(value: Any) -> str:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError(f"{value!r} is no SHA-256")
    return value


def _object(where: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}expected an object, found {type(row).__name__}")
    return row


def _answer(plan: LabelPlan, frame: Mapping[str, FramePair], where: str, row: Mapping[str, Any]) -> Answer:
    """One line as an answer to the plan; raises DataError for anything that is none."""
    names = ("first_sha256", "second_sha256") if plan.pairwise else ("output_sha256",)
    for name in ("sample_id", *names, "label"):
        if name not in row:
            raise DataError(f"{where}no {name!r}: {nearest(name, row)}")
    sample_id, outputs = str(row["sample_id"]), tuple(str(row[name]) for name in names)
    pair = frame.get(sample_id)
    if pair is None:
        raise DataError(f"{where}the plan has no sample {sample_id!r}: {nearest(sample_id, frame)}")
    sides = (pair.baseline, pair.candidate)
    if outputs != sides if plan.pairwise else outputs[0] not in sides:
        raise DataError(f"{where}sample {sample_id!r} has other outputs in this run; the label is of another run")
    label = row["label"]
    value = None if label in (CANNOT_TELL, WITHDRAWN) else _value(plan, where, label)
    return Answer(sample_id, outputs, str(row.get("annotator") or ""), value, label == WITHDRAWN)


def _value(plan: LabelPlan, where: str, label: Any) -> float:
    if plan.pairwise:
        if label not in PREFERENCES:
            raise DataError(f"{where}label {label!r}: {nearest(str(label), PREFERENCES)}")
        return PREFERENCES[label]
    low, high = plan.bounds
    number = isinstance(label, int | float) and not isinstance(label, bool) and math.isfinite(label)
    if not number or not low <= label <= high:
        raise DataError(f"{where}label {label!r} is no level of the scale, {low:g} to {high:g}")
    return float(label)


def _draw(plan: LabelPlan, pair: FramePair, said: Mapping[str, Mapping[Outputs, float | None]]) -> RunDraw:
    """A drawn pair with what everyone said of it, by annotator and outputs."""
    whole = [_difference(plan, pair, answers) for answers in said.values() if _finished(plan, answers)]
    told = [difference for difference in whole if difference is not None]
    if told:
        return RunDraw(pair.sample_id, pair.probability, "labelled", math.fsum(told) / len(told))
    return RunDraw(pair.sample_id, pair.probability, "cannot tell" if whole else "open")


def _finished(plan: LabelPlan, answers: Mapping[Outputs, float | None]) -> bool:
    return len(answers) == (1 if plan.pairwise else 2)


def _difference(plan: LabelPlan, pair: FramePair, answers: Mapping[Outputs, float | None]) -> float | None:
    """One annotator's oriented difference; a preference for one side is one point, as it is for a pairwise judge."""
    if plan.pairwise:
        return answers[pair.baseline, pair.candidate]
    baseline, candidate = answers[pair.baseline,], answers[pair.candidate,]
    if baseline is None or candidate is None:
        return None
    return candidate - baseline if plan.higher_is_better else baseline - candidate
