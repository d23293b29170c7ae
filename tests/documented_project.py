"""The project that the tutorial describes, from the files that it shows, with recorded answers in place of models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from harness.goldens import store
from tests.documentation import ROOT, blocks

TUTORIAL = ROOT / "docs" / "tutorial.md"


def documented_project(folder: Path) -> None:
    """The tutorial's files, recorded answers in place of models, and the files of scores that docs/scores.md names."""
    written = tutorial_files(folder)
    document = yaml.safe_load(written["gate.yaml"])
    asked = read_lines(folder / "goldensets" / "support-tone" / "1" / "samples.jsonl")
    kept = read_lines(folder / "goldensets" / "house-style" / "1" / "samples.jsonl")
    knows = [(row["prompt"], _first(row["target"])) for row in asked]
    keeps = [(row["prompt"], _first(row["target"])) for row in kept]
    wrong = [(prompt, "?") for prompt, _ in knows]
    for name, answers in (("before", wrong + keeps), ("after", knows + keeps)):
        write_answers(folder / f"{name}.jsonl", name, answers)
    for name in ("support-v4", "a", "b"):
        write_answers(folder / "adapters" / name, name, knows + keeps)
    document["baseline"] = {"kind": "scripted", "answers": "before.jsonl"}
    document["candidate"] = {"kind": "scripted", "answers": "after.jsonl"}
    (folder / "gate.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    write_scores(folder)


def tutorial_files(folder: Path) -> dict[str, str]:
    """The blocks of the tutorial that have a title, each written where it says, and what is left to the reader."""
    written = {block.title: block.text for block in blocks("yaml", "json", page=TUTORIAL) if block.title}
    samples, card = (written[f"goldensets/support-tone/1/{name}"] for name in ("samples.jsonl", "card.yaml"))
    style = {**yaml.safe_load(card), "name": "house-style"}
    written["goldensets/house-style/1/card.yaml"] = yaml.safe_dump(style)
    written["goldensets/house-style/1/samples.jsonl"] = samples.replace("Intent:", "Answer in our style:")
    written["data/train.jsonl"] = json.dumps({"prompt": "Where do I find my invoice?", "completion": " invoice"}) + "\n"
    for name, text in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    store.freeze(folder / "goldensets", "house-style", "1")
    return written


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _first(target: str | list[str]) -> str:
    return target if isinstance(target, str) else target[0]


def write_answers(path: Path, name: str, answers: Sequence[tuple[str, str]]) -> None:
    """A recorded subject; a question that nobody asks tells two with the same answers apart."""
    said = [*answers, (f"Who are you, {name}?", name)]
    write_lines(path, [{"prompt": prompt, "text": text} for prompt, text in said])


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_scores(folder: Path) -> None:
    """Scores of 120 samples in each form that `harness compare` is shown with; the candidate has half of them more."""
    for index, old in enumerate((True, False)):
        scores = [0 if old and i % 2 else 1 for i in range(120)]
        ids = [f"s{i}" for i in range(120)]
        lines = "".join(f"{i},{score}\n" for i, score in zip(ids, scores, strict=True))
        (folder / ("baseline.csv", "candidate.csv")[index]).write_text(f"sample_id,score\n{lines}", encoding="utf-8")
        table = pa.table({"sample_id": ids, "score": [100.0 * score for score in scores]})
        pq.write_table(table, folder / ("a.parquet", "b.parquet")[index])
        graded = [{"sample_id": i, "score": 1 + 4 * score} for i, score in zip(ids, scores, strict=True)]
        write_lines(folder / ("old.scores.jsonl", "new.scores.jsonl")[index], graded)
        logged = [
            {"doc_id": i, "doc_hash": f"h{i}", "filtered_resps": [], "filter": "none", "metrics": ["acc"], "acc": score}
            for i, score in enumerate(scores)
        ]
        log = "samples_mmlu_2026-03-01T00-00-00.000000.jsonl"
        write_lines(folder / ("lm_eval_base", "lm_eval_adapter")[index] / log, logged)
