"""`sweep.yaml` as pydantic models: which settings of a recipe are tried, between which bounds, and how often."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.config import Lines, Section, nearest_line, read_model
from harness.errors import at

Sampler = Literal["tpe", "nsga2", "random"]


class SettingSection(Section):
    """One setting: a range of numbers, or choices."""

    path: str = Field(description="place in the recipe, such as stages.0.settings.learning_rate or scope.rank")
    low: int | float | None = Field(None, description="two whole numbers give whole numbers; write 1.0 for others")
    high: int | float | None = None
    log: bool = Field(False, description="equal chances for equal ratios, as a learning rate needs it")
    choices: tuple[Any, ...] = Field((), description="values to choose from, instead of low and high")

    @model_validator(mode="after")
    def _one_kind(self) -> SettingSection:
        bounds = self.low is not None and self.high is not None
        if bounds == bool(self.choices) or (self.choices and not (self.low is None and self.high is None)):
            raise ValueError("give low and high, or choices")
        if self.choices and self.log:
            raise ValueError("log belongs to low and high")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError("log needs low above 0")
        if len({_label(choice) for choice in self.choices}) < len(self.choices):
            raise ValueError("a choice is given twice")
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """The path's parts."""
        return tuple(self.path.split("."))

    @property
    def corners(self) -> tuple[Any, ...]:
        """Values that stand for all: both ends, or every choice."""
        return self.choices or (self.low, self.high)

    def propose(self, trial: Any) -> Any:
        """A value for an Optuna trial; one that the trial has already, again."""
        if self.choices:
            values = {_label(choice): choice for choice in self.choices}
            return values[trial.suggest_categorical(self.path, list(values))]
        suggest = trial.suggest_int if self.whole else trial.suggest_float
        return suggest(self.path, self.low, self.high, log=self.log)

    def parameter(self, value: Any) -> Any | None:
        """What Optuna calls `value`, or None where it is not among those that are tried."""
        if self.choices:
            return next((_label(choice) for choice in self.choices if choice == value), None)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        inside = number and self.low is not None and self.high is not None and self.low <= value <= self.high
        return value if inside and (not self.whole or value == int(value)) else None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class SweepSection(Section):
    """A whole sweep.yaml."""

    recipe: str = Field("recipe.yaml", description="the recipe whose settings are tried; its gate has for_sweeps")
    settings: Annotated[tuple[SettingSection, ...], Field(min_length=1)]
    trials: int = Field(20, ge=1, description="trainings in all; raise it later to go on")
    sampler: Sampler = Field("tpe", description="tpe, or nsga2 for hundreds of trials; random for comparison")
    seed: int = Field(0, description="of what is proposed; the trainings have the recipe's")
    out: str = Field("sweep", description="folder that receives a folder for each trial, and the report")

    @model_validator(mode="after")
    def _settings_differ(self) -> SweepSection:
        paths = [setting.path for setting in self.settings]
        for index, path in enumerate(paths):
            if path in paths[:index]:
                raise ValueError(f"{path} is swept twice")
            if path.split(".")[0] in ("gate", "out", "seed"):
                raise ValueError(f"{path} is no setting of the training; trials differ in nothing but settings")
        return self


@dataclass(frozen=True, slots=True)
class LoadedSweep:
    """A sweep with where it came from."""

    sweep: SweepSection
    path: Path
    lines: Lines

    @property
    def recipe(self) -> Path:
        """The recipe's file."""
        return self.path.parent / self.sweep.recipe

    @property
    def out(self) -> Path:
        """The folder that receives everything."""
        return self.path.parent / self.sweep.out

    def where(self, *keys: str | int) -> str:
        """`file:line: key.path` of a place in the file, for an error that is found later."""
        return at(self.path, nearest_line(self.lines, keys)) + ".".join(str(k) for k in keys)


def load_sweep(path: Path) -> LoadedSweep:
    """Read a sweep.yaml.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest known one is named) or a wrong value.
    """
    sweep, lines = read_model(path, SweepSection, "recipe, settings and trials")
    return LoadedSweep(sweep, path.resolve(), lines)


def json_schema() -> dict[str, Any]:
    """JSON schema of sweep.yaml, for editors."""
    return SweepSection.model_json_schema()


def _label(choice: Any) -> str | int | float | bool | None:
    """A choice as Optuna stores it: a scalar as it is, anything else as JSON."""
    return choice if choice is None or isinstance(choice, str | int | float | bool) else json.dumps(choice)
