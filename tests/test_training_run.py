"""`harness train`'s work on tiny models: what a recipe leaves, what a second call does, and how stages follow."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.adapters import folder_digests, weights_hash
from harness.errors import AdapterError, ConfigError, StorageError
from tests import objective_jobs as jobs
from tests import training_project as tp
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow


# ---------------------------------------------------------------- one stage


def test_a_recipe_trains_records_and_gates(tiny: TinyModels, tmp_path: Path) -> None:
    recipe = tp.sft(tmp_path, tiny.model(), seed=7)
    old = {"prompt": "Once upon a time there were", "completion": " other rows, and the model knew them well."}
    tp.write_rows(tmp_path / "old.jsonl", [old])
    document = yaml.safe_load(recipe.read_text())
    document["stages"][0]["data"]["replay"] = {"sources": [{"path": "old.jsonl"}], "share": 0.2}
    recipe.write_text(yaml.safe_dump(document))
    _git(tmp_path)
    result = tp.run(recipe)
    folder = tmp_path / "adapters" / "sft"
    assert result.result == folder
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "harness.json"
    ]  # fmt: skip
    made = tp.record(folder)
    assert made["base_weights_sha256"] == weights_hash(tiny.model())
    assert made["files"] == folder_digests(folder)
    assert (made["stage"], made["seed"], made["lineage"], made["harness"]) == ("sft", 7, [], _version())
    assert made["libraries"]["torch"]
    assert len(made["data"]["hashes"]["train"]) == 64
    assert made["data"]["realised"]["replay_wanted"] == 0.2
    assert 0 < made["data"]["realised"]["replay_share"] < 0.2  # one row is all there is, and none is repeated
    assert [(p["step"], p["kind"]) for p in made["losses"]] == [(1, "train"), (2, "train")]
    assert made["outcome"] == {"steps": 2, "planned": 2, "stopped": "finished"}
    assert made["baseline"] == {"sums/exact_match": 0.0}
    assert set(made["frozen"]) == {"sums"}
    assert made["git"] == {"commit": _git_head(tmp_path), "changed": False}
    assert made["scope"]["rank"] == 4
    assert made["machine"] == {"device": "cpu", "dtype": "float32"}
    assert result.verdict is not None
    assert result.verdict.verdict.verdict == "promote"
    checks = {check.name for check in result.verdict.verdict.checks if check.passed}
    assert {"as-trained", "adapter-active", "adapter-for-base"} <= checks
    assert result.exit_code == 0


def _version() -> str:
    from harness import __version__

    return __version__


def _git(folder: Path) -> None:
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "start"]):
        identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)


def _git_head(folder: Path) -> str:
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_second_call_trains_nothing(tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tp.sft(tmp_path, tiny.model())
    first = tp.run(recipe)
    before = tp.contents(tmp_path / "adapters" / "sft")
    from harness.training import stages

    monkeypatch.setattr(stages, "load_for", _never)
    told = tp.Told()
    second = tp.run(recipe, told)
    assert tp.contents(tmp_path / "adapters" / "sft") == before
    assert any("trained already" in note for note in told.notes)
    assert second.verdict is not None
    assert first.verdict is not None
    assert second.verdict.verdict == first.verdict.verdict
    assert second.verdict.path == first.verdict.path
    assert second.stages == first.stages


def _never(*given: Any, **named: Any) -> Any:
    raise AssertionError("weights were loaded")


@pytest.mark.parametrize("change", ["settings", "rows", "seed", "scope", "tokenizer", "base"])
def test_another_training_is_never_taken_for_this_one(tiny: TinyModels, tmp_path: Path, change: str) -> None:
    model = shutil.copytree(tiny.model(), tmp_path / "model")
    recipe = tp.sft(tmp_path, model)
    tp.run(recipe)
    before = tp.contents(tmp_path / "adapters" / "sft")
    document = yaml.safe_load(recipe.read_text())
    if change == "settings":
        document["stages"][0]["settings"]["learning_rate"] = 1e-3
    elif change == "rows":
        tp.write_rows(tmp_path / "rows.jsonl", jobs.rows("completion", 15))
    elif change == "seed":
        document["seed"] = 1
    elif change == "scope":
        document["scope"]["alpha"] = 8
    elif change == "tokenizer":  # the same weights, but rows become other tokens
        path = model / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "<pad>"}))
    else:
        shutil.copyfile(tiny.model(seed=1) / "model.safetensors", model / "model.safetensors")
    recipe.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match="holds the result of another training"):
        tp.run(recipe)
    assert tp.contents(tmp_path / "adapters" / "sft") == before


def test_two_fresh_runs_are_bit_identical(tiny: TinyModels, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        folder = tp.run(tp.sft(tmp_path / name, tiny.model(), scope={"kind": "lora", "rank": 4, "dropout": 0.1})).result
        assert folder is not None
        made.append((folder / "adapter_model.safetensors").read_bytes())
    assert made[0] == made[1]
    other = tp.run(tp.sft(tmp_path / "other", tiny.model(), seed=1)).result
    assert other is not None
    assert (other / "adapter_model.safetensors").read_bytes() != made[0]


def test_looks_are_recorded_and_leave_the_training_as_it_was(tiny: TinyModels, tmp_path: Path) -> None:
    plain, watched = tp.sft(tmp_path / "plain", tiny.model()), tp.sft(tmp_path / "watched", tiny.model())
    document = yaml.safe_load(watched.read_text())
    document["stages"][0]["forgetting"] = {"guard": {"every": 1, "cost": 100.0, "samples": 4}}
    watched.write_text(yaml.safe_dump(document))
    a, b = tp.run(plain).result, tp.run(watched).result
    assert a is not None
    assert b is not None
    assert (a / "adapter_model.safetensors").read_bytes() == (b / "adapter_model.safetensors").read_bytes()
    assert tp.record(b)["outcome"]["looks"] == 2


# ---------------------------------------------------------------- stages


def two_stages(folder: Path, model: Path, scope: Any = "lora", **first: Any) -> Path:
    tp.write_gate(folder, model)
    good = tp.write_rows(folder / "good.jsonl", jobs.rows("completion", 16))
    pairs = tp.write_rows(folder / "pairs.jsonl", jobs.rows("preference", 8))
    stages = [tp.stage("sft", "sft", good, **first), tp.stage("dpo", "dpo", pairs)]
    return tp.write_recipe(folder, model, stages, scope=scope)


@pytest.mark.parametrize("scope", ["lora", "ia3", "full"])
def test_dpo_goes_on_from_sft_and_is_held_to_it(tiny: TinyModels, tmp_path: Path, scope: str) -> None:
    """The first loss is ln 2 only where policy and reference agree; with the bare base as reference they do not."""
    result = tp.run(two_stages(tmp_path, tiny.model(), scope))
    folders = [tmp_path / "adapters" / name for name in ("sft", "dpo")]
    assert tp.curve(folders[1])[0] == pytest.approx(math.log(2), abs=1e-5)
    assert tp.curve(folders[1])[1] != pytest.approx(math.log(2), abs=1e-5)
    first, second = (tp.record(folder) for folder in folders)
    assert second["lineage"] == [{"stage": "sft", "key": first["key"]}]
    assert first["share"] == second["share"]
    assert result.result == folders[1]
    assert list(result.verdicts) == ["dpo"]
    moved = {name: _distance(tiny.model(), *pair, scope) for name, pair in _pairs(folders).items()}
    assert moved["second"] > 0
    assert moved["second"] < moved["both"]


def _pairs(folders: list[Path]) -> dict[str, tuple[Path | None, Path]]:
    return {"both": (None, folders[1]), "second": (folders[0], folders[1])}


def _distance(base: Path, start: Path | None, end: Path, scope: str) -> float:
    """How far the logits of a text moved."""
    import torch

    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    logits = [_model(base, folder, scope)(ids).logits for folder in (start, end)]
    return float((logits[0] - logits[1]).detach().norm())


def _model(base: Path, folder: Path | None, scope: str) -> Any:
    from peft import PeftModel

    if scope == "full":
        return jobs.load(base if folder is None else folder).eval()
    return jobs.load(base).eval() if folder is None else PeftModel.from_pretrained(jobs.load(base), str(folder)).eval()


def test_a_stage_is_the_same_whether_or_not_the_one_before_was_trained_just_now(
    tiny: TinyModels, tmp_path: Path
) -> None:
    recipe = two_stages(tmp_path, tiny.model(), {"kind": "lora", "rank": 4, "dropout": 0.1})
    tp.run(recipe)
    before = (tmp_path / "adapters" / "dpo" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "adapters" / "dpo")
    shutil.rmtree(tmp_path / "adapters" / ".work" / "dpo")
    tp.run(recipe)
    assert (tmp_path / "adapters" / "dpo" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize("scope", ["lora", "full"])
def test_all_that_keeps_old_skills_works_in_a_later_stage(tiny: TinyModels, tmp_path: Path, scope: str) -> None:
    recipe = two_stages(tmp_path, tiny.model(), scope)
    old = tp.write_rows(
        tmp_path / "old.jsonl", [{"text": f"Once upon a time there were {n} models."} for n in range(4)]
    )
    keeping = {
        "guard": {"every": 1, "cost": 100.0, "samples": 4}, "l2_sp": 0.01,
        "ewc": {"strength": 0.1, "samples": 4, "rows": [{"path": old}]},
    }  # fmt: skip
    document = yaml.safe_load(recipe.read_text())
    tp.edit(recipe, stages=[{**stage, "forgetting": keeping} for stage in document["stages"]])
    result = tp.run(recipe)
    assert [stage.outcome["looks"] for stage in result.stages] == [2, 2]
    key = tp.record(tmp_path / "adapters" / "dpo")["key"]
    # What is to be remembered decides what is learnt, as the rows themselves do.
    tp.write_rows(tmp_path / "old.jsonl", [{"text": f"Twice upon a time there were {n} models."} for n in range(4)])
    with pytest.raises(ConfigError, match="another training"):
        tp.run(recipe)
    assert tp.record(tmp_path / "adapters" / "dpo")["key"] == key


def test_a_gate_between_stages_stops_what_is_not_promoted(tiny: TinyModels, tmp_path: Path) -> None:
    recipe = two_stages(tmp_path, tiny.model(), gate=True)
    gate = yaml.safe_load((tmp_path / "gate.yaml").read_text())
    gate["suites"][0]["guards"].append({"metric": "exact_match", "must_improve": 0.9})
    tp.edit(tmp_path / "gate.yaml", suites=gate["suites"])
    result = tp.run(recipe)
    assert [stage.name for stage in result.stages] == ["sft"]
    assert list(result.verdicts) == ["sft"]
    assert "did not promote stage sft" in result.stopped
    assert not (tmp_path / "adapters" / "dpo").exists()
    assert result.exit_code in (1, 3)
    tp.edit(tmp_path / "gate.yaml", suites=[{**gate["suites"][0], "guards": gate["suites"][0]["guards"][:1]}])
    again = tp.run(recipe)  # the gate has changed and not the training, so the first stage is taken as it is
    assert list(again.verdicts) == ["sft", "dpo"]
    assert again.exit_code == 0


def test_starts_from_says_where_a_stage_begins(tiny: TinyModels, tmp_path: Path) -> None:
    tp.write_gate(tmp_path, tiny.model())
    rows = tp.write_rows(tmp_path / "rows.jsonl", jobs.rows("completion", 16))
    stages = [
        tp.stage("one", "sft", rows), tp.stage("two", "sft", rows),
        tp.stage("three", "sft", rows, starts_from="base"), tp.stage("four", "sft", rows, starts_from="one"),
    ]  # fmt: skip
    tp.run(tp.write_recipe(tmp_path, tiny.model(), stages))
    curves = {name: tp.curve(tmp_path / "adapters" / name) for name in ("one", "two", "three", "four")}
    lineage = {name: [s["stage"] for s in tp.record(tmp_path / "adapters" / name)["lineage"]] for name in curves}
    assert lineage == {"one": [], "two": ["one"], "three": [], "four": ["one"]}
    assert curves["three"][0] > curves["two"][0] + 0.5
    assert curves["three"][0] > curves["four"][0] + 0.5


def test_a_changed_result_is_not_built_upon(tiny: TinyModels, tmp_path: Path) -> None:
    recipe = two_stages(tmp_path, tiny.model())
    tp.run(recipe)
    shutil.rmtree(tmp_path / "adapters" / "dpo")
    _tamper(tmp_path / "adapters" / "sft" / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"records other contents of adapter_model\.safetensors"):
        tp.run(recipe)
    assert not (tmp_path / "adapters" / "dpo").exists()


def _tamper(path: Path) -> None:
    """Change one number of the weights."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def test_a_reward_model_teaches_the_next_stage(tiny: TinyModels, tmp_path: Path) -> None:
    tp.write_gate(tmp_path, tiny.model())
    pairs = tp.write_rows(tmp_path / "pairs.jsonl", jobs.rows("preference", 8))
    prompts = tp.write_rows(tmp_path / "prompts.jsonl", [{"prompt": r["prompt"]} for r in jobs.rows("prompt", 8)])
    options = {"rewards": [{"model": "adapters/reward"}], "generations": 4, "max_new_tokens": 6, "beta": 0.1}
    stages = [
        tp.stage("reward", "reward", pairs),
        tp.stage("grpo", "grpo", prompts, options=options, starts_from="base"),
    ]  # fmt: skip
    recipe = tp.write_recipe(tmp_path, tiny.model(), stages)
    result = tp.run(recipe)
    assert list(result.verdicts) == ["grpo"]
    assert result.exit_code == 0
    # Its adapter for reference is not counted.
    assert tp.record(tmp_path / "adapters" / "grpo")["share"]["trainable"] == _trained(tmp_path / "adapters" / "grpo")
    key = tp.record(tmp_path / "adapters" / "grpo")["key"]
    # Another reward model in the same place makes another training of what learns from it.
    shutil.rmtree(tmp_path / "adapters" / "reward")
    stages[0]["settings"]["learning_rate"] = 1e-3
    tp.write_recipe(tmp_path, tiny.model(), stages)
    with pytest.raises(ConfigError, match="another training"):
        tp.run(recipe)
    assert tp.record(tmp_path / "adapters" / "grpo")["key"] == key


