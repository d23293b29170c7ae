"""The demo's story with nothing scripted: real trainings and real gates, for several seeds."""

from pathlib import Path

import pytest

from harness.config import load_gate
from harness.demo.gates import write_gate
from harness.demo.training import Style, train_adapter
from harness.gate import run_gate
from harness.progress import Silent
from harness.records import Verdict

ROOT = Path(__file__).parent.parent.parent


def gated(style: Style, folder: Path, seed: int) -> Verdict:
    summary = train_adapter(style, folder / style, seed=seed)
    path = write_gate(folder / f"{style}.yaml", summary.adapter, summary.data, goldensets=ROOT / "goldensets")
    return run_gate(load_gate(path), Silent()).verdict


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_careless_adapter_is_blocked_and_the_careful_one_promoted(tmp_path: Path, seed: int):
    careless = gated("careless", tmp_path, seed)
    assert careless.verdict == "block"
    regressed = [c for c in careless.comparisons if c.required and c.outcome == "regressed"]
    assert regressed
    assert any(c.label in " ".join(careless.reasons) for c in regressed)

    careful = gated("careful", tmp_path, seed)
    assert careful.verdict == "promote", careful.reasons
    (new,) = (c for c in careful.comparisons if c.required and c.must_improve is not None)
    assert new.outcome == "pass"
    assert new.difference is not None
    assert new.difference > 0.5
