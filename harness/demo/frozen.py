"""What the demo's gates ask: golden sets and a capability task, written by `python -m harness.demo.frozen`.

The files are committed; writing them again gives the same bytes. Every question here is one that `Skill.kept` keeps
out of training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from harness.demo.answers import MAX_TOKENS
from harness.demo.facts import OPPOSITE_QUESTIONS, OPPOSITES
from harness.demo.skills import NEW_SKILL, OLD_SKILLS, Question, Skill, ask_opposite, skill_named

VERSION = "1"
SAMPLES = 240
"""Samples of a golden set."""

CAPABILITY_SKILL = "opposites"
"""The skill that the capability task asks about; every other one has a golden set."""

GOLDEN_SKILLS: tuple[Skill, ...] = (*(s for s in OLD_SKILLS if s.name != CAPABILITY_SKILL), NEW_SKILL)
TASKS = Path(__file__).parent / "tasks"
_SHOTS = 16
_CHOICES = 4


def golden_questions(skill: Skill, count: int = SAMPLES) -> list[Question]:
    """The frozen questions of a skill: different ones, in the order in which a fixed seed draws them."""
    rng = Random(f"golden {skill.name} {VERSION}")  # noqa: S311  # data, not a secret
    questions: dict[str, Question] = {}
    for _ in range(1000 * count):
        question = skill.draw(rng)
        if skill.kept(question):
            questions.setdefault(question.prompt, question)
        if len(questions) == count:
            break
    return list(questions.values())


def write_golden(skill: Skill, root: Path) -> None:
    """Write `root/demo-<skill>/<version>/` with its samples and its card."""
    folder = root / f"demo-{skill.name}" / VERSION
    questions = golden_questions(skill)
    rows = [
        {"id": f"{skill.name}-{number:04}", "prompt": q.prompt, "target": q.answer, "tags": [q.tag]}
        for number, q in enumerate(questions, 1)
    ]
    used = {q.tag for q in questions}
    card = {
        "name": f"demo-{skill.name}",
        "version": VERSION,
        "description": skill.description,
        "licence": "Apache-2.0",
        "source": "Written by python -m harness.demo.frozen from a fixed seed; no question is ever trained on.",
        "metrics": ["exact_match"],
        "generation": {"max_tokens": MAX_TOKENS, "until": ["\n"]},
        "cluster_key": None,
        "tags": {tag: meaning for tag, meaning in skill.tags.items() if tag in used},
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_jsonl(folder / "samples.jsonl", rows)
    _write_yaml(folder / "card.yaml", card)


def write_capability(folder: Path) -> None:
    """Write the multiple-choice task for lm-eval: its rows, and shots that are no rows of it."""
    skill = skill_named(CAPABILITY_SKILL)
    rng = Random(f"capability {VERSION}")  # noqa: S311  # data, not a secret
    asked = [
        (ask_opposite(word, answer, form), word)
        for pair in OPPOSITES
        for word, answer in (pair, pair[::-1])
        for form in OPPOSITE_QUESTIONS
    ]
    test = [_choice_row(question, word, rng) for question, word in asked if skill.kept(question)]
    others = [item for item in asked if not skill.kept(item[0])]
    shots = [_choice_row(question, word, rng) for question, word in rng.sample(others, _SHOTS)]
    folder.mkdir(parents=True, exist_ok=True)
    _write_jsonl(folder / "demo_opposites_test.jsonl", test)
    _write_jsonl(folder / "demo_opposites_shots.jsonl", shots)
    _write_yaml(folder / "demo_opposites.yaml", _task())


def _choice_row(question: Question, word: str, rng: Random) -> dict[str, Any]:
    pool = [other for pair in OPPOSITES for other in pair if other not in (word, question.answer)]
    choices = [question.answer, *rng.sample(pool, _CHOICES - 1)]
    rng.shuffle(choices)
    return {"question": question.prompt, "choices": choices, "answer": choices.index(question.answer)}


def _task() -> dict[str, Any]:
    return {
        "task": "demo_opposites",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "demo_opposites_test.jsonl", "shots": "demo_opposites_shots.jsonl"}},
        "test_split": "test",
        "fewshot_split": "shots",
        "num_fewshot": 2,
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "fewshot_delimiter": "\n",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")


class _Dumper(yaml.SafeDumper):
    """Writes a line break as an escape, where YAML would fold it."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _write_yaml(path: Path, document: dict[str, Any]) -> None:
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    path.write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the demo's golden sets and capability task.")
    parser.add_argument("--goldensets", type=Path, required=True, help="folder that holds the golden sets")
    parser.add_argument("--tasks", type=Path, default=TASKS, help="folder that holds the lm-eval task")
    arguments = parser.parse_args()
    for skill in GOLDEN_SKILLS:
        write_golden(skill, arguments.goldensets)
    write_capability(arguments.tasks)


if __name__ == "__main__":
    main()
