"""Rows that models make: `harness data distill` and `harness data label`, against a server on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from tests.loopback_model import Fault, LoopbackModel, Messages, Said


@pytest.fixture
def server() -> Iterator[LoopbackModel]:
    with LoopbackModel() as made:
        yield made


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


def distil(server: LoopbackModel, prompts: str, out: Path, *more: object) -> int:
    return run("data", "distill", prompts, "--model", "openai/m", "--api-base", server.base, "--out", out, *more)


def label(server: LoopbackModel, pairs: str, out: Path, *more: object) -> int:
    asked = ("--judge", "preference", "--model", "openai/m", "--api-base", server.base, "--out", out)
    return run("data", "label", pairs, *asked, *more)


def test_a_teachers_answers_become_rows_that_a_recipe_reads(
    server: LoopbackModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "user", "content": "In a chat?"}]
    prompts = write(tmp_path / "p.jsonl", [{"prompt": "One?", "completion": "old"}, {"prompt": "Two?"}])
    assert distil(server, prompts, tmp_path / "rows.jsonl", "--system", "Be brief.", "--json") == 0
    assert read(tmp_path / "rows.jsonl") == [
        {"prompt": "One?", "completion": "echo One?"},
        {"prompt": "Two?", "completion": "echo Two?"},
    ]
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["asked"], said["failures"], said["cut"], said["empty"]) == (2, 2, {}, 0, 0)
    chats = write(tmp_path / "c.jsonl", [{"prompt": turns}])
    assert distil(server, chats, tmp_path / "chats.jsonl") == 0
    assert read(tmp_path / "chats.jsonl") == [
        {"prompt": turns, "completion": [{"role": "assistant", "content": "echo In a chat?"}]}
    ]


def test_what_became_of_every_answer_is_told(
    server: LoopbackModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(messages: Messages) -> str | Said | Fault:
        text = messages[-1]["content"]
        return Said("half", "length") if text == "1?" else Fault("400") if text == "2?" else "fine"

    server.answer = answer
    prompts = write(tmp_path / "p.jsonl", [{"prompt": f"{n}?"} for n in range(5)] + [{"prompt": "  "}])
    assert distil(server, prompts, tmp_path / "rows.jsonl", "--max-failures", 0.3) == 0
    said = capsys.readouterr().out
    assert "3 rows of 5 answers to 6 prompts" in said
    for line in ("1 answers ran into --max-tokens", "1 prompts were empty", "1 requests stayed without an answer"):
        assert line in said


def test_repeating_a_distillation_asks_only_for_what_failed_and_too_many_failures_write_nothing(
    server: LoopbackModel, tmp_path: Path
) -> None:
    server.answer = lambda messages: Fault("400") if messages[-1]["content"] in ("1?", "2?") else "fine"
    prompts, out = write(tmp_path / "p.jsonl", [{"prompt": f"{n}?"} for n in range(4)]), tmp_path / "rows.jsonl"
    assert distil(server, prompts, out) == 4
    assert not out.exists()
    server.answer = lambda messages: "fine"
    before = len(server.asked)
    assert distil(server, prompts, out) == 0
    assert sorted(server.questions[before:]) == ["1?", "2?"]
    assert len(read(out)) == 4


def test_rows_that_are_there_are_not_overwritten_and_bad_prompts_name_their_line(
    server: LoopbackModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = write(tmp_path / "p.jsonl", [{"prompt": "One?"}, {"question": "Two?"}]), tmp_path / "rows.jsonl"
    assert distil(server, prompts, out) == 2
    assert "p.jsonl:2" in capsys.readouterr().err
    out.write_text("mine")
    assert distil(server, prompts, out) == 2
    assert out.read_text() == "mine"
    assert distil(server, str(tmp_path / "none.jsonl"), tmp_path / "b.jsonl") == 2
    assert "there is no file" in capsys.readouterr().err
    assert not server.asked


def _judging(better: str) -> Any:
    """A judge that prefers the answer with this word in it, wherever it stands; without one the first place."""

    def answer(messages: Messages) -> str:
        text = "\n".join(m["content"] for m in messages)
        if "draw" in text:
            return json.dumps({"reason": "the same", "better": "tie"})
        places = [text.find(word) for word in (f"{better} one", "worse one")]
        first = "A" if -1 in places or places[0] < places[1] else "B"
        return json.dumps({"reason": "as told", "better": first})

    return answer


PAIRS = [
    {"prompt": "Which?", "answers": ["worse one", "better one"]},
    {"prompt": "Which way?", "chosen": "better one", "rejected": "worse one"},
    {"prompt": "Where?", "answers": ["left", "right"]},
    {"prompt": "Who?", "answers": ["draw a", "draw b"]},
]


def test_pairs_are_labelled_where_both_orders_agree_and_the_bias_towards_a_place_is_told(
    server: LoopbackModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = _judging("better")
    pairs = write(tmp_path / "pairs.jsonl", PAIRS)
    assert label(server, pairs, tmp_path / "rows.jsonl", "--json") == 0
    assert read(tmp_path / "rows.jsonl") == [
        {"prompt": "Which?", "chosen": "better one", "rejected": "worse one"},
        {"prompt": "Which way?", "chosen": "better one", "rejected": "worse one"},
    ]
    said = json.loads(capsys.readouterr().out)
    assert said["outcomes"] == {"second": 1, "first": 1, "prefers_first_place": 1, "tie": 1}
    assert (said["consistent"], said["position_bias"]) == (0.75, 0.25)
    before = len(server.asked)
    assert label(server, pairs, tmp_path / "again.jsonl") == 0
    assert len(server.asked) == before, "a judgement was paid for twice"
    assert "1 went to the first place both times" in capsys.readouterr().out


def test_a_judge_that_grades_and_rows_without_two_answers_are_refused(
    server: LoopbackModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [*PAIRS, {"prompt": "What?", "answers": ["one"]}])
    out = tmp_path / "rows.jsonl"
    assert label(server, pairs, out) == 2
    assert "pairs.jsonl:5" in capsys.readouterr().err
    assert label(server, pairs, out, "--judge", "helpfulness") == 2
    assert "grades one answer" in capsys.readouterr().err
    assert not server.asked
