"""A small project with recorded answers in place of a model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from harness.goldens import store

N = 120


def project(folder: Path, *, lost: Iterable[int] = (), n: int = N, silent: Iterable[int] = (), **policy: Any) -> Path:
    """A golden set of n sums, a baseline that knows all, a candidate that has lost some and is silent on others."""
    lost, silent = set(lost), set(silent)
    golden = folder / "goldensets" / "sums" / "1"
    golden.mkdir(parents=True)
    rows = [{"id": f"s{i:03}", "prompt": f"{i} + {i} =", "target": str(2 * i), "tags": [_parity(i)]} for i in range(n)]
    (golden / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    card = {
        "name": "sums", "version": "1", "description": "sums", "licence": "Apache-2.0", "source": "made here",
        "metrics": ["exact_match"], "generation": {"max_tokens": 8, "until": ["\n"]},
        "tags": {"even": "an even number", "odd": "an odd number"},
    }  # fmt: skip
    (golden / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    store.freeze(folder / "goldensets", "sums", "1")
    for arm, wrong, absent in (("before", set(), set()), ("after", lost, silent)):
        said = [i for i in range(n) if i not in absent]
        answers = [{"prompt": f"{i} + {i} =", "text": "?" if i in wrong else str(2 * i)} for i in said]
        (folder / f"{arm}.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers), encoding="utf-8")
    document = {
        "baseline": {"kind": "scripted", "answers": "before.jsonl", "log": "asked-baseline.log"},
        "candidate": {"kind": "scripted", "answers": "after.jsonl", "log": "asked-candidate.log"},
        "suites": [{"kind": "golden", "set": "sums@1", "guards": [{"metric": "exact_match", "margin": 0.05}]}],
        "policy": {"noise_probe": 0, "first_chunk": 16, **policy},
    }
    path = folder / "gate.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def add_suite(path: Path, name: str, n: int, *, lost: Iterable[int] = (), temperature: float = 0.0) -> None:
    """Another golden set of n questions in the project of a gate.yaml, answered by both sides like the sums."""
    folder, lost = path.parent, set(lost)
    golden = folder / "goldensets" / name / "1"
    golden.mkdir(parents=True)
    rows = [{"id": f"{name}{i:03}", "prompt": f"{name} {i}:", "target": str(i)} for i in range(n)]
    (golden / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    card = {
        "name": name, "version": "1", "description": name, "licence": "Apache-2.0", "source": "made here",
        "metrics": ["exact_match"], "generation": {"max_tokens": 8, "until": ["\n"], "temperature": temperature},
    }  # fmt: skip
    (golden / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    store.freeze(folder / "goldensets", name, "1")
    for arm, wrong in (("before", set()), ("after", lost)):
        with open(folder / f"{arm}.jsonl", "a", encoding="utf-8") as stream:
            for i in range(n):
                stream.write(json.dumps({"prompt": f"{name} {i}:", "text": "?" if i in wrong else str(i)}) + "\n")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    guards = [{"metric": "exact_match", "margin": 0.05}]
    document["suites"].append({"kind": "golden", "set": f"{name}@1", "guards": guards})
    path.write_text(yaml.safe_dump(document), encoding="utf-8")


def another_candidate(path: Path, name: str, *, wrong: Iterable[int] = (), say: str = "?") -> Path:
    """A file of answers beside a gate.yaml: the baseline's, but for what it says to the sums in `wrong`."""
    wrong = {f"{i} + {i} =" for i in wrong}
    file = path.parent / name
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in (path.parent / "before.jsonl").read_text(encoding="utf-8").splitlines()]
    # A question that nobody asks tells two candidates with the same answers apart.
    rows.append({"prompt": f"Who are you, {name}?", "text": name})
    changed = [{**row, "text": say} if row["prompt"] in wrong else row for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in changed), encoding="utf-8")
    return file


def _parity(i: int) -> str:
    return "odd" if i % 2 else "even"
