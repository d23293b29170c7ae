"""The careless recipes, and what each arm adds to them: one thing, of a strength that is chosen beforehand."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

import yaml

from harness import assets
from harness.demo.gates import write_gate
from harness.demo.skills import NEW_SKILL, OLD_SKILLS, Question, Skill, training_questions
from harness.demo.training import MODEL

CARELESS = "careless"
STAGE = "skill"
HELD_BACK = 0.3  # of every suite: what strengths are chosen on, what the guard looks at, and what no figure is of
NUMBERS = ("add", "larger", "sort")


@dataclass(frozen=True, slots=True)
class Setting:
    """A careless recipe. `practice` is the share of its rows that ask for old skills, none of which is in `left_out`."""

    name: str
    title: str
    steps: int
    learning_rate: float
    practice: float = 0.0
    left_out: Sequence[str] = ()
    batch: int = 16

    def rows(self, seed: int, folder: Path) -> None:
        """Write new.jsonl (the recipe's own rows) and broad.jsonl (all old skills: replay, and EWC's Fisher)."""
        rng = Random(seed)  # noqa: S311  # data, not a secret
        total = self.steps * self.batch
        practised = round(total * self.practice)
        new = islice(training_questions(NEW_SKILL, rng), total - practised)
        some = [skill for skill in OLD_SKILLS if skill.name not in self.left_out]
        _write(folder / "new.jsonl", [*new, *islice(_in_turns(some, rng), practised)])
        _write(folder / "broad.jsonl", list(islice(_in_turns(OLD_SKILLS, rng), total)))

    def recipe(self, seed: int, arm: Arm, strength: float | None, *, guard: bool = False) -> dict[str, Any]:
        """The document of recipe.yaml; `guard` puts a ForgettingGuard at its defaults on top of the arm."""
        data: dict[str, Any] = {"train": [{"path": "new.jsonl"}], "validation": 0.02, "near_duplicates": None}
        forgetting: dict[str, Any] = {"guard": {} if guard else None}
        if strength is not None:
            arm.add(strength, data, forgetting)
        settings = {
            "max_steps": self.steps, "batch_size": self.batch, "learning_rate": self.learning_rate, "max_length": 64,
            "scheduler": "constant_with_warmup", "warmup_steps": 10, "adam_beta2": 0.99,
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
        """`strengths` by the name of the setting."""
        self.name, self.title, self.strengths = name, title, strengths

    def add(self, strength: float, data: dict[str, Any], forgetting: dict[str, Any]) -> None:
        """Put it into a stage's sections."""
        if self.name == "replay":
            data["replay"] = {"sources": [{"path": "broad.jsonl"}], "share": strength}
        elif self.name == "l2_sp":
            forgetting["l2_sp"] = strength
        elif self.name == "ewc":
            forgetting["ewc"] = {"strength": strength, "rows": [{"path": "broad.jsonl"}]}
        elif self.name == "guard":
            forgetting["guard"] = {"patience": int(strength)}


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("late", "rate too high for too long, six of nine old skills practised", 400, 4e-3, 0.4, NUMBERS),
        Setting("early", "nothing but the new skill, as the demo's careless adapter", 60, 5e-3),
    )
}
ARMS = (
    Arm(CARELESS, "careless", {}),
    Arm("replay", "replay", {"late": (0.1, 0.2, 0.4), "early": (0.2, 0.4, 0.6)}),
    Arm("l2_sp", "L2-SP", {"late": (0.001, 0.01, 0.1), "early": (0.001, 0.01, 0.1)}),
    Arm("ewc", "EWC", {"late": (0.1, 1.0, 10.0), "early": (0.1, 1.0, 10.0)}),
    Arm("guard", "ForgettingGuard", {"late": (1, 2, 4), "early": (1, 2, 4)}),
)


def write_project(
    folder: Path, setting: Setting, seed: int, arm: Arm, strength: float | None, *, guard: bool = False,
    sequential: bool = False,
) -> Path:  # fmt: skip
    """Rows, gate.yaml and recipe.yaml in `folder`; returns the recipe. All projects beside it share the base's answers."""
    folder.mkdir(parents=True, exist_ok=True)
    setting.rows(seed, folder)
    path = write_gate(folder / "gate.yaml", folder / "none", goldensets=assets.shipped("goldensets"))
    gate = yaml.safe_load(path.read_text(encoding="utf-8"))
    del gate["candidate"]["adapter"]  # `train` puts in what it has trained
    gate |= {
        "for_sweeps": HELD_BACK,
        "policy": {"sequential": sequential},
        "cache": os.path.relpath(folder.parent / "cache", folder),
    }
    path.write_text(yaml.safe_dump(gate, sort_keys=False), encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(setting.recipe(seed, arm, strength, guard=guard)), encoding="utf-8")
    return recipe


def _in_turns(skills: Sequence[Skill], rng: Random) -> Iterator[Question]:
    streams = [training_questions(skill, rng) for skill in skills]
    for stream in cycle(streams):
        yield next(stream)


def _write(path: Path, questions: Sequence[Question]) -> None:
    rows = [json.dumps({"prompt": q.prompt, "completion": f" {q.answer}"}) + "\n" for q in questions]
    path.write_text("".join(rows), encoding="utf-8")
