"""From `harness init` to the comment: the action's own steps, and the GitLab job's, against servers on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import main
from harness.demo.gates import write_gate
from harness.demo.training import MODEL
from tests.conftest import TinyModels
from tests.documentation import ROOT, blocks
from tests.loopback_forges import BOT, LoopbackForge
from tests.pull_requests import PullRequests, command_on_path, repository, shell
from tests.scripted_project import project
from tests.tiny_models import make_adapter

pytestmark = pytest.mark.slow


@pytest.fixture
def forge() -> Iterator[LoopbackForge]:
    with LoopbackForge() as served:
        yield served


@pytest.fixture(autouse=True)
def command(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    command_on_path(tmp_path_factory.mktemp("bin"), monkeypatch)


def test_a_fork_may_not_comment_and_a_neutral_hold_passes(tmp_path: Path, forge: LoopbackForge) -> None:
    path = project(tmp_path / "project", lost=range(60, 120), silent=range(60))
    loud = json.dumps("\n::error::said by a model")
    answers = path.parent / "after.jsonl"
    answers.write_text(answers.read_text("utf-8").replace('"?"', loud), "utf-8")
    forge.read_only = True
    ended = PullRequests(tmp_path, forge).run(path.parent, hold="neutral")
    assert ended.outputs == {"verdict": "hold", "code": "3"}
    assert ended.passed
    assert ended.codes["Comment"] == 0
    assert "the token may not write here (403 Resource not accessible by integration)" in ended.log
    assert "HOLD" in ended.summary
    assert forge.comments == []
    # While the gate runs, the runner takes no commands; none of its own pass for one before or after, either.
    lines = ended.log.splitlines()
    (start,) = [line.removeprefix("::stop-commands::") for line in lines if line.startswith("::stop-commands::")]
    assert len(start) == 32
    assert f"::{start}::" in lines
    assert "::error::said by a model" not in lines


def harness(*arguments: object, code: int = 0) -> None:
    """The command in this process, which spares its start-up."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == code


