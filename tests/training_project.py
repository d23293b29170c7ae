"""A whole project around a tiny model: a frozen golden set, a gate.yaml, training rows and a recipe.yaml."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.progress import Silent
from harness.training.recipe import LoadedRecipe, load_recipe
from harness.training.run import TrainingResult, train
from tests import objective_jobs as jobs
from tests.scripted_project import project

N = 8
SETTINGS: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2, "max_length": 64}


class Told(Silent):
    """Remembers what a run says."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


def write_gate(folder: Path, model: Path, *, n: int = N, **policy: Any) -> Path:
    """A gate whose baseline is the bare model; what the random model answers is wrong before and after."""
    folder.mkdir(parents=True, exist_ok=True)
    path = project(folder, n=n, **{"sequential": False, **policy})
    edit(path, baseline={"model": str(model), "device": "cpu"}, candidate={"model": str(model), "device": "cpu"})
    return path


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.name


def stage(name: str, kind: str, rows: str, **more: Any) -> dict[str, Any]:
    """A stage of two steps on all rows of a file."""
    settings = {**SETTINGS, **more.pop("settings", {})}
    data = {"train": [{"path": rows}], "validation": 0, "near_duplicates": None, **more.pop("data", {})}
    return {
        "name": name, "objective": {"kind": kind, **more.pop("options", {})}, "data": data, "settings": settings,
        "forgetting": {"guard": None}, **more,
    }  # fmt: skip


def write_recipe(folder: Path, model: Path, stages: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    """recipe.yaml beside gate.yaml."""
    scope = more.pop("scope", "lora")
    given = {"kind": scope, **jobs.SMALL.get(scope, {})} if isinstance(scope, str) else scope
    document = {
        "base": {"model": str(model), "device": "cpu"}, "scope": given, "stages": [dict(s) for s in stages],
        "gate": "gate.yaml", **more,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def edit(path: Path, **sections: Any) -> None:
    """Put other sections into a YAML file."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**document, **sections}, sort_keys=False), encoding="utf-8")


def sft(folder: Path, model: Path, **more: Any) -> Path:
    """A project whose recipe is one stage of sft with LoRA; returns the recipe."""
    write_gate(folder, model)
    rows = write_rows(folder / "rows.jsonl", jobs.rows("completion", 16))
    top = {key: more.pop(key) for key in ("scope", "seed", "merge", "out") if key in more}
    return write_recipe(folder, model, [stage("sft", "sft", rows, **more)], **top)


def run(recipe: Path, told: Told | None = None) -> TrainingResult:
    """Train it. What is imported is left out of garbage collections, which take half of a tiny training's time."""
    gc.freeze()
    return train(load_recipe(recipe), told or Told())


def loaded(recipe: Path) -> LoadedRecipe:
    return load_recipe(recipe)


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "harness.json").read_text(encoding="utf-8"))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def curve(folder: Path) -> list[float]:
    """Training losses by step."""
    return [point["loss"] for point in record(folder)["losses"] if point["kind"] == "train"]
