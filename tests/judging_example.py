"""A rubric to write, load and damage, and cases to judge; shared by the tests of judging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.judging.records import Case
from harness.judging.rubric import Rubric, load_rubric
from harness.records import Sample

SCALE = [
    {"value": 1, "name": "bad", "anchor": "Nothing in it is right."},
    {"value": 2, "name": "middling", "anchor": "Some of it is right."},
    {"value": 3, "name": "good", "anchor": "All of it is right."},
]
FILE: dict[str, Any] = {
    "name": "quality", "version": 1, "description": "How good it is.", "sees": ["prompt", "context"],
    "criteria": ["It is right."], "scale": SCALE,
}  # fmt: skip
PROMPT = "The context:\n\n{{context}}\n\nThe question:\n\n{{prompt}}\n\nThe answer:\n\n{{output}}\n"
PAIR_FILE: dict[str, Any] = {
    "name": "better", "version": 1, "description": "Which is better.", "mode": "pairwise", "sees": ["conversation"],
    "criteria": ["It is right."],
}  # fmt: skip
PAIR_PROMPT = "The conversation:\n\n{{conversation}}\n\nFirst:\n\n{{output_a}}\n\nSecond:\n\n{{output_b}}\n"
SAMPLE = Sample("s1", "Which city?", ("Paris",), data={"context": "Paris is a city.", "reference": "Paris"})


def write(root: Path, prompt: str | None = PROMPT, **changed: Any) -> Path:
    """The rubric's two files with these keys changed (None: left out); returns the folder."""
    document = {k: v for k, v in {**FILE, **changed}.items() if v is not None}
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{FILE['name']}.yaml").write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    if prompt is not None:
        (root / f"{FILE['name']}.prompt.md").write_text(prompt, "utf-8")
    return root


def rubric(root: Path, prompt: str = PROMPT, **changed: Any) -> Rubric:
    return load_rubric("quality", write(root, prompt, **changed))


def pair_rubric(root: Path, prompt: str = PAIR_PROMPT, **changed: Any) -> Rubric:
    root.mkdir(parents=True, exist_ok=True)
    (root / "better.yaml").write_text(yaml.safe_dump({**PAIR_FILE, **changed}, sort_keys=False), "utf-8")
    (root / "better.prompt.md").write_text(prompt, "utf-8")
    return load_rubric("better", root)


def case(output: str = "Paris.", sample: Sample = SAMPLE, *answers: str) -> Case:
    return Case(sample, output, answers)
