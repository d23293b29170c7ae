"""Many processes promote at once and some are killed: one whole champion at every moment, and a ledger that holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.promotions import flips, race
from harness.registry.backends.local import LocalRegistry
from harness.registry.keys import new_key
from harness.registry.promoting import prepare
from tests.promotion_example import gated


@pytest.mark.slow
def test_promotions_at_once_with_kills_leave_one_whole_champion(tmp_path: Path) -> None:
    promotions = [prepare(gated(tmp_path / str(seed), seed=seed)) for seed in range(4)]
    result = race(tmp_path, promotions, new_key(tmp_path / "signing.pem"), processes=8, rounds=5, kills=3)
    assert result.problems == []
    assert result.finished + result.killed == 40
    assert min(result.finished, result.killed, result.polls, result.champions) > 0


@pytest.mark.slow
def test_a_hundred_changed_bytes_are_all_refused_by_name(tmp_path: Path) -> None:
    key = new_key(tmp_path / "signing.pem")
    registry = LocalRegistry(tmp_path / "registry")
    for seed in range(2):
        registry.promote(prepare(gated(tmp_path / str(seed), seed=seed)), "champion", key)
    refused, missed = flips(registry.root, {key.identity: key.public}, 104)
    assert missed == []
    assert refused.total() == 104
    assert {"adapter_model.safetensors", "verdict.json", "evidence.parquet", "LOCK.yaml", "ledger.jsonl",
            "record.json"} <= set(refused)  # fmt: skip
