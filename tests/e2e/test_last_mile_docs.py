"""The commands of docs/ci.md, docs/promotion.md and docs/history.md run as they stand, but for what is the reader's.

The reader's own are the models (recorded answers stand for them here), the name of a run, and the address of a server.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from harness.registry.backends.local import LocalRegistry
from harness.registry.keys import new_key
from harness.registry.promoting import prepare
from tests.documentation import ROOT, Block, blocks
from tests.history_example import make_run
from tests.loopback_model import LoopbackModel, Messages
from tests.promotion_example import gated
from tests.pull_requests import command_on_path, shell
from tests.scripted_project import project

pytestmark = pytest.mark.slow

RUN = re.compile(r"runs/[\w-]+-(?:[0-9a-f]{12}|[0-9a-f]*…)")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`harness` on the PATH, and a configuration folder of its own."""
    folder = tmp_path_factory.mktemp("home")
    command_on_path(folder, monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    return folder / "config"


def console(page: str) -> list[Block]:
    return blocks("console", page=ROOT / "docs" / page)


def lines(block: Block) -> list[str]:
    """The command lines of a block, without their prompts."""
    return [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]


def type_in(block: Block, folder: Path) -> None:
    """A block as a reader types it into one shell that stops where a command fails."""
    shell("set -e\n" + "\n".join(lines(block)), folder)


# ---------------------------------------------------------------- docs/promotion.md


def sums(messages: Messages) -> str:
    return str(2 * int(messages[-1]["content"].split()[0]))


def test_the_page_on_promotion(tmp_path: Path, home: Path) -> None:
    keyed = [block for block in console("promotion.md") if "sigstore" not in block.text and "oidc" not in block.text]
    key, work, verifying, begin, served = keyed  # the others need Sigstore: tests/test_promotion_sigstore.py runs them
    type_in(key, tmp_path)
    signing = home / "harness" / "signing"
    shutil.copy(signing.with_suffix(".pub"), tmp_path)

    gated(tmp_path / "before", seed=1)  # so that there is something to go back to
    (before,) = (tmp_path / "before/runs").glob("*/")
    shell(f"harness promote {before}", tmp_path)
    run = gated(tmp_path, seed=2, sequential=False)  # so that all samples can be put to the server
    gate, *rest = lines(work)
    shell(gate, tmp_path)
    # The page goes back once, and then verifies the one that it had promoted.
    for line in (*rest, rest[0], *lines(verifying)):
        shell(RUN.sub(f"runs/{run.name}", line), tmp_path)
    type_in(begin, tmp_path)

    with LoopbackModel(sums) as server:
        (line,) = lines(served)
        line = line.replace("http://127.0.0.1:8000/v1", server.base).replace(
            "--model champion", f"--model {server.model}"
        )
        said = shell(RUN.sub(f"runs/{run.name}", line), tmp_path)
        assert "what is served is as good as what was evaluated" in said


# ---------------------------------------------------------------- docs/ci.md


def test_the_page_on_ci_beyond_its_first_block(tmp_path: Path) -> None:
    _, plugin, anywhere = console("ci.md")  # the first needs a server: tests/e2e/test_onboarding.py runs it
    path = project(tmp_path / "project")
    (path.parent / "adapters").mkdir()
    shutil.copy(path.parent / "after.jsonl", path.parent / "adapters/support-v4")
    # The plugin of this checkout, whichever is installed.
    ours = f"{sys.executable} -m pytest -p harness.pytest_plugin -p no:cacheprovider "
    tested, narrowed, collected = (line.replace("pytest ", ours, 1) for line in lines(plugin))
    said = shell(tested, path.parent)
    assert "passed" in said
    assert "failed" not in said
    assert "passed" in shell(narrowed.replace("support-tone", "sums"), path.parent)
    assert "tests collected" in shell(collected, path.parent)
    type_in(anywhere, path.parent)
    assert json.loads((path.parent / "result.json").read_text("utf-8"))["verdict"] == "promote"


# ---------------------------------------------------------------- docs/history.md


def test_the_page_on_history(tmp_path: Path) -> None:
    (block,) = console("history.md")
    first, second = (make_run(tmp_path / "runs", name, gain=0.05) for name in "ab")
    LocalRegistry(tmp_path / "registry").promote(
        prepare(gated(tmp_path / "gated")), "champion", new_key(tmp_path / "k.pem")
    )
    one, several, site, lineage, tracker = lines(block)
    names = iter((first.name, second.name))
    assert "PROMOTE" in shell(RUN.sub(f"runs/{first.name}", one), tmp_path)
    assert "guard" in shell(RUN.sub(lambda _: f"runs/{next(names)}", several), tmp_path)
    shell(site, tmp_path)
    assert "Whether anybody acted on them is not known" in (tmp_path / "site/index.html").read_text("utf-8")
    shell(lineage, tmp_path)
    assert "What the registry's ledger says" in (tmp_path / "site/index.html").read_text("utf-8")
    there = importlib.util.find_spec("mlflow") is not None
    said = shell(RUN.sub(f"runs/{first.name}", tracker), tmp_path, code=0 if there else 2)
    assert there or "promotion-harness[mlflow]" in said
