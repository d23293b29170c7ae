"""The gate.yaml of the demo: every old skill may lose a little, the new one has to gain a lot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from harness.demo.frozen import CAPABILITY_SKILL, GOLDEN_SKILLS, TASKS, VERSION
from harness.demo.skills import NEW_SKILL
from harness.demo.training import MODEL

MARGIN = 0.05
"""Tolerated drop of an old skill, in score points."""

IMPROVEMENT = 0.3
"""Demanded gain of the new skill, in score points."""


def gate_document(
    folder: Path, adapter: Path, training_rows: Path | None, *, base: Path = MODEL, goldensets: Path | None = None
) -> dict[str, Any]:
    """The gate of `adapter` as a gate.yaml in `folder` says it; its paths are relative to that folder."""

    def place(path: Path) -> str:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()

    root = {} if goldensets is None else {"root": place(goldensets)}
    golden = [
        {"kind": "golden", "set": f"demo-{skill.name}@{VERSION}", **root, "guards": [_guard(skill.name)]}
        for skill in GOLDEN_SKILLS
    ]
    capability = {
        "kind": "capability",
        "task": place(TASKS / f"demo_{CAPABILITY_SKILL}.yaml"),
        "guards": [{"metric": "acc", "margin": MARGIN}],
    }
    return {
        "baseline": {"name": "base", "model": place(base), "device": "cpu", "batch_size": 64},
        "candidate": {
            "name": adapter.name,
            "model": place(base),
            "adapter": place(adapter),
            "device": "cpu",
            "batch_size": 64,
        },
        "suites": [*golden, capability],
        "training_data": [] if training_rows is None else [place(training_rows)],
    }


def _guard(skill: str) -> dict[str, Any]:
    if skill == NEW_SKILL.name:
        return {"metric": "exact_match", "must_improve": IMPROVEMENT}
    return {"metric": "exact_match", "margin": MARGIN}


def write_gate(
    path: Path, adapter: Path, training_rows: Path | None = None, *, base: Path = MODEL, goldensets: Path | None = None
) -> Path:
    """Write `gate_document` to `path` and return it."""
    document = gate_document(path.parent, adapter, training_rows, base=base, goldensets=goldensets)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")
    return path
