"""`harness judge run`: answers from a file into scores that `harness compare` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from tests.judge_project import honest, project
from tests.loopback_model import LoopbackModel


@pytest.fixture
def server() -> Iterator[LoopbackModel]:
    with LoopbackModel(honest) as serving:
        yield serving


@pytest.fixture
def folder(tmp_path: Path, server: LoopbackModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two files of 60 answers; those of the second are worse in 40 cases."""
    monkeypatch.chdir(tmp_path)
    project(tmp_path, server.base, judge="better")
    for name, worse in (("old", 0), ("new", 40)):
        rows = [
            {"sample_id": f"e{i:03}", "output": f"An explanation of {i}, worth {1 if i < worse else 3}, by {name}."}
            for i in range(60)
        ]
        write(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def harness(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def by(server: LoopbackModel) -> list[str]:
    return ["--model", "openai/m", "--api-base", server.base, "--samples", "explain@1"]


def scores(path: Path) -> dict[str, float | None]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {row["sample_id"]: row.get("score") for row in rows}


def test_answers_become_scores_that_compare_decides_by(folder: Path, server: LoopbackModel) -> None:
    for name in ("old", "new"):
        assert harness("judge", "run", "worth", f"{name}.jsonl", "--out", f"{name}.scores.jsonl", *by(server)) == 0
    assert scores(folder / "new.scores.jsonl") == {f"e{i:03}": 1.0 if i < 40 else 3.0 for i in range(60)}
    compared = ("old.scores.jsonl", "new.scores.jsonl", "--margin", "0.2", "--bounds", "1,3")
    assert harness("compare", *compared) == 1
    assert harness("compare", "old.scores.jsonl", "old.scores.jsonl", "--margin", "0.2", "--bounds", "1,3") == 0


def test_a_pairwise_judge_compares_two_files(folder: Path, server: LoopbackModel) -> None:
    assert harness("judge", "run", "better", "new.jsonl", "--against", "old.jsonl", *by(server)) == 0
    assert scores(folder / "scores.jsonl") == {f"e{i:03}": 0.0 if i < 40 else 0.5 for i in range(60)}


def test_what_was_said_is_not_asked_again(folder: Path, server: LoopbackModel) -> None:
    for _ in range(2):
        assert harness("judge", "run", "worth", "new.jsonl", *by(server)) == 0
    assert max(server.answered.values()) == 1


def test_a_failed_judgement_is_a_row_without_a_score(
    folder: Path, server: LoopbackModel, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = lambda messages: "no" if "explanation of 7," in str(messages) else honest(messages)
    assert harness("judge", "run", "worth", "new.jsonl", "--json", *by(server)) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["answers"], said["scored"], said["without"]) == (60, 59, {"unreadable": 1})
    assert scores(folder / "scores.jsonl")["e007"] is None


def test_columns_of_a_row_are_the_sample_where_no_golden_set_is_named(folder: Path, server: LoopbackModel) -> None:
    write(folder / "own.jsonl", [{"sample_id": "a", "prompt": "Explain 5.", "output": "An explanation of 5, worth 2."}])
    assert harness("judge", "run", "worth", "own.jsonl", *by(server)[:4]) == 0
    assert scores(folder / "scores.jsonl") == {"a": 2.0}


ROW = {"sample_id": "e000", "output": "An explanation of 0, worth 3."}
WRONG = [
    ([{"sample_id": "e000"}], ["worth"], "rows.jsonl:1: no 'output'"),
    ([ROW, ROW], ["worth"], "rows.jsonl:2: sample 'e000' is there twice"),
    ([{**ROW, "sample_id": "e0000"}], ["worth"], "rows.jsonl:1: no sample 'e0000': did you mean 'e000'?"),
    ([], ["worth"], "holds no answer"),
    ([ROW], ["better"], "better is a pairwise judge: give --against"),
    ([ROW], ["worth", "--against", "old.jsonl"], "worth is no pairwise judge: leave --against out"),
    ([ROW], ["better", "--against", "old.jsonl"], "rows.jsonl: no answer to sample 'e001', which the other file has"),
]


@pytest.mark.parametrize(("rows", "arguments", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_each_way_in_which_a_file_of_answers_can_be_wrong_is_one_clear_error(
    folder: Path, server: LoopbackModel, capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, Any]], arguments: list[str], says: str,
) -> None:  # fmt: skip
    write(folder / "rows.jsonl", rows)
    judge, *more = arguments
    assert harness("judge", "run", judge, "rows.jsonl", *more, *by(server)) == 2
    assert says in capsys.readouterr().err.replace("\n", " ").replace("  ", " ")
    assert server.requests.total() == 0
