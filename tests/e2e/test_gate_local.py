"""The gate with models: several adapters on one set of weights, drafts that change nothing, drift from real tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import runs
from harness.candidates import with_candidates, with_engine
from harness.config import LoadedConfig, load_gate
from harness.document import read_run
from harness.gate import run_gates
from harness.progress import Silent
from tests.conftest import TinyModels
from tests.scripted_project import project

pytestmark = pytest.mark.slow
N = 24


def local_project(folder: Path, model: Path, adapter: Path) -> Path:
    folder.mkdir()
    path = project(folder, n=N, sequential=False, noise_probe=4)
    document = yaml.safe_load(path.read_text("utf-8"))
    document["baseline"] = {"model": str(model), "device": "cpu"}
    document["candidate"] = {"model": str(model), "adapter": str(adapter), "device": "cpu"}
    path.write_text(yaml.safe_dump(document), "utf-8")
    return path


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folder of every base model that is loaded."""
    from harness.subjects import _weights

    found: list[Path] = []
    honest = _weights.load_base

    def noted(spec: Any) -> Any:
        found.append(spec.folder)
        return honest(spec)

    monkeypatch.setattr(_weights, "load_base", noted)
    return found


def outputs(run: Path) -> dict[str, list[tuple[str | None, ...]]]:
    return {
        e.sample_id: [tuple(o.text for o in side) for side in (e.baseline, e.candidate)] for e in runs.read_entries(run)
    }


def test_three_adapters_on_one_set_of_weights(tmp_path: Path, tiny: TinyModels, loads: list[Path]) -> None:
    adapters = [tiny.adapter(seed=seed, scale=0.1) for seed in (1, 2, 3)]
    path = local_project(tmp_path / "together", tiny.model(), adapters[0])
    together = run_gates(with_candidates(load_gate(path), adapters), Silent())
    assert len(loads) == 1
    assert len({r.path for r in together}) == 3
    for number, adapter in enumerate(adapters):
        alone = local_project(tmp_path / f"alone-{number}", tiny.model(), adapter)
        (result,) = run_gates([plain(load_gate(alone))], Silent())
        # Without drafts from another candidate, from a cache of its own, by the reference engine: the same answers.
        assert outputs(result.path) == outputs(together[number].path)
        assert result.verdict.comparisons == together[number].verdict.comparisons


def plain(loaded: LoadedConfig) -> LoadedConfig:
    return with_engine(loaded, "plain")


def test_the_engine_is_written_down_and_drift_comes_from_tokens(tmp_path: Path, tiny: TinyModels) -> None:
    path = local_project(tmp_path / "gate", tiny.model(), tiny.adapter(seed=1, scale=0.1))
    (result,) = run_gates([plain(load_gate(path))], Silent())
    manifest = json.loads((result.path / runs.MANIFEST).read_text("utf-8"))
    assert manifest["command"] == "harness gate gate.yaml --engine plain"
    assert (manifest["baseline"]["engine"], manifest["candidate"]["engine"]) == ("plain", "plain")
    (drift,) = read_run(result.path).drift
    assert drift.answers == N
    assert 0 < drift.agreed <= drift.generated
    same = [e for e in runs.read_entries(result.path) if e.baseline[0].text == e.candidate[0].text]
    assert drift.identical <= len(same)
    assert drift.kl is not None
    assert drift.kl > 0


def test_refused_and_changing_candidates_leave_the_others_alone(
    tmp_path: Path, tiny: TinyModels, loads: list[Path]
) -> None:
    pickled, broken = tmp_path / "pickled", shutil.copytree(tiny.model(), tmp_path / "broken")
    pickled.mkdir()
    (pickled / "config.json").write_bytes((tiny.model() / "config.json").read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    (broken / "model.safetensors").write_bytes(b"not safetensors")
    sound = [tiny.adapter(seed=1, scale=0.1), tiny.adapter(method="pissa", scale=0.1), tiny.adapter(seed=2, scale=0.1)]
    path = local_project(tmp_path / "together", tiny.model(), sound[0])
    results = run_gates(with_candidates(load_gate(path), [sound[0], pickled, sound[1], broken, sound[2]]), Silent())
    assert [r.verdict.verdict == "hold" for r in results[1::2]] == [True, True]
    assert "pickled" in results[1].verdict.reasons[0]
    assert "cannot be loaded" in results[3].verdict.reasons[0]
    assert loads == [tiny.model(), tiny.model(), broken]  # the base, a copy for the adapter that changes it, and this
    for number, (adapter, together) in enumerate(zip(sound, results[::2], strict=True)):
        alone = local_project(tmp_path / f"alone-{number}", tiny.model(), adapter)
        (result,) = run_gates([load_gate(alone)], Silent())
        assert outputs(result.path) == outputs(together.path)


def test_a_candidate_that_is_the_baseline_is_held(tmp_path: Path, tiny: TinyModels) -> None:
    copy = shutil.copytree(tiny.model(), tmp_path / "copy")
    path = local_project(tmp_path / "gate", tiny.model(), tiny.adapter())
    (result,) = run_gates(with_candidates(load_gate(path), [copy]), Silent())
    assert result.verdict.verdict == "hold"
    assert "not-the-baseline" in result.verdict.reasons[0]
