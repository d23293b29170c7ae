"""What a user meets at the command line: exit codes, one message an error, one JSON document."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from harness.cli import main
from tests.scripted_project import N, project

ROOT = Path(__file__).parents[1]


@dataclass
class Said:
    """What a command printed."""

    stdout: str
    stderr: str


class Harness(Protocol):
    def __call__(self, *arguments: str | Path, code: int) -> Said: ...


@pytest.fixture
def harness(capsys: pytest.CaptureFixture[str]) -> Harness:
    """The command in this process, which spares its start-up; `test_the_installed_command` starts one."""

    def run(*arguments: str | Path, code: int) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert ended.value.code == code, said.err
        return Said(said.out, said.err)

    return run


@pytest.mark.slow
def test_the_installed_command(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text("sample_id,score\n1,1\n", encoding="utf-8")
    command = [sys.executable, "-m", "harness", "compare", str(file), str(file), "--margin", "0.02", "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0
    assert json.loads(result.stdout)["verdict"] == "promote"
    assert result.stderr == ""


@pytest.mark.parametrize(("lost", "code", "verdict"), [(0, 0, "promote"), (40, 1, "block")])
def test_gate_json_is_the_only_thing_on_stdout(
    harness: Harness, tmp_path: Path, lost: int, code: int, verdict: str
) -> None:
    path = project(tmp_path, lost=range(lost))
    document = json.loads(harness("gate", path, "--json", code=code).stdout)
    assert document["verdict"] == verdict
    comparison = document["comparisons"][0]
    needed = (
        "suite metric slice estimand outcome n n_used n_failed baseline_mean candidate_mean difference interval margin "
        "alpha lost won"
    )
    assert set(needed.split()) <= set(comparison)
    again = json.loads(harness("report", document["run"], "--json", code=code).stdout)
    assert again == document


def test_gate_in_words(harness: Harness, tmp_path: Path) -> None:
    out = harness("gate", project(tmp_path, lost=range(40)), "--out", tmp_path / "elsewhere", code=1).stdout
    assert "BLOCK" in out
    assert "sums/exact_match" in out
    assert "elsewhere" in out


def test_hold_is_three(harness: Harness, tmp_path: Path) -> None:
    assert "HOLD" in harness("gate", project(tmp_path, silent=range(N // 4)), code=3).stdout


def test_compare_and_its_mistakes(harness: Harness, tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text("sample_id,score\n" + "".join(f"{i},1\n" for i in range(50)), encoding="utf-8")
    assert (
        json.loads(harness("compare", file, file, "--margin", "0.02", "--json", code=0).stdout)["verdict"] == "promote"
    )
    assert "no such file" in harness("compare", file, tmp_path / "x.csv", "--margin", "0.02", code=2).stderr
    assert "--margin" in harness("compare", file, file, "--margin", "2", code=2).stderr
    assert "LO,HI" in harness("compare", file, file, "--margin", "0.1", "--bounds", "0-1", code=2).stderr
    assert "--margin" in harness("compare", file, file, "--margn", "0.1", code=2).stderr
    error = json.loads(harness("compare", file, tmp_path / "x.csv", "--margin", "0.02", "--json", code=2).stdout)
    assert error["exit_code"] == 2
    assert error["error"]["kind"] == "DataError"


def test_golden_verbs(harness: Harness, tmp_path: Path) -> None:
    project(tmp_path)
    root = tmp_path / "goldensets"
    assert "1 golden set" in harness("golden", "verify", "--root", root, code=0).stdout
    assert "harness golden freeze sums@2" in harness("golden", "new-version", "sums", "--root", root, code=0).stdout
    samples = root / "sums" / "2" / "samples.jsonl"
    samples.write_text(samples.read_text("utf-8").replace('"8"', '"9"'), encoding="utf-8")
    assert "sums@2 is frozen" in harness("golden", "freeze", "sums@2", "--root", root, code=0).stdout
    locked = root / "sums" / "1" / "samples.jsonl"
    locked.write_text(locked.read_text("utf-8") + "\n", encoding="utf-8")
    assert "samples.jsonl" in harness("golden", "verify", "--root", root, code=3).stderr


def test_plan_answers_its_questions(harness: Harness) -> None:
    options = ("--samples", "400", "--margin", "0.05", "--flip-rate", "0.08", "--runs", "100")
    answer = json.loads(harness("plan", *options, "--json", code=0).stdout)
    assert 0 < answer["mean_share"] < 1
    assert answer["aa_block_rate"] <= 0.05 + 3 * answer["error"]
    assert answer["detectable_drop"] > 0.05
    assert "until a verdict" in harness("plan", *options, code=0).stdout


def test_help_names_every_verb_and_version_prints(harness: Harness) -> None:
    out = harness("--help", code=0).stdout
    for verb in ("gate", "compare", "plan", "golden", "demo", "report", "schema"):
        assert verb in out
    assert harness("--version", code=0).stdout.strip().count(".") == 2
    assert "baseline" in json.loads(harness("schema", code=0).stdout)["properties"]


def test_starting_up_loads_no_model_library() -> None:
    heavy = ("torch", "transformers", "peft", "trl", "litellm", "lm_eval", "ray", "datasets", "pyarrow", "scipy")
    code = f"import sys, harness, harness.cli; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