def _trained(folder: Path) -> int:
    from safetensors.torch import load_file

    return sum(tensor.numel() for tensor in load_file(folder / "adapter_model.safetensors").values())


def test_a_recipe_that_ends_in_a_reward_model_says_that_it_cannot_be_gated(tiny: TinyModels, tmp_path: Path) -> None:
    tp.write_gate(tmp_path, tiny.model())
    pairs = tp.write_rows(tmp_path / "pairs.jsonl", jobs.rows("preference", 8))
    result = tp.run(tp.write_recipe(tmp_path, tiny.model(), [tp.stage("reward", "reward", pairs)]))
    assert "answers nothing that a gate could ask" in result.ungated
    assert (result.verdict, result.exit_code) == (None, 0)


# ---------------------------------------------------------------- other things that are left


def test_a_full_checkpoint_is_gated_with_the_very_tokenizer_of_the_base(tiny: TinyModels, tmp_path: Path) -> None:
    model = shutil.copytree(tiny.model(), tmp_path / "model")
    path = model / "tokenizer_config.json"
    said = json.loads(path.read_text())
    del said["pad_token"]  # the training chooses one, which must not go into the checkpoint
    path.write_text(json.dumps(said))
    recipe = tp.sft(tmp_path, model, scope="full", settings={"learning_rate": 1e-3})
    result = tp.run(recipe)
    assert result.verdict is not None
    assert result.verdict.verdict.verdict == "promote", result.verdict.verdict.reasons
    assert (tmp_path / "adapters" / "sft" / "tokenizer_config.json").read_bytes() == path.read_bytes()
    assert tp.record(tmp_path / "adapters" / "sft")["share"]["trainable"] > 90_000


