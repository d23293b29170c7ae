"""Rubrics: `judges/<name>.yaml` with criteria and scale, and beside it `judges/<name>.prompt.md`, what a judge is shown

The prompt is text with placeholders, `{{context}}`, each alone on its line; what takes their place is untrusted and is
framed by `harness.judging.prompting`, which also adds criteria, scale and the form of the answer. So a prompt says what
is to be looked at, and nothing about numbers or JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from harness import assets, plugins
from harness.config import Lines, Section, nearest_line, read_model
from harness.errors import ConfigError, DataError, at, nearest
from harness.judging import _fields
from harness.metrics import Metric
from harness.records import Sample, content_hash

FRAMING_VERSION = 1
"""Raised with every change to what `prompting` and `_blocks` write: who reads something else is another judge."""

CANNOT_TELL = "cannot tell"
"""What a judge says instead of a level or a side, where the rubric lets it abstain."""

SIDES = ("A", "B", "tie")
"""What a pairwise judge says."""

_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


class Level(Section):
    """One level of a scale."""

    value: int = Field(strict=True, description="a whole number, one more than that of the level before")
    name: str = Field(min_length=1, description="one or two words")
    anchor: str = Field(min_length=1, description="what an output on this level is like")


class CheckSection(Section):
    """A deterministic metric that outranks the judge."""

    metric: str = Field(description="id of a metric that reads text")
    options: dict[str, Any] = Field(default_factory=dict, description="the metric's options")
    threshold: float | None = Field(
        None,
        allow_inf_nan=False,
        description="score that passes, as every better one does (default: the best there is)",
    )
    if_failed: Literal["worst", "ask"] = Field("worst", description="worst: the worst level, and nobody is asked")
    if_passed: Literal["ask", "best"] = Field("ask", description="best: the best level, and nobody is asked")


class ParseRule(Section):
    """How the judge's reply is read: one JSON object, nothing around it, and this key in it."""

    key: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$", description="key of the verdict in the JSON object")

    @field_validator("key")
    @classmethod
    def _not_the_reason(cls, value: str) -> str:
        if value == "reason":
            raise ValueError("'reason' is the key of the judge's reason; name another")
        return value


