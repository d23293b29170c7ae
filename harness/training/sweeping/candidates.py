"""A recipe with other settings: values set by their paths in the document that the user wrote, and checked again."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness import plugins
from harness.adapters import file_hash
from harness.config import explain_at, read_yaml
from harness.errors import ConfigError
from harness.records import content_hash
from harness.runs import write_text
from harness.training.recipe import LoadedRecipe, Recipe, SourceSection, load_recipe
from harness.training.sweeping.section import LoadedSweep

Values = Mapping[str, Any]
"""Settings of a trial by their paths."""


@dataclass(frozen=True, slots=True)
class Template:
    """The recipe that is swept: as it was read, and as the document that it was read from."""

    loaded: LoadedRecipe
    document: Mapping[str, Any]

    def recipe(self, values: Values, out: Path) -> LoadedRecipe:
        """The recipe of a trial. No stage has a gate of its own there: trials are compared by what they end in.

        Raises:
            ConfigError: the recipe does not allow these values.
        """
        recipe = self._validated(self._with(values))
        stages = tuple(stage.model_copy(update={"gate": False}) for stage in recipe.stages)
        changed = recipe.model_copy(update={"stages": stages, "out": os.path.relpath(out, self.loaded.folder)})
        return replace(self.loaded, recipe=changed)

    def given(self, path: str) -> Any:
        """The value that the recipe itself has at a path, its default if it says nothing; None where there is none."""
        value: Any = self.loaded.recipe
        keys = path.split(".")
        if keys[0] == "scope" and keys[1:] != ["kind"]:
            scope = self.loaded.recipe.scope
            value, keys = plugins.options("training.scopes", scope.kind, scope.options, where="scope"), keys[1:]
        for key in keys:
            if isinstance(value, tuple):
                value = _item(value, key, [getattr(item, "name", None) for item in value])
            else:
                value = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
        return value

    def check(self, path: str, value: Any) -> None:
        """Refuse a place that the recipe does not have, or a value that it does not allow there.

        Raises:
            ConfigError: with the reason.
            PluginError: an option that the scope or objective does not have.
        """
        recipe = self._validated(self._with({path: value}))
        plugins.options("training.scopes", recipe.scope.kind, recipe.scope.options, where="scope")
        for index, stage in enumerate(recipe.stages):
            kind, options = stage.objective.kind, stage.objective.options
            plugins.options("training.objectives", kind, options, where=f"stages.{index}.objective")

    def write(self, values: Values, out: Path, path: Path, remark: str) -> None:
        """Write a recipe.yaml that trains with these values into `out`, beside the one that is swept."""
        document = self._with(values) | {"out": os.path.relpath(out, self.loaded.folder)}
        lines = "".join(f"# {line}\n" for line in remark.splitlines())
        write_text(path, lines + yaml.safe_dump(document, sort_keys=False, allow_unicode=True))

    def rows(self) -> dict[str, str]:
        """SHA-256 of the files of rows by path; a dataset by its name and revision, which is all that is known here."""
        return {
            source.path or f"{source.dataset}": self._digest(source)
            for stage in self.loaded.recipe.stages
            for source in (*stage.data.train, *(stage.data.replay.sources if stage.data.replay else ()))
        }

    def _digest(self, source: SourceSection) -> str:
        if source.path is None:
            return f"{source.revision}"
        path = self.loaded.folder / source.path
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return content_hash({p.name: file_hash(p) for p in files if p.is_file()})

    def _with(self, values: Values) -> dict[str, Any]:
        document: dict[str, Any] = copy.deepcopy(dict(self.document))
        for path, value in values.items():
            _set(document, tuple(path.split(".")), value)
        return document

    def _validated(self, document: Mapping[str, Any]) -> Recipe:
        try:
            return Recipe.model_validate(document)
        except ValidationError as error:
            raise ConfigError(explain_at(error, Recipe, self.loaded.path, self.loaded.lines)) from error


def read_template(loaded: LoadedSweep) -> Template:
    """The recipe of a sweep, after every setting's bounds or choices were tried on it.

    Raises:
        ConfigError: the recipe cannot be read, or has no such setting, or does not allow one of its values.
    """
    template = Template(load_recipe(loaded.recipe), read_yaml(loaded.recipe)[0])
    for index, setting in enumerate(loaded.sweep.settings):
        for value in setting.corners:
            try:
                template.check(setting.path, value)
            except ConfigError as error:
                raise ConfigError(f"{loaded.where('settings', index)}: {setting.path} = {value}: {error}") from error
    return template


def _set(document: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    """Set a value in place; mappings on the way that the user did not write are made."""
    place: Any = document
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(place, list):
            names = [item.get("name") if isinstance(item, Mapping) else None for item in place]
            found = _item(place, key, names)
            if found is None or last:
                raise ConfigError(f"there is no {'.'.join(keys[: depth + 1])} to set")
            place = found
        elif not isinstance(place, dict):
            raise ConfigError(f"{'.'.join(keys[:depth])} is no section")
        elif last:
            place[key] = value
        else:
            place[key] = {} if place.get(key) is None else place[key]
            place = place[key]


def _item(items: Any, key: str, names: list[Any]) -> Any | None:
    """An item of a list by its number or its name."""
    if key in names:
        return items[names.index(key)]
    return items[int(key)] if key.isdigit() and int(key) < len(items) else None


def beside(recipe: Path) -> Path:
    """Where the recommended recipe is written: beside the swept one, so that the paths in it stay right."""
    return recipe.with_name(f"{recipe.stem}-swept.yaml")
