"""Whatever a trace holds, its calls become rows that a golden set takes, or are left out by a reason."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.goldens.card import Card
from harness.goldens.rows import read_samples
from harness.records import Generate
from harness.suites._frozen import request
from harness.traces.freezing._album import Album, LeftOut
from harness.traces.freezing._results import results_for
from harness.traces.freezing._rows import RowOptions, line_of, row_of, sample_of
from harness.traces.normal import normalise
from harness.traces.records import Call, ChatMessage, Parameters, Part, Tool, ToolCall
from tests.trace_fuzz import MARKS, Fuzz

CARD = Card(name="production", version="1", description="d", licence="l", source="s", metrics=(), tags={"tag": "a tag"})
NAN, INFINITY = float("nan"), float("inf")
ODD: tuple[Any, ...] = (
    "", " ", "x", "\x00", "\ud800", "\x1b[2J", 0, -1, 2.5, NAN, INFINITY, True, None, {}, [], {"a": NAN}, "auto",
    {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {"type": 3}}}, "[" * 3000, 10**30,
)  # fmt: skip


def rows(calls: list[Call], path: Path) -> Counter[str]:
    """Write what can be frozen, read it back as a golden set does, and count what was left out."""
    left, lines = Counter[str](), {}
    album = Album(path.parent)
    for call in calls:
        try:
            made = row_of(call, results_for(call, calls), ("tag",), RowOptions(), album)
            sample_of(made)
            lines[made["id"]] = line_of(made)
        except LeftOut as reason:
            left[str(reason)] += 1
    if lines:
        path.write_bytes(b"".join(lines.values()))
        for sample in read_samples(path, CARD):
            asked = request(sample, CARD.generation, chat=True)
            assert isinstance(asked, Generate)
            assert sample.cluster
            assert sample.cluster.isprintable()
    return left


@pytest.mark.parametrize("dialect", sorted(MARKS))
def test_calls_of_broken_traces_become_rows_or_reasons(dialect: str, tmp_path: Path) -> None:
    for seed in range(60):
        made = Fuzz(seed, MARKS[dialect])
        calls = list(normalise(made.spans(), made.log_events(), tenant="t", pseudonym=str).calls)
        rows(calls, tmp_path / "samples.jsonl")


def test_calls_of_odd_values_become_rows_or_reasons(tmp_path: Path) -> None:
    written = 0
    for seed in range(1500):
        source = random.Random(seed)
        calls = [odd(source, number) for number in range(3)]
        left = rows(calls, tmp_path / "samples.jsonl")
        written += len(calls) - left.total()
    assert written > 100  # and not all of them were left out


def odd(source: random.Random, number: int) -> Call:
    def text() -> str:
        return str(source.choice([v for v in ODD if isinstance(v, str)] + ["words of a question"] * 12))

    def message(role: str) -> ChatMessage:
        kind = source.choice(["text"] * 12 + ["reasoning", "image", "other"])
        calls = (ToolCall(text(), source.choice(["{}", "", text(), '{"a": 1e999}', '{"a": 1}'])),)
        return ChatMessage(
            role, (Part(kind, text()),), calls if source.random() < 0.2 else (), source.choice(["", "c", text()])
        )

    roles = source.choices(["system", "user", "assistant", "tool", "developer", "odd"], [2, 6, 4, 3, 1, 1], k=3)
    tools = [Tool(source.choice(["f", text()]), text(), source.choice([{}, {"type": "object"}, {"type": 3}]))]
    values = {
        name: source.choice(ODD)
        for name in ("temperature", "top_p", "max_tokens", "seed", "tool_choice", "response_format", "choices")
    }
    parameters = Parameters(**values, stop=tuple(source.choices(["", "END", "\ud800"], k=2)))
    call = Call(
        "r", f"{number + 1:032x}", f"{source.randrange(1, 99):016x}", session=text(), time_ns=number,
        messages=(*map(message, roles), message("user")), tools=tuple(tools) if source.random() < 0.3 else (),
        outputs=(message("assistant"),), latency=source.choice([None, 1.0]),
    )  # fmt: skip
    return replace(call, parameters=parameters if source.random() < 0.5 else Parameters())
