"""The last mile as one walk: from an empty repository to a promotion that another machine verifies, and back.

Real models and adapters, the steps of the very workflow that `harness init` writes, and for the other machine the wheel
of this checkout with the core dependencies alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from harness.records import LogLikelihood
from tests.composite_action import Ended
from tests.conftest import TinyModels
from tests.core_install import MODEL_LIBRARIES, Machine, core_install
from tests.loopback_forges import LoopbackForge
from tests.pull_requests import PullRequests, command_on_path, repository, shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the core install is fetched once, which may take minutes

OFFLINE = """
import socket, sys
def refuse(*arguments, **named): raise AssertionError("the network was asked")
socket.socket = socket.getaddrinfo = refuse
from harness.cli import main
main(sys.argv[1:])
"""
"""The command where nobody can be asked."""

CHOICES = ("x", "k", "z", "j", "q", "w")
PROMPTS = [
    f"Customer: {what} {which}.\nIntent:"
    for what in ("Where is", "I lost", "Please send", "I do not want")
    for which in ("my refund", "my card", "my order", "the parcel", "the invoice", "it")
]


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """Another machine, on which only the core install is."""
    wheel, home = tmp_path / "wheel", tmp_path / "elsewhere"
    wheel.mkdir()
    home.mkdir()
    assert request.config.cache is not None
    return Machine(core_install(request.config.cache.mkdir("core-install"), wheel), home)


@dataclass(frozen=True, slots=True)
class Team:
    """The repository's clone of whoever promotes, the server that it is pushed to, and its pull requests."""

    clone: Path
    remote: Path
    pulls: PullRequests
    forge: LoopbackForge

    def gate(self, adapter: Path) -> tuple[Ended, Path]:
        """Bring an adapter and push it: how its job ended, and the run directory that the job uploaded."""
        shutil.copytree(adapter, self.clone / "adapters/intents", dirs_exist_ok=True)
        shell(
            "git add --all && git commit -qm 'Another adapter' && git push -q origin HEAD:refs/heads/gate", self.clone
        )
        ended = self.pulls.push(self.remote, "gate")
        (run,) = (self.pulls.artifacts[-1] / "runs").glob("*/")
        shutil.copytree(run, self.clone / "runs" / run.name)
        return ended, Path("runs") / run.name

    @property
    def runs(self) -> list[Path]:
        """The run directories of all jobs, as whoever promotes has fetched them."""
        return sorted(path for path in (self.clone / "runs").iterdir() if path.is_dir())

    @property
    def key(self) -> Path:
        """The public key that goes to whoever verifies."""
        return Path(os.environ["XDG_CONFIG_HOME"]) / "harness/signing.pub"

    @property
    def standing(self) -> str:
        """The promotion that the alias leads to, for whoever follows it."""
        return (self.clone / "registry/aliases/champion").resolve().name

    @property
    def comment(self) -> str:
        """The one comment on the pull request."""
        (comment,) = self.forge.comments
        return str(comment["body"])

    def tell(self, line: str) -> Any:
        """What a command of ours says with `--json`."""
        return json.loads(shell(f"{line} --json", self.clone))


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    command_on_path(tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # whose key is made is the test's
    remote, clone = repository(tmp_path)
    with LoopbackForge() as forge:
        yield Team(clone, remote, PullRequests(tmp_path, forge), forge)


def write_rows(path: Path, base: Any) -> None:
    """Rows of one's own in place of the examples: what the base would choose is right, and must not be forgotten."""
    rows = []
    for number, prompt in enumerate(PROMPTS):
        answered = [pair for batch in base.answer([LogLikelihood(prompt, f" {c}") for c in CHOICES]) for pair in batch]
        best = max(answered, key=lambda pair: pair[1].logprob)[0]
        rows.append({"id": f"q{number:02}", "prompt": prompt, "choices": CHOICES, "target": CHOICES[best]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def replace(path: Path, **words: str) -> None:
    text = path.read_text("utf-8")
    for old, new in words.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, "utf-8")


def visible(page: str) -> str:
    """The text of a page, without its tags, scripts and styles."""
    text = re.sub(r"<(script|style)\b.*?</\1>|<wbr>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", text)))


