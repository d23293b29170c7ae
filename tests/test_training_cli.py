"""`harness train` at the command line: its exit codes, one JSON document, and what a terminal shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main
from tests import objective_jobs as jobs
from tests import training_project as tp
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int) -> tuple[str, str]:
    """What `harness train` prints, (stdout, stderr), when it ends with `code`."""
    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, arguments)])
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    return said.out, said.err


def demand(recipe: Path, improvement: float) -> None:
    """Let the gate ask for an improvement that no training here brings."""
    gate = recipe.parent / "gate.yaml"
    suites = yaml.safe_load(gate.read_text())["suites"]
    suites[0]["guards"].append({"metric": "exact_match", "must_improve": improvement})
    tp.edit(gate, suites=suites)


def test_a_promoted_recipe_is_one_json_document(
    tiny: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tp.sft(tmp_path, tiny.model())
    out, _ = call(capsys, recipe, "--json", code=0)
    document: dict[str, Any] = json.loads(out)
    assert set(document) == {"stages", "result", "stopped", "ungated", "verdicts"}
    folder = str(tmp_path / "adapters" / "sft")
    assert document["stages"] == [
        {"name": "sft", "folder": folder, "rows": 16, "steps": 2, "planned": 2, "stopped": "finished"}
    ]
    assert document["result"] == folder
    assert document["verdicts"]["sft"]["verdict"] == "promote"
    assert Path(document["verdicts"]["sft"]["run"]).is_dir()


def test_a_terminal_shows_what_was_trained_and_the_verdict(
    tiny: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tp.sft(tmp_path, tiny.model())
    out, err = call(capsys, recipe, code=0)
    for part in ("What was trained", "sft", "finished", "PROMOTE", "report"):
        assert part in out, part
    for part in ("before training: sums/exact_match 0.000", "parameters are trained", "train: 16 of 16 rows"):
        assert part in err, part
    assert "Warning" not in err


def test_a_blocked_recipe_ends_with_1(tiny: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tp.sft(tmp_path, tiny.model())
    demand(recipe, 0.9)
    out, _ = call(capsys, recipe, code=1)
    assert "BLOCK" in out


def test_a_stage_that_is_not_promoted_ends_the_recipe(
    tiny: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tp.sft(tmp_path, tiny.model())
    demand(recipe, 0.9)
    tp.edit(recipe, stages=[tp.stage("one", "sft", "rows.jsonl", gate=True), tp.stage("two", "sft", "rows.jsonl")])
    out, _ = call(capsys, recipe, "--json", code=1)
    document = json.loads(out)
    assert [stage["name"] for stage in document["stages"]] == ["one"]
    assert document["stopped"] == "the gate did not promote stage one"


def test_a_reward_model_ends_with_0_and_the_reason(
    tiny: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tp.sft(tmp_path, tiny.model())
    pairs = tp.write_rows(tmp_path / "pairs.jsonl", jobs.rows("preference", 8))
    tp.edit(recipe, stages=[tp.stage("reward", "reward", pairs)])
    out, _ = call(capsys, recipe, code=0)
    assert "answers nothing that a gate could ask" in out


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("unfrozen", 3, "is not frozen"),
        ("typo", 2, "recipe.yaml:"),
        ("absent base", 4, "no such folder"),
        ("absent recipe", 2, "recipe.yaml"),
        ("leak", 2, "rows.jsonl:17"),
    ],
)
def test_a_refusal_is_one_message_and_its_exit_code(
    tiny: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, code: int, says: str
) -> None:
    recipe = tp.sft(tmp_path, tiny.model())
    if fault == "unfrozen":
        (tmp_path / "goldensets" / "LOCK.yaml").unlink()
    elif fault == "typo":
        tp.edit(recipe, sede=1)
    elif fault == "absent base":
        tp.edit(recipe, base={"model": "./nowhere"})
    elif fault == "absent recipe":
        recipe.unlink()
    else:
        tp.write_rows(
            tmp_path / "rows.jsonl", [*jobs.rows("completion", 16), {"prompt": "3 + 3 =", "completion": " 6"}]
        )
    out, err = call(capsys, recipe, "--json", code=code)
    document = json.loads(out)
    assert document["error"]
    assert says in err + out
    assert "Traceback" not in err


def test_a_changed_adapter_ends_with_3(tiny: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tp.sft(tmp_path, tiny.model())
    tp.run(recipe)
    path = tmp_path / "adapters" / "sft" / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 32', '"lora_alpha": 31'))
    _, err = call(capsys, recipe, code=3)
    assert "adapter_config.json" in err
