"""The walks of docs/training.md, run as they stand there, on the demo's model and on a model of one's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import TinyModels

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "training.md"
_BLOCK = re.compile(r"<!-- walk: (\w+) -->\n```console\n(.*?)```", re.DOTALL)

pytestmark = pytest.mark.slow


def commands(name: str) -> list[str]:
    """The commands of a walk, in order, with lines that go on joined and remarks left out."""
    text = DOCUMENT.read_text(encoding="utf-8")
    blocks = "".join(block for walk, block in _BLOCK.findall(text) if walk == name).replace("\\\n", " ")
    return [line.removeprefix("$ ").partition("  #")[0] for line in blocks.splitlines() if line.startswith("$ ")]


def walk(name: str, folder: Path) -> tuple[dict[str, int], str]:
    """Exit code of each command, and all that was printed; `harness` is the checkout's."""
    bin_ = folder / "bin"
    bin_.mkdir()
    harness = bin_ / "harness"
    harness.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from harness.cli import main; main()' \"$@\"\n")
    harness.chmod(0o755)
    known = commands(name)
    assert any(command.startswith("harness train") for command in known), f"docs/training.md has no walk {name!r}"
    script = "\n".join(f'{command}\necho "@@ $?"' for command in known)
    environment = {
        **os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    codes = [int(code) for code in re.findall(r"^@@ (\d+)$", done.stdout, re.MULTILINE)]
    return dict(zip(known, codes, strict=True)), done.stdout + done.stderr


def test_the_demos_model_goes_from_advice_to_a_promoted_adapter(tmp_path: Path) -> None:
    codes, said = walk("demo", tmp_path)
    assert set(codes.values()) == {0}, (codes, said[-3000:])
    assert (tmp_path / "walk" / "adapters" / "sft" / "adapter_model.safetensors").is_file()
    assert json.loads(said[said.rindex("\n{") : said.rindex("}") + 1])["verdicts"]["sft"]["verdict"] == "promote"


def test_a_model_of_ones_own_goes_from_advice_to_a_verdict(tmp_path: Path, tiny: TinyModels) -> None:
    own_project(tmp_path, tiny.model())
    codes, said = walk("own", tmp_path)
    *before, last = codes.values()
    assert set(before) == {0}, (codes, said[-3000:])
    assert last in (0, 1, 3), said[-3000:]  # a verdict: a random model need not learn at the advised rate
    assert (tmp_path / "adapters" / "sft" / "harness.json").is_file()
    assert (tmp_path / "adapters" / ".work" / "sft" / "data.json").is_file()


def own_project(folder: Path, model: Path) -> None:
    """What the page says that is needed, around a tiny random model."""
    (folder / "models").mkdir()
    (folder / "models" / "base").symlink_to(model)
    golden(folder, "support-tone", "1", "Ticket", "refund")
    golden(folder, "house-style", "2", "Style", "formal")
    for name, what, answer in (("rows", "Request", "refund"), ("broad", "Manner", "formal")):
        rows = [{"prompt": f"{what} {i * 37}: which kind?", "completion": f" {answer}"} for i in range(120)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = DOCUMENT.read_text(encoding="utf-8")
    (written,) = re.findall(r"```yaml\n(baseline: \{model: .*?)```", text, re.DOTALL)
    (folder / "gate.yaml").write_text(written)


def golden(folder: Path, name: str, version: str, what: str, answer: str) -> None:
    place = folder / "goldensets" / name / version
    place.mkdir(parents=True)
    samples = [{"id": f"s{i}", "prompt": f"{what} number {i}, asked:", "target": answer} for i in range(24)]
    (place / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    card = {
        "name": name, "version": version, "description": what, "licence": "Apache-2.0", "source": "made here",
        "metrics": ["exact_match"], "generation": {"max_tokens": 4, "until": ["\n"]},
    }  # fmt: skip
    (place / "card.yaml").write_text(yaml.safe_dump(card))