@pytest.mark.parametrize("scope", ["lora", "head", "features", "full"])
def test_a_classifier_is_gated_as_one(tiny: TinyModels, tmp_path: Path, scope: str) -> None:
    tp.write_gate(tmp_path, tiny.model())
    rows = tp.write_rows(tmp_path / "rows.jsonl", jobs.rows("class", 12))
    stage = tp.stage("colours", "classify", rows)
    result = tp.run(tp.write_recipe(tmp_path, tiny.model(), [stage], scope=scope))
    assert result.verdict is not None
    manifest = json.loads((result.verdict.path / "manifest.json").read_text())
    assert manifest["candidate"]["kind"] == "classifier"
    assert manifest["candidate"]["classes"] == ["maybe", "no", "yes"]
    assert result.verdict.verdict.verdict == "promote", result.verdict.verdict.reasons
    assert "as-trained" in {check.name for check in result.verdict.verdict.checks}


def test_what_is_no_number_ends_a_stage_and_keeps_the_last_good_weights(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, step=2)
    recipe = two_stages(tmp_path, tiny.model())
    told = tp.Told()
    result = tp.run(recipe, told)
    assert [stage.name for stage in result.stages] == ["sft"]
    assert "broke off: gradients were no numbers at step 3" in result.stopped
    assert any("no numbers at step 3" in note for note in told.notes)
    assert result.exit_code == 3
    folder = tmp_path / "adapters" / "sft"
    made = tp.record(folder)
    assert (made["outcome"]["kept_step"], made["outcome"]["broken"]) == (1, True)  # step 2's weights gave no numbers
    assert all(loss is None or math.isfinite(loss) for loss in tp.curve(folder))
    json.loads((folder / "harness.json").read_text(), parse_constant=_no_constant)
    from safetensors.torch import load_file

    assert all(tensor.isfinite().all() for tensor in load_file(folder / "adapter_model.safetensors").values())
    monkeypatch.undo()
    assert tp.run(recipe).stopped == result.stopped  # a second call neither trains on nor calls it finished


