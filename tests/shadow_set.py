"""A frozen set of replayable calls for tests, written row by row, and gates that replay it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness import goldens
from harness.goldens import call_key

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def row(number: int, question: str = "", **more: Any) -> dict[str, Any]:
    """One call, four to a session."""
    asked = [{"role": "user", "content": question or f"Question {number}?"}]
    trace = {"trace_id": f"{number:032x}", "span_id": f"{number:016x}", "run_id": f"run-{number}"}
    recorded = {"model": "m", "text": f"Answer {number}."}
    return {
        "id": f"c{number:03}", "messages": asked, "cluster": f"s{number // 4}", "parameters": {}, "recorded": recorded,
        "trace": trace, **more,
    }  # fmt: skip


def tool_row(number: int, city: str = "Rome", said: str = "31 °C", **more: Any) -> dict[str, Any]:
    """A call with a tool that production called once, with its result."""
    return row(
        number, f"Is it warm in {city}, {number}?", tools=[WEATHER],
        recorded={"model": "m", "text": "", "tool_calls": [{"name": "weather", "arguments": {"city": city}}]},
        results={call_key("weather", {"city": city}): said}, **more,
    )  # fmt: skip


def frozen(folder: Path, rows: Iterable[Mapping[str, Any]], **card: Any) -> Path:
    """The folder of the golden sets, with `production@1` in it."""
    root = folder / "goldensets"
    version = root / "production" / "1"
    version.mkdir(parents=True)
    (version / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    document = {
        "name": "production", "version": "1", "description": "calls", "licence": "none", "source": "traces",
        "metrics": [], "generation": {"max_tokens": 64}, **card,
    }  # fmt: skip
    (version / "card.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    goldens.freeze(root, "production", "1")
    return root


def gate(folder: Path, baseline: Mapping[str, Any], candidate: Mapping[str, Any], **suite: Any) -> Path:
    """A gate.yaml that replays `production@1`."""
    document = {
        "baseline": dict(baseline), "candidate": dict(candidate),
        "suites": [{"kind": "shadow", "set": "production@1", **suite}],
        "policy": {"noise_probe": 0, "first_chunk": 16, "margin": 0.05},
    }  # fmt: skip
    path = folder / "gate.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def scripted(folder: Path, name: str, answers: Mapping[str, str]) -> dict[str, Any]:
    """A subject that answers conversations, by their text, from a file."""
    rows = [{"prompt": prompt, "text": text} for prompt, text in answers.items()]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return {"kind": "scripted", "answers": f"{name}.jsonl", "log": f"{name}.log"}


def asked(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """How a scripted subject knows the conversations of rows."""
    return [_text(r["messages"]) for r in rows]


def _text(messages: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"{m['role']}: {m['content']}\n" for m in messages)
