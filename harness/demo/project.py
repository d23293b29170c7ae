"""The demo's model as a project of one's own: rows, frozen questions and a gate.yaml, to be trained with a recipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random

import yaml

from harness import assets
from harness.demo.gates import write_gate
from harness.demo.skills import NEW_SKILL, OLD_SKILLS, Question, Skill, training_questions
from harness.demo.training import MODEL
from harness.errors import ConfigError

NEW_ROWS, OLD_ROWS = 2000, 400  # of the new skill; of each old one, as far as it has so many
_DRAWS = 50  # for each row that is wanted: some skills have few questions, and most draws then repeat one


def different(skill: Skill, count: int, rng: Random) -> list[Question]:
    """Questions of a skill that no golden set asks, no two alike; fewer where it has no more."""
    found: dict[str, Question] = {}
    for question in islice(training_questions(skill, rng), _DRAWS * count):
        found.setdefault(question.prompt, question)
        if len(found) == count:
            break
    return list(found.values())


def write_rows(path: Path, questions: Sequence[Question]) -> None:
    """Rows of prompt and completion, one JSON object a line."""
    rows = [json.dumps({"prompt": q.prompt, "completion": f" {q.answer}"}) + "\n" for q in questions]
    path.write_text("".join(rows), encoding="utf-8")


def write_project(folder: Path, seed: int = 0) -> tuple[Path, ...]:
    """Write `model/`, `skill.jsonl`, `broad.jsonl` and `gate.yaml` into a new folder; returns their paths.

    Raises:
        ConfigError: there is something in the folder.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; name another folder, or one that is not there yet")
    rng = Random(seed)  # noqa: S311  # data, not a secret
    model, new, broad = folder / "model", folder / "skill.jsonl", folder / "broad.jsonl"
    shutil.copytree(MODEL, model)
    write_rows(new, different(NEW_SKILL, NEW_ROWS, rng))
    write_rows(broad, [question for skill in OLD_SKILLS for question in different(skill, OLD_ROWS, rng)])
    return model, new, broad, write_open_gate(folder / "gate.yaml", model)


def write_open_gate(path: Path, model: Path = MODEL, **sections: object) -> Path:
    """The demo's gate without an adapter, since `harness train` puts in what it has trained; returns the path."""
    write_gate(path, path.parent / "adapters", base=model, goldensets=assets.shipped("goldensets"))
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    del document["candidate"]["adapter"]
    path.write_text(yaml.safe_dump({**document, **sections}, sort_keys=False, width=110), encoding="utf-8")
    return path
