"""Merges at the end of a recipe: what they add up to, what they are refused for, and how they are gated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.adapters import folder_digests
from harness.errors import ConfigError
from tests import objective_jobs as jobs
from tests import training_project as tp
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow


def two_skills(folder: Path, model: Path, merge: dict[str, Any], **scope: Any) -> Path:
    """Two trainings from the base on different rows, and a merge of what they left."""
    tp.write_gate(folder, model)
    one = tp.write_rows(folder / "one.jsonl", jobs.rows("completion", 8))
    two = tp.write_rows(folder / "two.jsonl", jobs.rows("completion", 16)[8:])
    stages = [tp.stage("one", "sft", one), tp.stage("two", "sft", two, starts_from="base")]
    section = {"stages": ["one", "two"], **merge}
    given = {"kind": "lora", "rank": 4, **scope}
    return tp.write_recipe(folder, model, stages, scope=given, merge=section)


def deltas(base: Path, adapter: Path) -> dict[str, Any]:
    """The weight changes of an adapter, as PEFT folds them into a base, by name."""
    from peft import PeftModel

    before = jobs.load(base).state_dict()
    after = PeftModel.from_pretrained(jobs.load(base), str(adapter)).merge_and_unload().state_dict()
    return {name: after[name] - tensor for name, tensor in before.items()}


@pytest.mark.parametrize(
    "scope", [{}, {"rslora": True}, {"alpha": 3.0, "dropout": 0.1}], ids=["lora", "rslora", "scaled"]
)
def test_a_linear_merge_is_the_weighted_sum_of_the_changes(
    tiny: TinyModels, tmp_path: Path, scope: dict[str, Any]
) -> None:
    import torch

    weights = [0.75, -0.5]
    recipe = two_skills(tmp_path, tiny.model(), {"method": "linear", "weights": weights}, **scope)
    result = tp.run(recipe)
    folders = [tmp_path / "adapters" / name for name in ("one", "two", "merged")]
    assert result.result == folders[2]
    one, two, merged = (deltas(tiny.model(), folder) for folder in folders)
    moved = 0.0
    for name, change in merged.items():
        expected = weights[0] * one[name] + weights[1] * two[name]
        assert torch.allclose(change, expected, atol=2e-6), name
        moved = max(moved, float(expected.abs().max()))
    assert moved > 1e-3
    assert list(result.verdicts) == ["merged"]


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
def test_other_merges_run_are_recorded_and_come_out_the_same_again(
    tiny: TinyModels, tmp_path: Path, method: str
) -> None:
    results = [tp.run(two_skills(tmp_path / n, tiny.model(), {"method": method})) for n in ("first", "second")]
    first, second = (result.result for result in results)
    assert first is not None
    assert second is not None
    weights = "adapter_model.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()
    made = tp.record(first)
    assert made["files"] == folder_digests(first)
    assert [stage["stage"] for stage in made["lineage"]] == ["one", "two"]
    assert made["base_weights_sha256"] == tp.record(tmp_path / "first" / "adapters" / "one")["base_weights_sha256"]
    assert made["weights"] == [0.5, 0.5]
    verdict = results[0].verdict
    assert verdict is not None
    checks = {check.name for check in verdict.verdict.checks if check.passed}
    assert {"as-trained", "adapter-for-base", "adapter-active"} <= checks


def test_a_merge_is_made_once_and_another_one_is_not_taken_for_it(tiny: TinyModels, tmp_path: Path) -> None:
    recipe = two_skills(tmp_path, tiny.model(), {"method": "linear"})
    tp.run(recipe)
    before = tp.contents(tmp_path / "adapters" / "merged")
    tp.run(recipe)
    assert tp.contents(tmp_path / "adapters" / "merged") == before
    document = yaml.safe_load(recipe.read_text())
    tp.edit(recipe, merge={**document["merge"], "weights": [0.9, 0.1]})
    with pytest.raises(ConfigError, match="holds another merge"):
        tp.run(recipe)
    assert tp.contents(tmp_path / "adapters" / "merged") == before


def test_a_merge_that_was_changed_is_held(tiny: TinyModels, tmp_path: Path) -> None:
    recipe = two_skills(tmp_path, tiny.model(), {"method": "linear"})
    tp.run(recipe)
    path = tmp_path / "adapters" / "merged" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    result = tp.run(recipe)
    assert result.exit_code == 3
    assert result.verdict is not None
    assert "as-trained" in result.verdict.verdict.reasons[0]