def _no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def _poison(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make gradients NaN after `step` good steps."""
    import torch
    from transformers import Trainer

    honest = Trainer.training_step

    def poisoned(self: Any, model: Any, *given: Any, **named: Any) -> Any:
        loss = honest(self, model, *given, **named)
        if self.state.global_step >= step:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(math.nan)
            return torch.full_like(loss, math.nan)
        return loss

    monkeypatch.setattr(Trainer, "training_step", poisoned)
    monkeypatch.setitem(tp.SETTINGS, "max_steps", 6)


def test_the_best_weights_are_kept_and_their_step_is_said(tiny: TinyModels, tmp_path: Path) -> None:
    apart = [{"prompt": f"{n}", "completion": " \u4e00\u4e8c\u4e09"} for n in range(8)]
    recipe = tp.sft(
        tmp_path, tiny.model(), data={"validation": 0.25, "near_duplicates": None},
        settings={"max_steps": 30, "eval_every": 1, "patience": 1, "learning_rate": 2.0, "scheduler": "constant"},
    )  # fmt: skip
    tp.write_rows(tmp_path / "rows.jsonl", [*jobs.rows("completion", 16), *apart])
    result = tp.run(recipe)
    assert result.result is not None
    made = tp.record(result.result)
    validation = {p["step"]: p["loss"] for p in made["losses"] if p["kind"] == "validation"}
    assert made["outcome"]["steps"] < 30
    assert made["outcome"]["stopped"] == "validation no longer got better"
    assert validation[made["outcome"]["kept_step"]] == min(validation.values())


def test_no_space_left_is_told_and_leaves_no_half_folder(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tp.sft(tmp_path, tiny.model())
    from harness.training import provenance, stages

    honest = provenance.write_record
    monkeypatch.setattr(stages.provenance, "write_record", _full_disk)
    with pytest.raises(StorageError, match=r"No space left.*repeat the command"):
        tp.run(recipe)
    assert not (tmp_path / "adapters" / "sft").exists()
    monkeypatch.setattr(stages.provenance, "write_record", honest)
    told = tp.Told()
    result = tp.run(recipe, told)
    assert any("going on from checkpoint-2" in note for note in told.notes)  # nothing is trained twice
    assert result.exit_code == 0


def _full_disk(*given: Any, **named: Any) -> Any:
    import errno
    import os

    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
