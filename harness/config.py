"""`gate.yaml` as pydantic models, read with the line of every key so that an error can point at it.

A suite or subject section is narrowed later by its plugin's own `Options`; here only the parts that every kind has
are known. Paths in the file are relative to the file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import ConfigError, at, nearest
from harness.records import Estimand, content_hash

Lines = dict[tuple[str | int, ...], int]
Model = TypeVar("Model", bound=BaseModel)
Part = Literal["verdict", "sweep"]
"""Which samples of a suite: those that verdicts are made on, or those that choose among candidates before."""
Arm = Literal["baseline", "candidate"]
ARMS: tuple[Arm, ...] = get_args(Arm)


class Section(BaseModel):
    """A mapping in the file whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OpenSection(BaseModel):
    """A mapping whose remaining keys are its plugin's options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are not ours: what the plugin validates."""
        return dict(self.model_extra or {})


class SubjectSection(OpenSection):
    """A subject: `kind` is the plugin, `name` what reports call it."""

    kind: str = "local"
    name: str | None = None


class GuardSection(Section):
    """One metric of a suite and what it tolerates; whatever is left out comes from `policy`."""

    metric: str = Field(description="name of the metric, as the suite reports it")
    margin: float | None = Field(None, gt=0, description="largest tolerated drop, in score points (δ)")
    must_improve: float | None = Field(None, ge=0, description="demand a gain of more than this instead")
    alpha: float | None = Field(None, gt=0, lt=0.5, description="error level of this guard")
    max_failures: float | None = Field(None, ge=0, lt=1, description="share of pairs that may fail")
    required: bool = Field(True, description="false makes the guard advisory")
    veto: bool = Field(False, description="an advisory guard that blocks all the same once a regression is shown")
    critical_slices: tuple[str, ...] = Field((), description="slices that are required guards too")

    @model_validator(mode="after")
    def _one_direction(self) -> GuardSection:
        if self.margin is not None and self.must_improve is not None:
            raise ValueError("give margin or must_improve, not both")
        return self


class SuiteSection(OpenSection):
    """A suite: `kind` is the plugin, `guards` what is demanded of it (default: every metric, policy's margin)."""

    kind: str
    name: str | None = None
    estimand: Estimand | None = None
    guards: tuple[GuardSection, ...] = ()
    slices: bool = Field(True, description="report every slice as an advisory comparison")