class RubricFile(Section):
    """A whole judges/<name>.yaml."""

    name: str = Field(description="repeats the file's name, so that a copied file is noticed")
    version: int = Field(ge=1, strict=True, description="raise it with every change")
    description: str = Field(min_length=1, description="what the judge says of an output, in one sentence")
    mode: Literal["pointwise", "pairwise"] = Field("pointwise", description="one output by itself, or two compared")
    sees: tuple[str, ...] = Field(description="fields of the sample that the prompt may show; outputs always may be")
    optional: tuple[str, ...] = Field((), description="those of `sees` that a sample may lack; it is then said so")
    criteria: tuple[str, ...] = Field((), description="what to judge by, the most important first")
    scale: tuple[Level, ...] = Field((), description="levels from worst to best; none for a pairwise judge")
    parse: ParseRule | None = Field(None, description="default: key `score`, or `better` for a pairwise judge")
    abstain: bool = Field(False, description="the judge may say that it cannot tell")
    checks: tuple[CheckSection, ...] = Field((), description="deterministic metrics that outrank the judge")
    max_tokens: int = Field(512, ge=16, le=32_768, description="tokens of the judge's reply, its reason included")
    max_chars: int = Field(24_000, ge=200, le=2_000_000, description="characters that are shown of one field at most")

    @field_validator("criteria")
    @classmethod
    def _something_said(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(text.strip() for text in value):
            raise ValueError("a criterion is empty")
        return value

    @model_validator(mode="after")
    def _fits_mode(self) -> RubricFile:
        if self.mode == "pairwise" and self.scale:
            raise ValueError("a pairwise judge has no scale: it says A, B or tie")
        if self.mode == "pairwise" and not self.criteria:
            raise ValueError("a pairwise judge needs criteria: there is no scale to judge by")
        if self.mode == "pointwise" and len(self.scale) < 2:
            raise ValueError("a pointwise judge needs a scale with at least two levels")
        return self


@dataclass(frozen=True, slots=True)
class Check:
    """A built metric that outranks the judge, with what its result means."""

    section: CheckSection
    metric: Metric


@dataclass(frozen=True)
class Rubric:
    """A rubric as it was read; see `RubricFile` for what its parts mean."""

    file: RubricFile
    prompt: str
    checks: tuple[Check, ...] = ()

    @property
    def name(self) -> str:
        """Name of the rubric, and of its files."""
        return self.file.name

    @property
    def version(self) -> int:
        """The author's count of changes."""
        return self.file.version

    @property
    def pairwise(self) -> bool:
        """Whether it compares two outputs."""
        return self.file.mode == "pairwise"

    @property
    def levels(self) -> tuple[int, ...]:
        """Values of the scale, worst first; empty for a pairwise rubric."""
        return tuple(level.value for level in self.file.scale)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a judgement: the ends of the scale, or −1 and 1 for a pair."""
        return (-1.0, 1.0) if self.pairwise else (float(self.levels[0]), float(self.levels[-1]))

    @property
    def key(self) -> str:
        """Key of the verdict in the judge's JSON."""
        if self.file.parse is not None:
            return self.file.parse.key
        return "better" if self.pairwise else "score"

    @property
    def verdicts(self) -> tuple[int | str, ...]:
        """Everything that the judge may say under `key`."""
        said: tuple[int | str, ...] = SIDES if self.pairwise else self.levels
        return (*said, CANNOT_TELL) if self.file.abstain else said

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """Every field that the prompt shows, outputs included, in its order."""
        return tuple(found[1] for found in _PLACEHOLDER.finditer(self.prompt))

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields of a sample that the prompt shows and that it may not lack."""
        free = {*_fields.OUTPUTS[self.file.mode], *self.file.optional, "answers"}
        return tuple(field for field in self.shown if field not in free)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over all that can change a judgement: the file's meaning, the prompt and the framing around it."""
        meaning = self.file.model_dump(mode="json", exclude={"description"})
        return content_hash([meaning, self.prompt, FRAMING_VERSION])

    def segments(self) -> list[str]:
        """The prompt, taken apart: text and names of fields by turns, beginning and ending with a text."""
        return _PLACEHOLDER.split(self.prompt)


def names(root: Path) -> list[str]:
    """Names of all rubrics in a folder, sorted."""
    return sorted(path.stem for path in root.glob("*.yaml"))


def load_rubric(name: str, root: Path | None = None, *, start: Path | None = None) -> Rubric:
    """The rubric `name` of the folder `root`, or of the `judges/` that `harness.assets.find` finds from `start`.

    Raises:
        ConfigError: there is no such judge (the nearest is named) or no prompt beside it, a key is unknown or its value
            wrong, the scale has a gap, or the prompt shows a field that `sees` does not name; with file and line.
        PluginError: a check names a metric that does not exist.
    """
    folder = assets.find("judges", root, start=start)
    known = names(folder)
    if name not in known:
        raise ConfigError(f"{at(folder)}no judge {name!r}: {nearest(name, known)}")
    path = folder / f"{name}.yaml"
    file, lines = read_model(path, RubricFile, "name, version, sees and scale")
    if file.name != name:
        raise ConfigError(f"{at(path, lines.get(('name',)))}the file says {file.name!r}, its name {name!r}")
    _check_fields(path, file, lines)
    _check_scale(path, file, lines)
    prompt = _read_prompt(folder / f"{name}.prompt.md")
    _check_prompt(folder / f"{name}.prompt.md", prompt, file)
    checks = tuple(_built(path, section, i, file, lines) for i, section in enumerate(file.checks))
    return Rubric(file, prompt, checks)


def require(rubric: Rubric, samples: Iterable[Sample]) -> None:
    """Make sure, before anything is asked, that every sample has what the prompt shows.

    Raises:
        DataError: one lacks a field; the message names both.
    """
    for sample in samples:
        for field in rubric.needs:
            if _fields.value(sample, field) is None:
                raise DataError(
                    f"judge {rubric.name!r} shows {field!r}, which sample {sample.id!r} lacks: it is looked for in "
                    f"{_fields.place(field)}"
                )


def json_schema() -> dict[str, Any]:
    """JSON schema of a rubric's YAML, for editors."""
    return RubricFile.model_json_schema()


def _check_fields(path: Path, file: RubricFile, lines: Lines) -> None:
    outputs = {field for fields in _fields.OUTPUTS.values() for field in fields}
    for index, field in enumerate(file.sees):
        where = at(path, nearest_line(lines, ("sees", index)))
        if not _fields.FIELD.fullmatch(field):
            raise ConfigError(f"{where}sees: {field!r} is no field: use lower-case letters, digits and '_'")
        if field in outputs:
            raise ConfigError(f"{where}sees: {field!r} is always seen; leave it out")
        if field == "answers" and file.mode == "pairwise":
            raise ConfigError(f"{where}sees: each output of a pair is shown with its own earlier answers; leave it out")
        if field in file.sees[:index]:
            raise ConfigError(f"{where}sees: {field!r} is named twice")
    for index, field in enumerate(file.optional):
        if field not in file.sees:
            where = at(path, nearest_line(lines, ("optional", index)))
            raise ConfigError(f"{where}optional: {field!r} is not in sees: {nearest(field, file.sees)}")


def _check_scale(path: Path, file: RubricFile, lines: Lines) -> None:
    for index, level in enumerate(file.scale):
        where = f"{at(path, nearest_line(lines, ('scale', index)))}scale: level {level.value} ({level.name}) "
        before = file.scale[:index]
        if any(level.value == other.value for other in before):
            raise ConfigError(f"{where}is there twice")
        if any(level.name == other.name for other in before):
            raise ConfigError(f"{where}has the name of another level")
        if before and level.value < before[-1].value:
            raise ConfigError(f"{where}stands after {before[-1].value}: order the levels from worst to best")
        if before and level.value != before[-1].value + 1:
            raise ConfigError(f"{where}follows {before[-1].value}: the scale has a gap at {before[-1].value + 1}")


def _read_prompt(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{at(path)}no such file; a judge is a YAML file and this prompt beside it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{at(path)}cannot be read: {error}") from error
    return text.strip()


def _check_prompt(path: Path, prompt: str, file: RubricFile) -> None:
    outputs = _fields.OUTPUTS[file.mode]
    seen: set[str] = set()
    for number, line in enumerate(prompt.split("\n"), 1):
        if "{{" not in line and "}}" not in line:
            continue
        found = _PLACEHOLDER.fullmatch(line.strip())
        if found is None:
            raise ConfigError(f"{at(path, number)}a placeholder such as {{{{{outputs[0]}}}}} stands alone on its line")
        _check_placeholder(at(path, number), found[1], file, seen)
        seen.add(found[1])
    for field in outputs:
        if field not in seen:
            raise ConfigError(f"{at(path)}the prompt never shows {{{{{field}}}}}, which is to be judged")


def _check_placeholder(where: str, field: str, file: RubricFile, seen: set[str]) -> None:
    allowed = (*_fields.OUTPUTS[file.mode], *file.sees)
    if field in seen:
        raise ConfigError(f"{where}{{{{{field}}}}} is shown twice")
    if field not in allowed and field in _fields.WELL_KNOWN:
        raise ConfigError(f"{where}the prompt shows {{{{{field}}}}}, which {file.name}.yaml does not name in sees")
    if field not in allowed:
        raise ConfigError(f"{where}unknown placeholder {{{{{field}}}}}: {nearest(field, allowed)}")


def _built(path: Path, section: CheckSection, index: int, file: RubricFile, lines: Lines) -> Check:
    where = f"{at(path, nearest_line(lines, ('checks', index)))}checks: metric {section.metric!r}"
    if file.mode == "pairwise" and section.if_passed == "best":
        raise ConfigError(f"{where}: a pairwise judge has no best level")
    options = plugins.options("metrics", section.metric, section.options, where=where)
    module = plugins.load("metrics", section.metric)
    if module.__dict__.get("RUNS_CODE", False) or module.__dict__.get("LOADS_CODE", False):
        raise ConfigError(f"{where} runs code; a judge may not do that")
    if module.__dict__.get("SCORES") != "text":
        raise ConfigError(f"{where} reads no text")
    try:
        return Check(section, module.build(options))
    except ImportError as error:
        raise ConfigError(plugins.missing_extra(where, error)) from error
