"""Pull requests of one project: each job runs the action's own steps, with what GitHub keeps between jobs.

pulls = PullRequests(tmp_path, forge)
ended = pulls.run(checkout)                  # the steps of the repository's own action
ended = pulls.run_workflow(checkout)         # those of the workflow that `harness init` wrote there
assert ended.outputs["verdict"] == "promote"
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.composite_action import CompositeAction, Ended
from tests.loopback_forges import LoopbackForge

ROOT = Path(__file__).parents[1]
ACTION = ROOT / ".github" / "actions" / "gate" / "action.yml"
AUTHOR = ("git config user.name T", "git config user.email t@example.org")


def command_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`harness` on the PATH, as an installation puts it there, of this checkout; and no word of a server we run on."""
    script = folder / "harness"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m harness "$@"\n', "utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in [n for n in os.environ if n.startswith(("GITHUB_", "CI_", "GITLAB_"))]:
        monkeypatch.delenv(name)


def shell(line: str, cwd: Path, *, code: int = 0) -> str:
    """One command as a reader types it; what it printed, if it ended with `code`."""
    done = subprocess.run(["bash", "-c", line], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def repository(folder: Path, files: Sequence[Path] = ()) -> tuple[Path, Path]:
    """A repository on a server with one commit, empty but for `files`, and a clone of it."""
    remote, clone = folder / "remote.git", folder / "clone"
    shell(f"git init -q --bare -b main {remote} && git clone -q {remote} {clone}", folder)
    for source in files:
        shutil.copytree(source, clone / source.name) if source.is_dir() else shutil.copy(source, clone)
    shell(" && ".join([*AUTHOR, "git add --all", "git commit -q --allow-empty -m start"]), clone)
    shell("git push -q origin main", clone)
    return remote, clone


class Cache:
    """What actions/cache keeps between jobs: folders by key, found by the beginning of one."""

    def __init__(self, place: Path) -> None:
        self.place, self.keys = place, list[str]()

    def restore(self, given: dict[str, str]) -> dict[str, str]:
        """The newest folder whose key begins as is wanted, put where it is wanted."""
        wanted = [given["key"], *given["restore-keys"].split()]
        hit = next((k for w in wanted for k in reversed(self.keys) if k.startswith(w)), None)
        if hit is not None:
            shutil.copytree(self.place / hit, given["path"], dirs_exist_ok=True)
        return {}

    def save(self, given: dict[str, str]) -> dict[str, str]:
        """Keep a folder."""
        shutil.copytree(given["path"], self.place / given["key"])
        self.keys.append(given["key"])
        return {}


class PullRequests:
    """See the module. `artifacts` holds, by job, the folder that was uploaded."""

    def __init__(self, folder: Path, forge: LoopbackForge) -> None:
        self.folder, self.forge, self.cache, self.jobs = folder, forge, Cache(folder / "cache"), 0
        self.artifacts: list[Path] = []

    def run(self, workspace: Path, action: Path = ACTION, **inputs: str) -> Ended:
        """One job: the action's steps in a checkout, with these inputs; nothing is installed."""
        self.jobs += 1
        temp = self.folder / f"job-{self.jobs}"
        temp.mkdir()
        shutil.rmtree(workspace / ".harness-cache", ignore_errors=True)  # a runner starts from a fresh checkout
        uses = {
            "actions/cache/restore": self.cache.restore,
            "actions/cache/save": self.cache.save,
            "actions/upload-artifact": self._upload,
        }
        numbers = {"run_id": str(self.jobs), "run_attempt": "1"}
        job = CompositeAction(action, workspace, temp, self.forge.github(temp), uses, numbers)
        return job.run(install="", **inputs)

    def run_workflow(self, workspace: Path) -> Ended:
        """The job of the workflow that `harness init` wrote, with that workflow's inputs."""
        workflow = yaml.safe_load((workspace / ".github/workflows/harness.yml").read_text("utf-8"))
        (step,) = [s for s in workflow["jobs"]["gate"]["steps"] if s["uses"].startswith("./")]
        inputs = {name: value for name, value in step["with"].items() if name != "install"}
        return self.run(workspace, workspace / step["uses"] / "action.yml", **inputs)

    def push(self, remote: Path, branch: str) -> Ended:
        """What GitHub does when a branch is pushed: check it out on a fresh machine, and run its workflow there."""
        workspace = self.folder / f"runner-{self.jobs + 1}"
        shell(f"git clone -q --branch {branch} {remote} {workspace}", self.folder)
        ended = self.run_workflow(workspace)
        shutil.rmtree(workspace)  # the machine is gone, and what was not uploaded with it
        return ended

    def _upload(self, given: dict[str, str]) -> dict[str, str]:
        kept = self.folder / f"artifact-{self.jobs}"
        shutil.copytree(given["path"], kept)
        self.artifacts.append(kept)
        return {}