def test_from_an_empty_repository_to_the_history_of_a_promotion_and_its_rollback(
    team: Team, elsewhere: Machine, tiny: TinyModels, local_subject: Callable[..., Any]
) -> None:
    # A project, from nothing.
    shell("harness init --yes --github --baseline models/base --adapter adapters/intents --set intents", team.clone)
    shutil.copytree(tiny.model(), team.clone / "models/base")
    write_rows(team.clone / "goldensets/intents/1/samples.jsonl", local_subject(model=tiny.model()))
    for name in ("gate.yaml", "goldensets/intents/1/card.yaml"):
        replace(team.clone / name, exact_match="multiple_choice")
    assert shell("harness golden freeze intents@1", team.clone) == "intents@1 is frozen: 24 samples\n"

    # The first push: the adapter has forgotten, and the pull request says so.
    blocked, refused = team.gate(tiny.adapter(seed=3))
    assert (blocked.passed, blocked.outputs) == (False, {"verdict": "block", "code": "1"}), blocked.log
    assert team.comment.startswith("<!-- harness-report -->\n\n## ⛔ BLOCK")
    assert "⛔ BLOCK" in blocked.summary
    shell("harness key new", team.clone)
    assert "BLOCK" in shell(f"harness promote {refused}", team.clone, code=3)
    assert not (team.clone / "registry").exists()

    # The second push: another adapter, another verdict, and the same comment.
    promoted, first = team.gate(tiny.adapter(seed=1, scale=0.01))
    assert (promoted.passed, promoted.outputs) == (True, {"verdict": "promote", "code": "0"}), promoted.log
    assert team.comment.startswith("<!-- harness-report -->\n\n## ✅ PROMOTE")
    assert [asked[0] for asked in team.forge.asked if asked[0] != "GET"] == ["POST", "PATCH"]
    assert "say where it is with --adapter" in shell(f"harness promote {first}", team.clone, code=3)
    assert "champion is now" in shell(f"harness promote {first} --adapter adapters/intents", team.clone)
    assert team.tell("harness verify registry")["aliases"] == ["champion"]

    # The next adapter is held against the promoted one, which whoever clones the repository has, too.
    replace(team.clone / "gate.yaml", **{"# adapter: registry:champion": "adapter: registry:champion"})
    ended, second = team.gate(tiny.adapter(seed=2, scale=0.01))
    assert ended.outputs == {"verdict": "promote", "code": "0"}, ended.log
    assert f"champion {team.standing[:8]}" in team.comment
    assert [asked[0] for asked in team.forge.asked if asked[0] != "GET"] == ["POST", "PATCH", "PATCH"]
    replaced = team.standing
    assert team.tell(f"harness promote {second} --adapter adapters/intents")["changed"] is True
    newer = team.standing
    assert newer != replaced
    served = (team.clone / "registry/aliases/champion/adapter_model.safetensors").read_bytes()
    assert served == (team.clone / "adapters/intents/adapter_model.safetensors").read_bytes()

    verified_elsewhere(team, elsewhere, second)

    # Back to the one before, for whoever reads the alias and for whoever verifies the registry.
    assert f"champion is now {replaced[:12]}" in shell("harness rollback", team.clone)
    assert team.standing == replaced
    assert "it stands for champion" in shell("harness verify registry/aliases/champion", team.clone)
    assert "nothing now" in shell(f"harness verify registry/promotions/{newer}", team.clone)

    shown_in_the_history(team, elsewhere)
    counted = team.pulls.cache.place / team.pulls.cache.keys[-1] / "decisions.jsonl"
    assert len(counted.read_text("utf-8").splitlines()) == 3, "each job counts its look on top of those before"


def verified_elsewhere(team: Team, machine: Machine, run: Path) -> None:
    """The adapter's folder and the public key alone, on a machine without a model library: accepted as it is."""
    for name in MODEL_LIBRARIES:
        assert "ModuleNotFoundError" in machine.run("-c", f"import {name}", program="python", code=1)
    adapter, key = machine.home / "adapter", machine.home / "team.pub"
    shell(f"cp -rL registry/aliases/champion {adapter}", team.clone)
    shutil.copy(team.key, key)
    said = machine.run("verify", adapter, "--key", key)
    assert f"{adapter} is what was promoted: PROMOTE, signed by" in said
    assert "it lies in no registry" in said
    assert "PROMOTE" in machine.run("-c", OFFLINE, "verify", adapter, "--key", key, program="python")
    shutil.copy(team.clone / "gate.yaml", machine.home)
    assert "PROMOTE" in machine.run("verify", adapter, "--key", key, "--policy", "gate.yaml", "--run", team.clone / run)
    assert "no key" in machine.run("verify", adapter, code=2)
    machine.run("key", "new")
    assert "no key that you trust" in machine.run("verify", adapter, code=3)
    for name in ("adapter_model.safetensors", "adapter_config.json", "promotion/record.json"):
        tampered(machine, adapter / name, key)
    (adapter / "adapter_model.bin").write_bytes(b"pickled")
    assert "adapter_model.bin: no part of what was promoted" in machine.run("verify", adapter, "--key", key, code=3)


def tampered(machine: Machine, path: Path, key: Path) -> None:
    """One bit of one file of the adapter is another: refused by name, and accepted again once it is put right."""
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    adapter = machine.home / "adapter"
    assert f"{path.name}: " in machine.run("verify", adapter, "--key", key, code=3)
    path.write_bytes(content)
    machine.run("verify", adapter, "--key", key)


def shown_in_the_history(team: Team, machine: Machine) -> None:
    """Promotions, the rollback and all runs, on pages that the core install makes from copies."""
    for name in ("runs", "registry"):
        shutil.copytree(team.clone / name, machine.home / name, symlinks=True)
    machine.run("report", "runs", "--history", "--registry", "registry", "--out", "site")
    page = (machine.home / "site/index.html").read_text("utf-8")
    text = visible(page)
    assert "History 3 runs" in text
    assert "Promote 2 Block 1 Hold 0" in text
    lineage = page[page.index('id="lineage"') : page.index('id="turned"')]
    assert re.findall(r'<li class="(\w+)"', lineage) == ["rollback", "promote", "promote"]
    assert visible(lineage).count("rollback champion") == 1
    assert "Its run is not in this history" not in lineage
    rows = (machine.home / "site/history.csv").read_text("utf-8").splitlines()
    assert len({row.split(",")[0] for row in rows[1:]}) == 3
    assert all((machine.home / "site/reports" / f"{run.name}.html").is_file() for run in team.runs)
