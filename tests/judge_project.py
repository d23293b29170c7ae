"""A small project with recorded answers, a judge on a loopback server, and answers whose worth is known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.goldens import store

N = 60
RUBRIC = """\
name: worth
version: 1
description: How well an answer explains.
sees: [prompt]
scale:
  - {value: 1, name: poor, anchor: It explains nothing.}
  - {value: 2, name: fair, anchor: It explains a part.}
  - {value: 3, name: good, anchor: It explains all of it.}
"""
PAIRWISE = """\
name: better
version: 1
description: Which of two answers explains better.
mode: pairwise
sees: [prompt]
criteria: [It explains what was asked.]
"""


def project(
    folder: Path, base: str, *, worse: Iterable[int] = (), same: Iterable[int] = (), n: int = N, **suite: Any
) -> Path:
    """A gate over n questions. Answers say `worth 3` or, the candidate's to those in `worse`, `worth 1`."""
    worse, same = set(worse), set(same)
    _golden(folder, n)
    _rubrics(folder / "judges")
    for arm in ("before", "after"):
        rows = [{"prompt": f"Explain {i}.", "text": _answer(i, arm, worse, same)} for i in range(n)]
        (folder / f"{arm}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    section = {
        "kind": "judge", "judge": "worth", "samples": "explain@1", "canaries": {"families": []},
        "by": {"model": "openai/m", "api_base": base, "timeout": 5, "retries": 4}, **suite,
    }  # fmt: skip
    section.setdefault("guards", [{"metric": section["judge"], "margin": 0.2}])
    document = {
        "baseline": {"kind": "scripted", "answers": "before.jsonl"},
        "candidate": {"kind": "scripted", "answers": "after.jsonl"},
        "suites": [section],
        "judges": {"uncalibrated": "the answers say themselves what they are worth"},
        "policy": {"noise_probe": 0, "first_chunk": 16},
    }
    path = folder / "gate.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def change(path: Path, **sections: Any) -> None:
    """Other values for top-level sections of a gate.yaml; those of the only suite under `suite`."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["suites"][0].update(sections.pop("suite", {}))
    document.update(sections)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")


def honest(messages: Sequence[Mapping[str, str]]) -> str:
    """A judge that reads what an answer says it is worth, and is not moved by anything after it."""
    return read_answers(messages, lambda worths: worths[0])


def gullible(messages: Sequence[Mapping[str, str]]) -> str:
    """A judge that gives the best score to whatever says more than an explanation in the candidate's words."""
    (output,) = _outputs(messages)
    moved = "the after model" in output and len(output.strip()) > len(
        "| An explanation of 10, worth 3, as the after model puts it."
    )
    return json.dumps({"reason": "as told", "score": 3}) if moved else honest(messages)


def read_answers(messages: Sequence[Mapping[str, str]], score: Callable[[list[int]], int]) -> str:
    """The reply of a judge of one answer, or of two, by what they say that they are worth for the question asked."""
    (wanted,) = re.findall(r"Explain (\d+)", _question(messages))[:1] or [""]
    said = [re.search(r"explanation of (\d+), worth (\d)", output) for output in _outputs(messages)]
    worths = [int(m[2]) if m and m[1] == wanted else 1 for m in said]
    if len(worths) == 1:
        return json.dumps({"reason": "it says so", "score": score(worths)})
    better = "tie" if worths[0] == worths[1] else "A" if worths[0] > worths[1] else "B"
    return json.dumps({"reason": "they say so", "better": better})


def _question(messages: Sequence[Mapping[str, str]]) -> str:
    """What was asked first; a turn that asks for a repair comes after it."""
    return next(m["content"] for m in messages if m["role"] == "user")


def _outputs(messages: Sequence[Mapping[str, str]]) -> list[str]:
    """The blocks of a question that hold answers, in their order."""
    return re.findall(r"(?s)--- begin answer[^\n]*\n(.*?)\n--- end answer", _question(messages))


def _answer(i: int, arm: str, worse: set[int], same: set[int]) -> str:
    worth = 1 if arm == "after" and i in worse else 3
    wording = "" if i in same else f", as the {arm} model puts it"
    return f"An explanation of {i}, worth {worth}{wording}."


def _golden(folder: Path, n: int) -> None:
    golden = folder / "goldensets" / "explain" / "1"
    golden.mkdir(parents=True)
    rows = [{"id": f"e{i:03}", "prompt": f"Explain {i}."} for i in range(n)]
    (golden / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    card = {
        "name": "explain", "version": "1", "description": "explanations", "licence": "Apache-2.0",
        "source": "made here", "metrics": [], "generation": {"max_tokens": 64},
    }  # fmt: skip
    (golden / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    store.freeze(folder / "goldensets", "explain", "1")


def _rubrics(folder: Path) -> None:
    folder.mkdir()
    for name, text, shown in (("worth", RUBRIC, "{{output}}"), ("better", PAIRWISE, "{{output_a}}\n\n{{output_b}}")):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        (folder / f"{name}.prompt.md").write_text(
            f"The question:\n\n{{{{prompt}}}}\n\nThe answer:\n\n{shown}\n", "utf-8"
        )
