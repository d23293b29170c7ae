"""With real models: an adapter is gated, promoted, and is the baseline that the next adapter is gated against."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness import runs
from harness.candidates import with_candidates
from harness.config import load_gate
from harness.gate import run_gates
from harness.progress import Silent
from harness.registry.backends.local import LocalRegistry
from harness.registry.keys import new_key
from harness.registry.promoting import prepare
from harness.registry.verifying import Demands, verify
from tests.conftest import TinyModels
from tests.scripted_project import project

pytestmark = pytest.mark.slow


def test_the_promoted_adapter_is_the_baseline_of_the_next_gate(tmp_path: Path, tiny: TinyModels) -> None:
    path = project(tmp_path, n=24, sequential=False, noise_probe=4)
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    first, second = (tiny.adapter(seed=seed, scale=0.1) for seed in (1, 2))
    on_base = {"model": str(tiny.model()), "device": "cpu"}
    document["baseline"] = {**on_base, "adapter": "registry:champion"}
    document["candidate"] = {**on_base, "adapter": str(first)}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    registry, key = LocalRegistry(tmp_path / "registry"), new_key(tmp_path / "signing.pem")
    registry.create()

    (result,) = run_gates([load_gate(path)], Silent())
    manifest = runs.read_json(result.path / runs.MANIFEST)
    assert (result.verdict.verdict, manifest["baseline"]["adapter"]) == ("promote", None)
    promotion = prepare(result.path)
    assert {s["name"] for s in promotion.statement["subject"]} >= {
        "adapter_config.json", "adapter_model.safetensors", "base/model.safetensors", "base/config.json", "suites/sums",
    }  # fmt: skip
    registry.promote(promotion, "champion", key)
    assert verify(registry.root, {key.identity: key.public}, Demands(run=result.path)).verdict == "promote"

    (next_one,) = run_gates(with_candidates(load_gate(path), [second]), Silent())
    after = runs.read_json(next_one.path / runs.MANIFEST)
    assert after["baseline"]["adapter"] == manifest["candidate"]["adapter"]
    assert after["baseline"]["fingerprint"] == manifest["candidate"]["fingerprint"]
    assert after["baseline"]["name"].startswith("champion ")
    assert next_one.verdict.verdict == "promote"
    (same,) = run_gates([load_gate(path)], Silent())
    assert "not-the-baseline" in same.verdict.reasons[0], "the champion was gated against itself"