def test_a_mistake_in_the_file_replaces_an_older_verdict(
    tmp_path: Path, forge: LoopbackForge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project(tmp_path / "project")
    path.write_text(path.read_text("utf-8").replace("margin: 0.05", "margn: 0.05"), "utf-8")
    forge.say("<!-- harness-report -->\n\n## ✅ PROMOTE", BOT)
    for name, value in {**forge.github(tmp_path), "GITHUB_WORKSPACE": str(path.parent)}.items():
        monkeypatch.setenv(name, value)
    harness("gate", path, "--json", code=2)
    result = tmp_path / "result.json"
    result.write_text(capsys.readouterr().out, "utf-8")
    harness("ci", "comment", result)
    (comment,) = forge.comments
    assert "PROMOTE" not in comment["body"]
    assert "did you mean 'margin'?" in comment["body"]
    harness("ci", "annotate", result, "--config", path)
    assert capsys.readouterr().out.startswith("::error file=gate.yaml,line=")
    harness("ci", "conclude", result, "--code", 2, "--hold", "neutral", code=2)
    harness("ci", "conclude", result, "--code", 0, code=4)


def shown_first() -> list[str]:
    """The commands with which docs/ci.md begins, without their prompts and remarks."""
    block = blocks("console", page=ROOT / "docs" / "ci.md")[0]
    return [line.removeprefix("$ ").partition(" #")[0].strip() for line in block.text.splitlines()]


def scripted(folder: Path, *, wrong: bool = False) -> None:
    """Answers in place of the models that gate.yaml names; nothing else of it is touched."""
    rows = [json.loads(row) for row in (folder / "goldensets/intents/1/samples.jsonl").read_text("utf-8").splitlines()]
    for arm, off in (("baseline", False), ("candidate", wrong)):
        answers = [{"prompt": row["prompt"], "text": "no idea" if off else f" {row['target']}"} for row in rows]
        (folder / f"{arm}.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers), "utf-8")
    path = folder / "gate.yaml"
    document = yaml.safe_load(path.read_text("utf-8"))
    document |= {
        arm: {"kind": "scripted", "answers": f"{arm}.jsonl", "log": f"asked-{arm}.log"}
        for arm in ("baseline", "candidate")
    }
    document["policy"]["noise_probe"] = 0  # which asks on purpose what has been answered
    path.write_text(yaml.safe_dump(document), "utf-8")


def test_five_commands_from_a_fresh_clone_to_the_comment(tmp_path: Path, forge: LoopbackForge) -> None:
    remote, clone = repository(tmp_path)
    init, *others = shown_first()
    assert len(others) < 5
    said = shell(init.replace("support-tone", "intents"), clone)
    scripted(clone)  # the models of a reader are there already
    for line in others:
        shell(line.replace("support-tone", "intents"), clone)
    assert said.rstrip().splitlines()[-4:-1] == [
        "Next:",
        "  harness golden freeze intents@1",
        "  harness gate gate.yaml",
    ]

    # What GitHub does from here on: check the branch out, and run the workflow that is in it.
    runner = tmp_path / "runner"
    shell(f"git clone -q --branch gate {remote} {runner}", tmp_path)
    pulls = PullRequests(tmp_path, forge)
    forge.say("<!-- harness-report -->\nI like it", {"id": 7, "login": "reviewer"})

    promoted = pulls.run_workflow(runner)
    assert promoted.passed, promoted.log
    assert promoted.outputs == {"verdict": "promote", "code": "0"}
    reviewer, comment = forge.comments
    assert comment["body"].startswith("<!-- harness-report -->\n\n## ✅ PROMOTE")
    assert "Commit `0123456789ab`" in comment["body"]
    assert "harness-init-example" in comment["body"], "a verdict on example rows says that it is one"
    assert {"report.html", "junit.xml", "evidence.parquet", "verdict.json"} <= {
        path.name for path in pulls.artifacts[0].rglob("*")
    }

    # A worse candidate: the same comment, another verdict, and the baseline's answers come from the cache.
    scripted(runner, wrong=True)
    blocked = pulls.run_workflow(runner)
    assert not blocked.passed
    assert blocked.outputs == {"verdict": "block", "code": "1"}
    assert blocked.codes["Comment"] == 0
    assert [c["id"] for c in forge.comments] == [reviewer["id"], comment["id"]]
    assert reviewer["body"].endswith("I like it")
    assert "⛔ BLOCK" in comment["body"]
    assert "⛔ BLOCK" in blocked.summary
    line = next(
        n for n, text in enumerate((runner / "gate.yaml").read_text("utf-8").splitlines(), 1) if "- margin" in text
    )
    assert f"::error file=gate.yaml,line={line},title=Regressed%3A intents/exact_match::" in blocked.log
    asked = (runner / "asked-baseline.log").read_text("utf-8").splitlines()
    assert len(asked) == len(set(asked)) == 8


def demo(folder: Path) -> Path:
    """The demo as a project: its model, its frozen sets, its gate.yaml, and an adapter that knows nothing yet."""
    shutil.copytree(MODEL, folder / "model")
    shutil.copytree(ROOT / "goldensets", folder / "goldensets")
    make_adapter(MODEL, folder / "adapters/candidate", seed=1, scale=0.02)
    path = write_gate(
        folder / "gate.yaml", folder / "adapters/candidate", base=folder / "model", goldensets=folder / "goldensets"
    )
    document = yaml.safe_load(path.read_text("utf-8"))
    sets = ("demo-consonants@1", "demo-upper@1")  # the new skill and one old one, which spare minutes
    document["suites"] = [suite for suite in document["suites"] if suite.get("set") in sets]
    path.write_text(yaml.safe_dump(document), "utf-8")
    return folder


def test_a_fresh_clone_of_the_demo_is_commented_on_after_four_commands(tmp_path: Path, forge: LoopbackForge) -> None:
    there = demo(tmp_path / "demo")
    remote, clone = repository(tmp_path, sorted(there.iterdir()))
    gate = (clone / "gate.yaml").read_bytes()
    commands = (
        "harness init --yes --github",
        "git add --all",
        'git commit --quiet --message "Gate the adapter"',
        "git push --quiet origin HEAD:refs/heads/gate",
    )
    said = [shell(line, clone) for line in commands]
    assert "kept  gate.yaml" in said[0]
    assert "goldensets/my-task" not in said[0]
    assert (clone / "gate.yaml").read_bytes() == gate

    ended = PullRequests(tmp_path, forge).push(remote, "gate")
    assert ended.outputs == {"verdict": "block", "code": "1"}, ended.log
    (comment,) = forge.comments
    assert "⛔ BLOCK" in comment["body"]
    assert "demo-consonants/exact_match" in comment["body"]


def test_what_init_writes_gates_a_model_as_it_is(tmp_path: Path, tiny: TinyModels) -> None:
    models = ("--baseline", tiny.model(), "--adapter", tiny.adapter(seed=1, scale=0.1))
    folder = tmp_path / "project"
    harness("init", folder, "--yes", "--no-ci", *models)
    harness("golden", "freeze", "my-task@1", "--root", folder / "goldensets")
    harness("gate", folder / "gate.yaml")
    (run,) = (folder / "runs").glob("*/")
    verdict: dict[str, Any] = json.loads((run / "verdict.json").read_text("utf-8"))
    assert verdict["verdict"] == "promote"  # a tiny random model is as wrong as its adapter, on each row
    assert {c["suite"] for c in verdict["comparisons"]} == {"my-task"}


def test_the_gitlab_job_comments_and_ends_as_its_gate(tmp_path: Path, forge: LoopbackForge) -> None:
    path = project(tmp_path / "project", lost=range(40))
    harness("init", path.parent, "--yes", "--gitlab", "--set", "sums")
    job = yaml.safe_load((path.parent / ".gitlab/harness.yml").read_text("utf-8"))["harness-gate"]
    assert yaml.safe_load((path.parent / ".gitlab-ci.yml").read_text("utf-8")) == {
        "include": [{"local": ".gitlab/harness.yml"}]
    }
    script = "set -eo pipefail\n" + "\n".join([*job["before_script"], *job["script"]])

    note = forge.say("<!-- harness-report -->\n\n## ✅ PROMOTE", BOT)
    environment = {**os.environ, **job["variables"], **forge.gitlab(), "HARNESS_INSTALL": ""}
    done = subprocess.run(["bash", "-c", script], cwd=path.parent, env=environment, timeout=300, check=False)
    assert done.returncode == 1
    assert forge.comments == [note]
    assert note["body"].startswith("<!-- harness-report -->\n\n## ⛔ BLOCK")
    assert "https://gitlab.example/team/project/-/jobs/5" in note["body"]
    assert list(path.parent.glob(job["artifacts"]["reports"]["junit"]))


def test_the_pre_commit_hook_finds_a_changed_row(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    harness("init", folder, "--yes", "--no-ci", "--pre-commit")
    harness("golden", "freeze", "my-task@1", "--root", folder / "goldensets")
    ((hook,),) = [r["hooks"] for r in yaml.safe_load((folder / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]]
    assert hook["always_run"]
    assert not hook["pass_filenames"]
    shell(hook["entry"], folder)
    with open(folder / "goldensets/my-task/1/samples.jsonl", "a", encoding="utf-8") as stream:
        stream.write("\n")
    done = subprocess.run(hook["entry"].split(), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "samples.jsonl" in done.stderr
