"""Served-form parity with nothing scripted: an adapter is gated here, and another program serves it, or forgets to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from harness.cli import main
from harness.config import load_gate
from harness.gate import run_gates
from harness.progress import Silent
from tests.conftest import TinyModels
from tests.scripted_project import project
from tests.tiny_judge import serving
from tests.tiny_models import merged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def gated(folder: Path, base: Path, adapter: Path) -> Path:
    """A run whose candidate answers otherwise than its baseline, in whatever way."""
    path = project(folder, n=24, sequential=False)
    document = yaml.safe_load(path.read_text("utf-8"))
    document["baseline"] = {"model": str(base), "device": "cpu"}
    document["candidate"] = {**document["baseline"], "adapter": str(adapter)}
    path.write_text(yaml.safe_dump(document), "utf-8")
    (result,) = run_gates([load_gate(path)], Silent())
    return result.path


def test_the_merged_adapter_is_recognised_and_a_base_in_its_place_is_not_taken_for_it(
    tmp_path: Path, tiny: TinyModels, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = tiny.model(), tiny.adapter(seed=1)
    run = gated(tmp_path, base, adapter)
    for model, code in ((merged(base, adapter, tmp_path / "merged"), 0), (base, 1)):
        with serving(model) as url, pytest.raises(SystemExit) as ended:
            main(["verify", "--served", url, "--model", model.name, "--run", str(run),
                  "--policy", str(tmp_path / "gate.yaml"), "--json"])  # fmt: skip
        said = json.loads(capsys.readouterr().out)
        assert ended.value.code == code, said
        assert said["agreement"]["unapplied"] is (code == 1)
        assert said["agreement"]["failed"] == 0
        assert said["agreement"]["texts"] == 24
