"""What a judge suite asks: the samples of a golden set, or MT-Bench's questions with their second turns"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import assets, goldens
from harness.errors import ConfigError, DataError, at
from harness.goldens import Generation
from harness.goldens.pictures import shows_pictures
from harness.plugins import missing_extra
from harness.records import Check, Generate, Message, Output, Sample, content_hash
from harness.suites import SuiteContext
from harness.suites._frozen import lock_check, locked, request, training_check, without_pictures


@dataclass(frozen=True, slots=True)
class Questions:
    """Samples, and how they are asked. A sample whose `data` holds `turns` goes on after its first answer."""

    name: str
    reference: str
    samples: tuple[Sample, ...]
    generation: Generation
    digest: str
    checks: Callable[[], Sequence[Check]]
    chat: bool = False
    lock: Mapping[str, Any] = field(default_factory=dict)
    largest_cluster: int = 0

    def first(self, sample: Sample) -> Generate:
        """The first request of a sample."""
        return request(sample, self.generation, chat=self.chat or len(turns(sample)) > 1)

    def next(self, sample: Sample, outputs: Sequence[Output]) -> Generate | None:
        """The next turn, which holds the conversation so far; None after the last one, or after a failed answer."""
        said = [output.spoken for output in outputs]
        if len(said) >= len(turns(sample)) or None in said:
            return None
        return replace(self.first(sample), prompt=self.heard(sample, len(said), said))

    def heard(self, sample: Sample, turn: int, said: Sequence[str | None]) -> tuple[Message, ...]:
        """The conversation up to the question of a turn, with what the subject has answered to the turns before."""
        opening = sample.messages or (Message("user", sample.prompt),)
        later = [
            message
            for answer, question in zip(said[:turn], turns(sample)[1 : turn + 1], strict=True)
            for message in (Message("assistant", answer or ""), Message("user", question))
        ]
        return (*opening, *later)

    def of_turn(self, sample: Sample, turn: int, said: Sequence[str | None]) -> Sample:
        """A sample as a judge reads it at one turn: the conversation up to there, and the reference of that turn."""
        if len(turns(sample)) == 1:
            return sample
        references = sample.data.get("reference")
        data = {key: value for key, value in sample.data.items() if key not in ("turns", "reference")}
        if isinstance(references, list | tuple) and turn < len(references) and references[turn]:
            data["reference"] = references[turn]
        return replace(
            sample,
            prompt=turns(sample)[turn],
            messages=self.heard(sample, turn, said),
            targets=(),
            data={**data, "turn": turn + 1},
        )


def turns(sample: Sample) -> Sequence[str]:
    """What the user says, turn by turn; a sample without `turns` has one."""
    given = sample.data.get("turns")
    return given if given else (sample.prompt,)


def of_golden_set(reference: str, root: Path | None, context: SuiteContext, *, chat: bool) -> Questions:
    """The samples of a frozen golden set, asked as its card says.

    Raises:
        LockError: the set is not frozen, or not what was frozen.
        DataError: a row's `turns` are not texts, or do not begin with its prompt.
    """
    explicit = context.folder / root if root is not None else None
    golden = goldens.load(assets.find("goldensets", explicit, start=context.folder), reference)
    for sample in golden.samples:
        _check_turns(sample, golden.reference)
    # A judge reads texts: it cannot say how good an answer about a picture is that it has not seen.
    samples = tuple(sample for sample in golden.samples if not shows_pictures(sample))
    if not samples:
        raise DataError(f"{golden.reference}: every sample shows pictures, which a judge does not see")

    def checks() -> list[Check]:
        trained = context.training_files
        overlap = [training_check(trained, golden.samples, golden.reference)] if trained else []
        return [lock_check(golden), *overlap, *without_pictures(golden, samples)]

    return Questions(
        golden.name, golden.reference, samples, golden.card.generation, golden.digest, checks, chat,
        locked(golden), golden.card.largest_cluster,
    )  # fmt: skip


def of_mt_bench(source: str, references: Path | None, generation: Generation, context: SuiteContext) -> Questions:
    """MT-Bench's questions (Zheng et al. 2023, arXiv 2306.05685) from FastChat's file, or from a data set on the hub.

    Args:
        source: a `question.jsonl` (relative to the gate.yaml), or a data set's name on the hub.
        references: FastChat's file of reference answers, which come before those in the questions.
        generation: how answers are asked for.
        context: of the suite.

    Raises:
        DataError: a row is not a question, two have one id, or a reference is of no question.
        ConfigError: there is neither such a file nor, where the hub can be reached, such a data set.
    """
    path = context.folder / source
    rows = list(_lines(path)) if path.is_file() else list(_hub_rows(source, path))
    better = _references(context.folder / references) if references else {}
    samples = tuple(_question(where, row, better) for where, row in rows)
    ids = [sample.id for sample in samples]
    for number, identifier in enumerate(ids):
        if identifier in ids[:number]:
            raise DataError(f"{rows[number][0]}question {identifier!r} is there twice")
    for identifier in better:
        if identifier not in ids:
            raise DataError(f"{at(context.folder / str(references))}question {identifier!r} is not asked")
    digest = content_hash([[s.id, list(turns(s)), s.data.get("reference"), list(s.tags)] for s in samples])

    def checks() -> list[Check]:
        trained = context.training_files
        return [training_check(trained, samples, "mt-bench")] if trained else []

    return Questions("mt-bench", "mt-bench", samples, generation, digest, checks, chat=True)


def _question(where: str, row: Mapping[str, Any], better: Mapping[str, Sequence[str]]) -> Sample:
    identifier = row.get("question_id", row.get("prompt_id"))
    asks = row.get("turns", row.get("prompt"))
    if identifier is None or not _texts(asks) or not asks:
        raise DataError(f"{where}a question needs question_id and turns, a list of texts")
    key = str(identifier)
    references = better.get(key) or row.get("reference") or []
    if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
        raise DataError(f"{where}question {key!r}: reference must be a list of texts, one a turn, or empty for none")
    tags = (str(row["category"]),) if row.get("category") else ()
    return Sample(key, asks[0], tags=tags, data={"turns": list(asks), "reference": list(references)})


def _references(path: Path) -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {}
    for where, row in _lines(path):
        try:
            said = row["choices"][0]["turns"]
            key = str(row["question_id"])
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{where}a reference needs question_id and choices[0].turns") from error
        if not isinstance(said, list) or not all(isinstance(text, str) for text in said):
            raise DataError(f"{where}choices[0].turns must be a list of texts")
        found[key] = said
    return found


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{at(path)}cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{at(path, number)}not valid JSON: {error or 'nested too deeply'}") from error
        if not isinstance(row, dict):
            raise DataError(f"{at(path, number)}expected a JSON object, found {type(row).__name__}")
        yield at(path, number), row


def _hub_rows(name: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"{path}: no such file; {missing_extra('a data set of the hub', error)}") from error
    try:
        found = datasets.load_dataset(name)
    except Exception as error:  # whatever the hub's client raises: offline, no such name, no right to it
        raise ConfigError(
            f"{path}: no such file, and {name!r} is not to be had from the hub either: {error}"
        ) from error
    split = next(iter(found.values()))
    for number, row in enumerate(split):
        yield f"{name}, row {number}: ", dict(row)


def _check_turns(sample: Sample, reference: str) -> None:
    given = sample.data.get("turns")
    if given is None:
        return
    if not _texts(given) or not given:
        raise DataError(f"{reference}: sample {sample.id!r}: turns must be a list of texts")
    if given[0] != (sample.messages[-1].content if sample.messages else sample.prompt):
        raise DataError(f"{reference}: sample {sample.id!r}: the first of its turns is not its prompt")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)
