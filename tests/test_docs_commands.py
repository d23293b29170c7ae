"""Every command in the documentation is run, or parsed and listed here with the reason why it is not run.

`harness` commands are parsed by the real command line, so that a renamed verb or option fails here. Those that need no
model, no server and no minutes are also run, page by page, in a project that is made from the tutorial's own files.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from harness.cli import app, main
from tests.conftest import TinyModels
from tests.documentation import PAGES, ROOT, Block, Command, blocks, commands
from tests.documented_project import TUTORIAL, documented_project, tutorial_files

NOT_RUN = {
    "docs/judges.md: harness gate": "asks a judge: tests/e2e/test_judge_gate.py",
    "harness advise": "reads a model and rows of one's own: tests/test_advice.py, tests/e2e/test_training_walk.py",
    "harness ci": "speaks with a code host: tests/test_ci.py",
    "harness data": "asks a teacher or a judge: tests/test_data_making.py",
    "harness gate gate.yaml --engine": "an engine answers for local models: tests/test_gate_candidates.py",
    "harness init": "writes a project: tests/e2e/test_onboarding.py",
    "harness judge": "asks a judge: tests/test_judging_cli.py runs what is shown",
    "harness judge label": "waits for people: tests/e2e/test_label_browser.py",
    "harness key": "writes the user's key: tests/test_promotion_cli.py",
    "harness promote": "needs a run that was promoted: tests/test_promotion_cli.py",
    "harness registry": "needs a registry: tests/test_promotion_cli.py",
    "harness report": "needs runs: tests/test_cli.py, tests/test_history.py",
    "harness rollback": "needs a registry: tests/test_promotion_cli.py",
    "harness shadow": "needs a store of traces or serves until it is stopped: tests/test_cli_shadow.py",
    "harness sweep": "trains many times: tests/test_sweeping_trains.py",
    "harness train": "trains: tests/test_training_cli.py",
    "harness verify": "needs a promoted adapter: tests/test_promotion_cli.py",
}
"""Commands that are parsed and not run: how they start (behind the page, where it is about one), and why."""

RUN_WHOLE = {
    "docs/ci.md": "tests/e2e/test_last_mile_docs.py",
    "docs/history.md": "tests/e2e/test_last_mile_docs.py",
    "docs/promotion.md": "tests/e2e/test_last_mile_docs.py",
    "docs/shadow-tutorial.md": "tests/e2e/test_shadow_tutorial.py",
    "docs/training.md": "tests/e2e/test_training_walk.py",
}
"""Pages whose blocks, or the walks in them, are run as they stand by a test of their own."""

SHELL = frozenset({
    "cat", "cd", "cp", "curl", "echo", "git", "grep", "kill", "mkdir", "printf", "sed", "set", "sleep", "test", "true",
    "wait",
})  # fmt: skip
"""Programs of any shell, with which nothing of ours can be wrong."""

FOREIGN = {
    "gh": "GitHub's program, and an artifact there: tests/e2e/test_last_mile.py",
    "lm_eval": "needs a model: tests/test_lmeval.py",
    "model_signing": "another project's program: tests/test_registry_interop.py",
    "pre-commit": "another project's program",
    "pytest": "needs a model: the plugin has tests of its own",
    "vllm": "another project's program, and a GPU",
}
"""Programs that are not ours, and why they are not run."""

YOURS = frozenset({"service.py", "production.py", "train.py"})
"""Scripts that the reader has, or writes on the page."""

COMMANDS = [command for block in blocks("console", "sh", "bash") for command in commands(block)]
OURS = [command for command in COMMANDS if command.words[0] == "harness"]
OTHERS = [command for command in COMMANDS if command.words[0] != "harness"]


def test_the_documentation_has_commands() -> None:
    assert len(OURS) > 30
    assert {command.place.partition(":")[0] for command in OURS} >= {"README.md", "docs/tutorial.md", "docs/scores.md"}


@pytest.mark.parametrize("command", OURS, ids=lambda c: f"{c.place}-{c}")
def test_the_command_line_knows_every_verb_and_option_that_is_shown(command: Command) -> None:
    path, parser = "harness", typer.main.get_command(app)
    words = [re.sub(r"\$\{?\w+\}?", "1", word) for word in command.words[1:]]  # what a variable stands for is not known
    while hasattr(parser, "commands"):
        assert words, f"{command.place}: {command} names no verb"
        assert words[0] in parser.commands, f"{command.place}: no verb {words[0]!r} behind {path}"
        path, parser = f"{path} {words[0]}", parser.commands[words.pop(0)]
    parser.make_context(path, words)  # raises where an option is unknown, a value wrong or an argument missing


@pytest.mark.parametrize("command", OTHERS, ids=lambda c: f"{c.place}-{c}")
def test_commands_of_others_are_known_and_what_is_ours_in_them_exists(command: Command) -> None:
    program, *arguments = command.words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert [a for a in arguments if "=" not in a and a not in targets] == []
    elif program in ("pip", "pipx"):
        _packages_exist(arguments)
    elif program in ("python", "python3"):
        _script_exists(arguments)
    else:
        assert program in SHELL or program in FOREIGN, (
            f"{command.place}: {command} is neither run nor known; see SHELL and FOREIGN"
        )


def _packages_exist(arguments: Sequence[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for argument in arguments[1:]:
        found = re.fullmatch(r"promotion-harness(?:\[([\w,-]+)\])?", argument)
        if found:
            assert set((found[1] or "all").split(",")) <= set(extras), argument


def _script_exists(arguments: Sequence[str]) -> None:
    first, *rest = arguments
    if first == "-c":
        compile(rest[0], "documentation", "exec")
    elif first == "-m":
        assert (ROOT / f"{rest[0].replace('.', '/')}.py").exists() or (ROOT / rest[0].replace(".", "/")).is_dir(), rest
    elif first not in YOURS:
        source = (ROOT / first).read_text(encoding="utf-8")
        options = [option.strip("[]") for option in rest if option.strip("[]").startswith("--")]
        assert [option for option in options if f'"{option}"' not in source] == []


# ---------------------------------------------------------------- run


def reason(command: Command) -> str | None:
    """Why a command of ours is not run here, or None where it is."""
    page, shown = command.place.partition(":")[0], f"{command} "
    starts = [start for start in NOT_RUN if f"{page}: {shown}".startswith(f"{start} ") or shown.startswith(f"{start} ")]
    return NOT_RUN[max(starts, key=len)] if starts else None


def runnable(page: Path) -> list[Command]:
    """The commands of a page that are run here, in their order; walks are run by their own test."""
    found = [c for b in blocks("console", "sh", "bash", page=page) if not b.walk for c in commands(b)]
    return [c for c in found if c.words[0] == "harness" and reason(c) is None]


def run_here(page: Path) -> bool:
    return page.relative_to(ROOT).as_posix() not in RUN_WHOLE and bool(runnable(page))


@pytest.mark.parametrize("page", [p for p in PAGES if run_here(p)], ids=lambda p: p.name)
def test_what_needs_no_model_runs_and_ends_well(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    documented_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in runnable(page):
        with pytest.raises(SystemExit) as ended:
            main(list(command.words[1:]))
        said = capsys.readouterr()
        assert ended.value.code == 0, f"{command.place}: {command}\n{said.out}\n{said.err}"


@pytest.mark.parametrize(("page", "test"), RUN_WHOLE.items())
def test_a_page_that_is_run_whole_is_run_by_a_test_that_reads_it(page: str, test: str) -> None:
    if (ROOT / page).exists():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_commands_are_read_as_a_shell_reads_them() -> None:
    script = (
        "A=1 harness plan -n 3 --margin 0.1 > out.txt  # what's that?\n"
        "x=$(harness registry log --json | jq '.path') && cat <<'END' | grep \"a | b\"\nharness never\nEND\n"
        "until ! harness golden \\\n  verify; do sleep 1; done &\n"
    )
    block = Block(ROOT / "README.md", 1, "sh", "", False, script)
    assert [" ".join(command.words) for command in commands(block)] == [
        "harness plan -n 3 --margin 0.1", "harness registry log --json", "jq .path", "cat", "grep a | b",
        "harness golden verify", "sleep 1",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands_on_a_real_model(
    tmp_path: Path, tiny: TinyModels, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tutorial_files(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to(tiny.model())
    for name, seed in (("support-v3", 1), ("support-v4", 2), ("a", 3), ("b", 4)):
        shutil.copytree(tiny.adapter(seed=seed), tmp_path / "adapters" / name)
    monkeypatch.chdir(tmp_path)
    ours = [c for b in blocks("console", page=TUTORIAL) for c in commands(b) if c.words[0] == "harness"]
    for command in ours:
        with pytest.raises(SystemExit) as ended:
            main(list(command.words[1:]))
        said = capsys.readouterr()
        verdicts = (0, 1, 3) if command.words[1] == "gate" else (0,)  # a random model need not have learned
        assert ended.value.code in verdicts, f"{command}\n{said.out}\n{said.err}"
    assert len(list((tmp_path / "runs").iterdir())) >= 4
