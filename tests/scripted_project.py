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


def _parity(i: int) -> str:
    return "odd" if i % 2 else "even"
