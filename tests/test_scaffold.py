"""`harness init`: what it writes is right, nothing that exists is changed, and at most five questions are asked."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from harness import goldens
from harness.cli import main
from harness.config import load_gate
from harness.errors import ConfigError, StorageError
from harness.goldens import store
from harness.scaffold.asking import Answers, Given, settle
from harness.scaffold.writing import drafts, next_commands, write
from tests.composite_action import _EXPRESSION

ROOT = Path(__file__).parents[1]
FILES = ROOT / "harness" / "scaffold" / "files"


def answers(**given: Any) -> Answers:
    return Answers(**{"baseline": "b", "adapter": "a", "name": "my-task", "ci": "github", "pre_commit": True, **given})


def made(folder: Path, **given: Any) -> list[str]:
    chosen = answers(**given)
    return list(write(folder, drafts(folder, chosen)).written)


def test_a_new_project_is_one_that_the_gate_reads(tmp_path: Path) -> None:
    assert made(tmp_path) == [
        "gate.yaml", ".harness/gate.schema.json", "goldensets/my-task/1/card.yaml",
        "goldensets/my-task/1/samples.jsonl", ".github/actions/harness-gate/action.yml",
        ".github/workflows/harness.yml", ".gitignore", ".pre-commit-config.yaml",
    ]  # fmt: skip
    loaded = load_gate(tmp_path / "gate.yaml")
    assert loaded.gate.suites[0].options["set"] == "my-task@1"
    assert loaded.gate.wear.folder == loaded.gate.cache, "what a CI job keeps for the next one"
    store.freeze(tmp_path / "goldensets", "my-task", "1")
    assert len(goldens.load(tmp_path / "goldensets", "my-task@1").samples) == 8


def test_the_schema_that_the_header_names_accepts_the_file(tmp_path: Path) -> None:
    made(tmp_path)
    text = (tmp_path / "gate.yaml").read_text("utf-8")
    found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert found is not None
    schema = json.loads((tmp_path / found[1]).read_text("utf-8"))
    jsonschema.validate(yaml.safe_load(text), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(text), "polcy": {}}, schema)


def test_what_is_commented_out_is_right_once_it_is_not(tmp_path: Path) -> None:
    made(tmp_path)
    path = tmp_path / "gate.yaml"
    text = path.read_text("utf-8")
    path.write_text(re.sub(r"(?m)^( *)# ((?: *- |training_data|  )\S.*)$", r"\1\2", text), "utf-8")
    loaded = load_gate(path)
    assert [suite.kind for suite in loaded.gate.suites] == ["golden", "capability"]
    assert loaded.gate.training_data == ("data/train.jsonl",)


@pytest.mark.parametrize("value", ['a: "b" # c', "@ADAPTER@", "'{x}\\n", "${{ secrets.X }}", "ÄÖ 模型", "- x", "null"])
def test_any_answer_is_text_in_the_file(tmp_path: Path, value: str) -> None:
    made(tmp_path, baseline=value, adapter=f"{value}2")
    gate = load_gate(tmp_path / "gate.yaml").gate
    assert gate.baseline.options["model"] == gate.candidate.options["model"] == value
    assert gate.candidate.options["adapter"] == f"{value}2"


def test_nothing_that_exists_is_changed(tmp_path: Path) -> None:
    mine = {"gate.yaml": "mine", ".gitignore": "mine", "goldensets/my-task/3/rows": "mine", ".gitlab-ci.yml": "mine"}
    for name, text in mine.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / ".pre-commit-config.yaml").symlink_to("nowhere")
    result = write(tmp_path, drafts(tmp_path, answers(ci="gitlab")))
    assert {name: (tmp_path / name).read_text("utf-8") for name in mine} == mine
    assert list(result.written) == [".harness/gate.schema.json", ".gitlab/harness.yml"]
    kept = {k.path: k.otherwise for k in result.kept}
    assert set(kept) == {"gate.yaml", "goldensets/my-task", ".gitlab-ci.yml", ".gitignore", ".pre-commit-config.yaml"}
    assert "include:" in kept[".gitlab-ci.yml"]
    assert "harness-golden-verify" in kept[".pre-commit-config.yaml"]
    assert not (tmp_path / "nowhere").exists()


def test_a_set_that_is_there_is_asked_for_in_its_latest_version(tmp_path: Path) -> None:
    for version in ("2", "10", ".new-x"):
        (tmp_path / "goldensets" / "tone" / version).mkdir(parents=True)
    chosen = settle(tmp_path, Given(name="tone"), None)
    write(tmp_path, drafts(tmp_path, chosen))
    assert load_gate(tmp_path / "gate.yaml").gate.suites[0].options["set"] == "tone@10"


def test_a_folder_inside_of_a_repository_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".git").mkdir()
    assert f"inside of the repository {tmp_path}" in said(capsys, "init", tmp_path / "sub", "--yes", "--github")[1]
    assert said(capsys, "init", tmp_path / "other", "--yes", "--no-ci")[1] == ""
    assert said(capsys, "init", tmp_path, "--yes", "--github")[1] == ""


def test_a_second_time_everything_is_kept(tmp_path: Path) -> None:
    first = made(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in first}
    assert made(tmp_path) == []
    assert {name: (tmp_path / name).read_bytes() for name in first} == before


def test_a_file_where_a_folder_must_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file: is a file"):
        made(tmp_path / "file")
    (tmp_path / "goldensets").touch()
    with pytest.raises(StorageError, match=r"goldensets/my-task/1/card\.yaml: cannot be written"):
        made(tmp_path)


def test_five_questions_at_most_and_none_that_is_answered(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(text: str, default: str) -> str:
        asked.append(text)
        return default

    assert settle(tmp_path, Given(), ask) == settle(tmp_path, Given(), None)
    assert len(asked) == 5
    asked.clear()
    settle(tmp_path, Given("b", "a", "x", "none", False), ask)
    assert asked == []


def test_a_project_that_has_its_gate_is_not_asked_about_it_and_gets_no_examples(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("mine", "utf-8")
    asked: list[str] = []

    def ask(text: str, default: str) -> str:
        asked.append(text)
        return default

    chosen = settle(tmp_path, Given(), ask)
    assert [text.partition(":")[0] for text in asked] == ["CI", "A pre-commit hook that verifies the golden sets"]
    assert list(write(tmp_path, drafts(tmp_path, chosen)).written) == [
        ".harness/gate.schema.json", ".github/actions/harness-gate/action.yml", ".github/workflows/harness.yml",
        ".gitignore",
    ]  # fmt: skip
    assert next_commands(chosen)[0] == "harness gate gate.yaml"
    wanted = settle(tmp_path, Given(name="tone"), None)
    assert "goldensets/tone/1/samples.jsonl" in write(tmp_path, drafts(tmp_path, wanted)).written


@pytest.mark.parametrize(
    "given",
    [
        Given(name="../up"),
        Given(name="Big"),
        Given(baseline="a\nb"),
        Given(baseline=" "),
        Given(adapter="x" * 2000),
        Given(adapter="\x1b[2J"),
    ],
)
def test_an_answer_that_is_none_is_refused(tmp_path: Path, given: Given) -> None:
    with pytest.raises(ConfigError):
        settle(tmp_path, given, None)


@pytest.mark.parametrize(
    ("file", "text", "server"),
    [
        (".gitlab-ci.yml", "", "gitlab"),
        (".git/config", "url = git@gitlab.com:a/b", "gitlab"),
        (".git/config", "url = https://github.com/a/b", "github"),
        ("README.md", "", "github"),
    ],
)
def test_the_server_is_the_one_that_the_repository_is_on(tmp_path: Path, file: str, text: str, server: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text, "utf-8")
    assert settle(tmp_path, Given(), None).ci == server


def test_a_path_from_here_is_one_from_the_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project" / "base").mkdir(parents=True)
    (tmp_path / "adapter").mkdir()
    found = settle(Path("project"), Given("project/base", "adapter"), None)
    assert found.baseline == "base"
    assert found.adapter == str(tmp_path / "adapter")
    assert settle(Path("project"), Given("org/model"), None).baseline == "org/model"


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == code, err
    return out, err


def test_the_verb_ends_with_three_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "init", tmp_path / "p", "--yes", "--github", "--set", "intents")
    assert out.splitlines()[-4:] == [
        f"Next, in {tmp_path / 'p'}:", "  harness golden freeze intents@1", "  harness gate gate.yaml",
        '  git add --all && git commit --message "Gate the adapter"',
    ]  # fmt: skip
    out, _ = said(capsys, "init", tmp_path / "p", "--yes", "--json")
    assert {k["path"] for k in json.loads(out)["kept"]} >= {"gate.yaml"}


def test_nobody_to_ask_and_two_servers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "add --yes" in said(capsys, "init", tmp_path, code=2)[1]
    assert "choose one of" in said(capsys, "init", tmp_path, "--yes", "--github", "--no-ci", code=2)[1]
    assert list(tmp_path.iterdir()) == []


def test_freezing_example_rows_warns_and_freezing_others_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path)
    root = tmp_path / "goldensets"
    assert "8 of 8 rows of my-task@1 are examples" in said(capsys, "golden", "freeze", "my-task@1", "--root", root)[1]
    said(capsys, "golden", "new-version", "my-task", "--root", root)
    (root / "my-task/2/samples.jsonl").write_text('{"id": "a", "prompt": "p", "target": "t"}\n', "utf-8")
    assert said(capsys, "golden", "freeze", "my-task@2", "--root", root)[1] == ""


@pytest.mark.slow
def test_in_a_terminal_it_asks_five_times_and_enter_takes_the_default(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"\n\nintents\nnone\nyes\n")
    command = [sys.executable, "-m", "harness", "init"]
    done = subprocess.run(
        command, cwd=tmp_path, stdin=theirs, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("]:") == 5
    assert (tmp_path / "goldensets" / "intents" / "1" / "card.yaml").is_file()
    assert (tmp_path / ".pre-commit-config.yaml").is_file()
    assert not (tmp_path / ".github").exists()


# ---------------------------------------------------------------- the CI files themselves


def test_the_repository_serves_the_action_that_init_writes() -> None:
    assert (ROOT / ".github/actions/gate/action.yml").read_bytes() == (FILES / "github-action.yml").read_bytes()


def test_no_script_holds_a_value_from_outside_and_every_action_is_pinned() -> None:
    action = yaml.safe_load((FILES / "github-action.yml").read_text("utf-8"))
    workflow = yaml.safe_load((FILES / "github-workflow.yml").read_text("utf-8"))
    steps = [*action["runs"]["steps"], *workflow["jobs"]["gate"]["steps"]]
    assert [s["run"] for s in steps if _EXPRESSION.search(s.get("run", ""))] == []
    used = [s["uses"] for s in steps if "uses" in s]
    theirs = [name for name in used if not name.startswith("./")]
    assert all(re.fullmatch(r"actions/[a-z-]+(/[a-z]+)?@[0-9a-f]{40}", name) for name in theirs)
    assert {name.partition("@")[0].split("/")[1] for name in theirs} == {
        "checkout", "setup-python", "cache", "upload-artifact",
    }  # fmt: skip
    with_token = [s["name"] for s in steps if "inputs.token" in str(s) or "github.token" in str(s)]
    assert with_token == ["Comment"]


def test_the_workflow_asks_for_no_more_than_it_needs() -> None:
    workflow = yaml.safe_load((FILES / "github-workflow.yml").read_text("utf-8"))
    assert set(workflow[True]) == {"pull_request", "push"}  # YAML 1.1 reads `on` as true
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
    checkout = workflow["jobs"]["gate"]["steps"][0]
    assert checkout["with"]["persist-credentials"] is False
    action = yaml.safe_load((FILES / "github-action.yml").read_text("utf-8"))
    (step,) = [s for s in workflow["jobs"]["gate"]["steps"] if s["uses"].startswith("./")]
    assert set(step["with"]) <= set(action["inputs"])
