"""A golden set to write, freeze and damage; shared by the tests of golden sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from harness import goldens

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "1 + 1 =", "target": "2"},
    {"id": "b", "prompt": "2 + 2 =", "target": ["4", "four"], "tags": ["even"], "cluster": "sums", "from": {"page": 3}},
    {"id": "c", "messages": TALK, "target": "Hi"},
    {"id": "d", "prompt": "Which?", "choices": ["x", "y", "z"], "target": 1},
]
CARD: dict[str, Any] = {
    "name": "sums", "version": "v1", "description": "Sums.", "licence": "CC0-1.0", "source": "written here",
    "metrics": ["exact_match", {"contains": {"mode": "all"}}], "tags": {"even": "even numbers"},
}  # fmt: skip


def write(root: Path, samples: list[dict[str, Any]] | bytes = ROWS, **card: Any) -> Path:
    """A draft with these rows (or these very bytes) and this card; returns its folder."""
    document = {**CARD, **card}
    folder = root / str(document["name"]) / str(document["version"])
    folder.mkdir(parents=True)
    content = samples if isinstance(samples, bytes) else "".join(json.dumps(r) + "\n" for r in samples).encode()
    (folder / "samples.jsonl").write_bytes(content)
    (folder / "card.yaml").write_text("# a comment that stays\n" + yaml.safe_dump(document, sort_keys=False))
    return folder


def frozen(root: Path, **card: Any) -> Path:
    folder = write(root, **card)
    goldens.freeze(root, folder.parent.name, folder.name)
    return folder