class PolicySection(Section):
    """What holds for every guard that does not say otherwise."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    margin: Annotated[float, Field(gt=0)] = 0.02
    max_failures: Annotated[float, Field(ge=0, lt=1)] = 0.02
    sequential: bool = Field(True, description="stop as soon as every required guard is decided")
    seed: int = Field(0, description="mixed into the order of samples, fixed before any output exists")
    first_chunk: int = Field(64, ge=1, description="samples of a suite asked before the first look")
    growth: float = Field(1.5, ge=1, description="each chunk is this many times the one before, up to 2,048 samples")
    noise_probe: int = Field(16, ge=0, description="samples a suite asked twice of the baseline; 0 turns it off")


class JudgesSection(Section):
    """What a judge must have shown before a required guard may rest on it."""

    kappa: float = Field(0.4, ge=-1, lt=1, description="agreement with people: the lower bound of κ must reach this")
    labels: int = Field(100, ge=2, description="on at least this many held-out labels")
    uncalibrated: str = Field("", description="why a judge may be required here without calibration, in words")


class WearSection(Section):
    """What many candidates may take from a set: from its α, and from what it says of things beside its own samples."""

    candidates: int = Field(
        0, ge=0, description="share the α of guards that can err over so many candidates a set, then ask for a new one"
    )
    disclose: Literal["full", "ladder"] = Field(
        "full", description="ladder shows outcomes, and a gain only once it beats the best shown by a margin"
    )
    folder: str = Field("", description="where decisions are counted; by default the folder of the runs")


class GateConfig(Section):
    """A whole gate.yaml."""

    baseline: SubjectSection
    candidate: SubjectSection
    suites: Annotated[tuple[SuiteSection, ...], Field(min_length=1)]
    policy: PolicySection = PolicySection()
    judges: JudgesSection = JudgesSection()
    wear: WearSection = WearSection()
    training_data: tuple[str, ...] = Field((), description="files the adapter was trained on, for contamination")
    allow: frozenset[Literal["code-execution"]] = Field(frozenset(), description="what is off unless asked for by name")
    for_sweeps: float = Field(
        0.0, ge=0, lt=1, description="share of each suite kept for sweeps and looks, and out of every verdict"
    )
    out: str = Field("runs", description="folder that receives the run directories")
    cache: str = Field(".harness-cache", description="folder of the output cache")

    def section_digests(self) -> dict[str, str]:
        """SHA-256 (hex) of every section that says what is demanded, whichever subjects it is demanded of."""
        said = self.model_dump(mode="json", exclude={"baseline", "candidate", "out", "cache"})
        return {key: content_hash(sorted(value) if key == "allow" else value) for key, value in said.items()}


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration with where it came from, the command that gates it once more, and which samples it is about.

    `promoted` remembers what each `registry:…` stood for when it was first followed, so that all that is done with the
    configuration is done with the same promotion.
    """

    gate: GateConfig
    path: Path
    lines: Lines
    command: str = ""
    part: Part = "verdict"
    promoted: dict[str, Path | None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """Folder of the file, where its relative paths start."""
        return self.path.parent

    @property
    def stops_early(self) -> bool:
        """Whether a run ends once every guard is decided, before all samples are asked.

        Trials of a sweep are compared with each other, so all of them answer all samples; and behind a ladder the
        moment at which a run stopped would say how clear the case was.
        """
        return self.gate.policy.sequential and self.part == "verdict" and self.gate.wear.disclose == "full"

    def where(self, *keys: str | int) -> str:
        """`file:line: key.path` of a place in the file, for an error that is found later."""
        dotted = ".".join(str(k) for k in keys)
        return at(self.path, nearest_line(self.lines, keys)) + dotted


def load_gate(path: Path) -> LoadedConfig:
    """Read a gate.yaml.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest known one is named) or a wrong value.
    """
    gate, lines = read_model(path, GateConfig, "baseline, candidate and suites")
    return LoadedConfig(gate, path.resolve(), lines, f"harness gate {shlex.quote(path.name)}")


def read_model(path: Path, model: type[Model], keys: str) -> tuple[Model, Lines]:
    """One of our YAML files as its pydantic model, and the line of every key; `keys` names what it cannot be without.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest known one is named) or a wrong value.
    """
    document, lines = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{at(path)}expected a mapping with {keys}")
    try:
        return model.model_validate(document), lines
    except ValidationError as error:
        raise ConfigError(explain_at(error, model, path, lines)) from error


def read_yaml(path: Path) -> tuple[Any, Lines]:
    """Safe-load one YAML document, with the line (1-based) of every key and list item; duplicate keys are refused."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: Lines = {}
        if node is None:
            return None, lines
        _collect_lines(node, (), lines, path)
        return yaml.SafeLoader("").construct_document(node), lines
    except FileNotFoundError as error:
        raise ConfigError(f"{at(path)}no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{at(path)}cannot be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ConfigError(f"{at(path, line)}not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{at(path)}not valid YAML: {error}") from error


def _collect_lines(node: yaml.Node, prefix: tuple[str | int, ...], lines: Lines, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*prefix, str(key.value))
            if place in lines:
                raise ConfigError(f"{at(path, key.start_mark.line + 1)}key {key.value!r} is given twice")
            lines[place] = key.start_mark.line + 1
            _collect_lines(value, place, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*prefix, index)] = value.start_mark.line + 1
            _collect_lines(value, (*prefix, index), lines, path)


def nearest_line(lines: Lines, keys: tuple[str | int, ...]) -> int | None:
    """Line of the deepest of `keys` that the file has."""
    for end in range(len(keys), 0, -1):
        if keys[:end] in lines:
            return lines[keys[:end]]
    return None


def explain_at(error: ValidationError, model: type[BaseModel], path: Path, lines: Lines) -> str:
    """The first validation error of a file in one sentence, with its line."""
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # see `plugins.explain`
    keys: tuple[str | int, ...] = first["loc"]
    dotted = ".".join(str(k) for k in keys)
    prefix = at(path, nearest_line(lines, keys))
    if first["type"] == "extra_forbidden":
        return f"{prefix}unknown key {dotted!r}: {nearest(str(keys[-1]), _section(model, keys[:-1]).model_fields)}"
    if first["type"] == "missing":
        return f"{prefix}key {dotted!r} is missing"
    said = str(first["msg"]).removeprefix("Value error, ")
    return f"{prefix}{dotted}: {said}" if dotted else f"{prefix}{said}"


def _section(model: type[BaseModel], keys: tuple[str | int, ...]) -> type[BaseModel]:
    """The section that `keys` lead to from `model`."""
    for key in keys:
        field = model.model_fields.get(str(key))
        if field is not None:  # an index of a list leads nowhere by itself
            model = next(_sections(field.annotation), model)
    return model


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def json_schema() -> dict[str, Any]:
    """JSON schema of gate.yaml, for editors."""
    return GateConfig.model_json_schema()


def slug(text: str) -> str:
    """`text` as a file name: lower case, anything but letters, digits, dot, dash and underscore becomes a dash."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.") or "unnamed"
