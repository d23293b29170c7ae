"""The careless recipes, and what each arm adds to them: one thing, of a strength that is chosen beforehand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from harness.demo.project import different, write_open_gate, write_rows
from harness.demo.skills import NEW_SKILL, OLD_SKILLS
from harness.demo.training import MODEL
from harness.records import content_hash

CARELESS = "careless"
STAGE = "skill"
HELD_BACK = 0.3  # of every suite: what strengths are chosen on, what the guard looks at, and what no figure is of
PER_SKILL = 160  # rows; of capitals and opposites there are not many more
PATIENCE = 2  # of the guard: a skill may be lost for a while, early in a training, and come back
WORDS = ("reverse", "upper", "spell", "last", "capitals", "opposites")


@dataclass(frozen=True, slots=True)
class Setting:
    """A careless recipe: `new` rows of the new skill, and `PER_SKILL` of each old skill that is `practised`.

    The learning rate rises for `warmup` steps and falls to 0 along a cosine.
    """

    name: str
    title: str
    steps: int
    learning_rate: float
    new: int
    warmup: int = 10
    practised: Sequence[str] = ()
    batch: int = 16

    def rows(self, seed: int, folder: Path) -> None:
        """Write new.jsonl (the recipe's own rows) and broad.jsonl (all old skills: replay, and EWC's Fisher)."""
        rng = Random(seed)  # noqa: S311  # data, not a secret
        rows = different(NEW_SKILL, self.new, rng)
        for skill in OLD_SKILLS:
            rows += different(skill, PER_SKILL, rng) if skill.name in self.practised else []
        write_rows(folder / "new.jsonl", rows)
        write_rows(folder / "broad.jsonl", [row for skill in OLD_SKILLS for row in different(skill, PER_SKILL, rng)])

    def recipe(self, seed: int, arm: Arm, strength: float | None, *, guard: bool = False) -> dict[str, Any]:
        """The document of recipe.yaml; with `guard` a ForgettingGuard on top, that ends nothing early."""
        data: dict[str, Any] = {"train": [{"path": "new.jsonl"}], "validation": 0.02, "near_duplicates": None}
        forgetting: dict[str, Any] = {"guard": {"patience": self.steps} if guard else None}
        if strength is not None:
            arm.add(strength, data, forgetting)
        settings = {
            "max_steps": self.steps, "batch_size": self.batch, "learning_rate": self.learning_rate, "max_length": 64,
            "scheduler": "cosine", "warmup_steps": self.warmup, "adam_beta2": 0.99,
        }  # fmt: skip
        return {
            "base": {"model": str(MODEL), "device": "cpu"},
            "scope": {"kind": "lora", "rank": 16, "alpha": 32},
            "stages": [{"name": STAGE, "data": data, "settings": settings, "forgetting": forgetting}],
            "gate": "gate.yaml", "seed": seed,
        }  # fmt: skip


class Arm:
    """One thing added to the careless recipe, with the strengths that are tried for it, weakest first."""

    def __init__(self, name: str, title: str, strengths: Mapping[str, Sequence[float]]) -> None:
        """`strengths` by the name of the setting; of the guard it is what it may cost, as a share of the training."""
        self.name, self.title, self.strengths = name, title, strengths

    def add(self, strength: float, data: dict[str, Any], forgetting: dict[str, Any]) -> None:
        """Put it into a stage's sections."""
        if self.name == "replay":
            data["replay"] = {"sources": [{"path": "broad.jsonl"}], "share": strength, "repeat": True}
        elif self.name == "l2_sp":
            forgetting["l2_sp"] = strength
        elif self.name == "ewc":
            forgetting["ewc"] = {"strength": strength, "rows": [{"path": "broad.jsonl"}]}
        elif self.name == "guard":
            forgetting["guard"] = {"patience": PATIENCE, "cost": strength}
        elif self.name == "guard_lower":
            forgetting["guard"] = {"on_regression": "lower_rate", "cost": strength}


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(
            "high",
            "a learning rate that is too high; six of the nine old skills are practised",
            steps=240,
            learning_rate=8e-3,
            new=1000,
            warmup=20,
            practised=WORDS,
        ),
        Setting(
            "early", "nothing but the new skill, as the demo's careless adapter", steps=60, learning_rate=5e-3, new=960
        ),
    )
}
ARMS = (
    Arm(CARELESS, "careless", {}),
    Arm("replay", "replay", {"high": (0.4,), "early": (0.4, 0.6)}),
    Arm("l2_sp", "L2-SP", {"high": (0.01,), "early": (0.01, 0.1)}),
    Arm("ewc", "EWC", {"high": (1000.0, 3000.0), "early": (100.0, 1000.0)}),
    Arm("guard", "ForgettingGuard", {"high": (0.15,), "early": (0.15, 0.6)}),
    Arm("guard_lower", "ForgettingGuard, lower_rate", {"high": (0.15,), "early": (0.15,)}),
)


def write_project(
    folder: Path, setting: Setting, seed: int, arm: Arm, strength: float | None, *, guard: bool = False,
    sequential: bool = False,
) -> Path:  # fmt: skip
    """Rows, gate.yaml and recipe.yaml in `folder`; returns the recipe. Neighbours share the base's answers."""
    folder.mkdir(parents=True, exist_ok=True)
    setting.rows(seed, folder)
    write_open_gate(
        folder / "gate.yaml", for_sweeps=HELD_BACK, policy={"sequential": sequential},
        cache=os.path.relpath(folder.parent / "cache", folder),
    )  # fmt: skip
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(setting.recipe(seed, arm, strength, guard=guard)), encoding="utf-8")
    return recipe


def project_hash(folder: Path) -> str:
    """SHA-256 of what a project trains on and how, wherever it lies."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    rows = [(folder / name).read_text(encoding="utf-8") for name in ("new.jsonl", "broad.jsonl")]
    return content_hash([{**recipe, "base": None}, rows])
