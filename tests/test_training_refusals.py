"""What `harness train` refuses, it refuses before any work: no weights are loaded, and the message says the way out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import adapters
from harness.candidates import with_candidate
from harness.config import load_gate
from harness.errors import ConfigError, DataError, HarnessError, LockError, SubjectError
from harness.gate import run_gate
from harness.progress import Silent
from harness.training.run import train
from tests import objective_jobs as jobs
from tests import training_project as tp
from tests.conftest import TinyModels
from tests.tiny_classifiers import make_encoder

pytestmark = pytest.mark.slow

CHAT = [jobs.chat(row) for row in jobs.rows("completion", 4)]


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads weights fails the test."""
    import transformers

    def never(*given: Any, **named: Any) -> Any:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(never))


def refused(recipe: Path, error: type[HarnessError], *says: str) -> str:
    """The message of the refusal, which has to hold every one of `says`; nothing is left but reports of the rows."""
    with pytest.raises(HarnessError) as raised:
        tp.run(recipe)
    assert type(raised.value) is error, raised.value
    message = str(raised.value)
    for part in says:
        assert part in message
    left = recipe.parent / "adapters"
    assert not left.exists() or [p.name for p in left.iterdir()] == [".work"]
    assert not list(recipe.parent.glob("**/outputs.sqlite"))
    return message


def line_of(recipe: Path, text: str) -> str:
    lines = recipe.read_text().splitlines()
    return f"{recipe}:{next(n for n, line in enumerate(lines, start=1) if text in line)}:"


@pytest.mark.usefixtures("no_weights")
class TestBeforeAnyWork:
    """Each with a recipe that would train but for one thing."""

    def test_a_golden_set_that_is_not_frozen(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        (tmp_path / "goldensets" / "LOCK.yaml").unlink()
        refused(recipe, LockError, "sums")
        assert LockError.exit_code == 3

    def test_a_golden_set_that_was_changed(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        path = tmp_path / "goldensets" / "sums" / "1" / "samples.jsonl"
        path.write_text(path.read_text().replace('"target": "2"', '"target": "3"'))
        refused(recipe, LockError, "sums")

    def test_a_gate_whose_baseline_is_another_model(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        tp.edit(tmp_path / "gate.yaml", baseline={"model": str(tiny.model(seed=1)), "device": "cpu"})
        refused(recipe, ConfigError, line_of(recipe, "model:"), "other weights than the baseline of gate.yaml")

    @pytest.mark.parametrize(
        "baseline",
        [
            {"kind": "scripted", "answers": "before.jsonl"},
            {"kind": "served", "model": "gpt", "url": "http://localhost:1"},
            {"adapter": "somewhere"},
        ],
        ids=["scripted", "served", "adapted"],
    )
    def test_a_gate_whose_baseline_is_not_the_bare_base(
        self, tiny: TinyModels, tmp_path: Path, baseline: dict[str, Any]
    ) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        given = {"model": str(tiny.model()), **baseline} if "kind" not in baseline else baseline
        tp.edit(tmp_path / "gate.yaml", baseline=given)
        refused(recipe, ConfigError, "gate.yaml:1: baseline", "the recipe's base model itself")

    @pytest.mark.parametrize(("section", "says"), [({"rnak": 4}, "did you mean 'rank'"), ({"rank": 0}, "rank")])
    def test_an_option_that_a_scope_does_not_take(
        self, tiny: TinyModels, tmp_path: Path, section: dict[str, Any], says: str
    ) -> None:
        recipe = tp.sft(tmp_path, tiny.model(), scope={"kind": "lora", **section})
        refused(recipe, ConfigError, line_of(recipe, "scope:").rstrip(":"), says)

    def test_an_unknown_scope_and_an_unknown_objective(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model(), scope={"kind": "lroa"})
        with pytest.raises(HarnessError, match="lora"):
            tp.run(recipe)
        tp.edit(recipe, scope={"kind": "lora"}, stages=[tp.stage("one", "dop", "rows.jsonl")])
        with pytest.raises(HarnessError, match="dpo"):
            tp.run(recipe)

    @pytest.mark.parametrize(
        ("scope", "kind"), [("head", "sft"), ("features", "reward"), ("prefix", "classify"), ("prompt", "orpo")]
    )
    def test_a_pair_that_cannot_be(self, tiny: TinyModels, tmp_path: Path, scope: str, kind: str) -> None:
        recipe = tp.sft(tmp_path, tiny.model(), scope=scope)
        tp.edit(recipe, stages=[tp.stage("one", kind, "rows.jsonl")])
        refused(recipe, ConfigError, line_of(recipe, "objective:"), "; use ")

    def test_a_scope_that_this_base_has_nothing_for(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model(), scope="bitfit")
        refused(recipe, ConfigError, "scope", "has no biases", "additive_bias")

    @pytest.mark.parametrize(
        ("scope", "merge", "says"),
        [
            ("ia3", {}, "only those of lora and qlora can"),
            ("full", {}, "only those of lora and qlora can"),
            ({"kind": "lora", "dora": True}, {}, "train without dora"),
            ("lora", {"weights": [1.0]}, "1 weights for 2 stages"),
            ("lora", {"stages": ["one", "one"]}, "named twice"),
            ("lora", {"stages": ["one", "reward"]}, "heads cannot be merged"),
        ],
    )
    def test_a_merge_that_would_be_another_model(
        self, tiny: TinyModels, tmp_path: Path, scope: Any, merge: dict[str, Any], says: str
    ) -> None:
        recipe = tp.sft(tmp_path, tiny.model(), scope=scope)
        base = {"starts_from": "base"}
        stages = [
            tp.stage("one", "sft", "rows.jsonl"), tp.stage("two", "sft", "rows.jsonl", **base),
            tp.stage("reward", "reward", "rows.jsonl", **base),
        ]  # fmt: skip
        tp.edit(recipe, stages=stages, merge={"stages": ["one", "two"], **merge})
        refused(recipe, ConfigError, line_of(recipe, "merge:"), says)

    def test_a_stage_that_goes_on_from_another_head(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        tp.edit(recipe, stages=[tp.stage("one", "sft", "rows.jsonl"), tp.stage("two", "reward", "rows.jsonl")])
        refused(recipe, ConfigError, "stages.1", "starts_from: base")

    def test_a_stage_that_starts_from_nothing(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        tp.edit(recipe, stages=[tp.stage("one", "sft", "rows.jsonl", starts_from="zero")])
        with pytest.raises(ConfigError, match="no earlier stage"):
            tp.run(recipe)

    def test_a_reward_model_that_is_to_be_gated(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        tp.edit(recipe, stages=[tp.stage("one", "reward", "rows.jsonl", gate=True)])
        refused(recipe, ConfigError, line_of(recipe, "gate: true"), "answers nothing that a gate could ask")

    def test_a_guard_that_could_look_at_nothing(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        suites = yaml.safe_load((tmp_path / "gate.yaml").read_text())["suites"]
        suites[0]["guards"] = [{"metric": "exact_match", "must_improve": 0.1}]
        tp.edit(tmp_path / "gate.yaml", suites=suites)
        stage = tp.stage("one", "sft", "rows.jsonl")
        tp.edit(recipe, stages=[{**stage, "forgetting": {}}])
        refused(recipe, ConfigError, line_of(recipe, "forgetting:"), "guard: null")

    def test_rows_that_overlap_with_a_frozen_set(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        rows = jobs.rows("completion", 4)
        leak = {"prompt": "3 + 3 =", "completion": " 6"}
        tp.write_rows(tmp_path / "rows.jsonl", [*rows, leak, {**leak, "prompt": "4 + 4 ="}])
        message = refused(recipe, DataError, "rows.jsonl:5", "rows.jsonl:6")
        assert "sums" in message

    def test_rows_without_the_columns_of_the_objective(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        tp.write_rows(tmp_path / "rows.jsonl", [{"sentence": "One?", "rating": 2}])
        refused(recipe, DataError, "rows.jsonl", "sentence")

    def test_rows_of_another_objective(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        tp.edit(recipe, stages=[tp.stage("one", "dpo", "rows.jsonl")])
        refused(recipe, DataError, "rows.jsonl", "chosen")

    def test_an_empty_file_and_one_that_is_not_there(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        (tmp_path / "rows.jsonl").write_text("")
        refused(recipe, DataError, "rows.jsonl")
        (tmp_path / "rows.jsonl").unlink()
        refused(recipe, DataError, "rows.jsonl")

    def test_the_rows_of_a_later_stage(self, tiny: TinyModels, tmp_path: Path) -> None:
        """They are looked at before the first stage is trained, and not hours later."""
        recipe = tp.sft(tmp_path, tiny.model())
        tp.edit(recipe, stages=[tp.stage("one", "sft", "rows.jsonl"), tp.stage("two", "sft", "absent.jsonl")])
        refused(recipe, DataError, "absent.jsonl")

    def test_conversations_with_a_tokenizer_that_has_no_chat_template(self, tiny: TinyModels, tmp_path: Path) -> None:
        model = shutil.copytree(tiny.model(), tmp_path / "model")
        (model / "chat_template.jinja").unlink()
        recipe = tp.sft(tmp_path, model)
        tp.write_rows(tmp_path / "rows.jsonl", CHAT)
        refused(recipe, DataError, line_of(recipe, "data:"), "no chat template", "base.chat_template")

    def test_a_chat_template_that_the_gate_does_not_use(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        (tmp_path / "other.jinja").write_text("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}")
        document = yaml.safe_load(recipe.read_text())
        tp.edit(recipe, base={**document["base"], "chat_template": "other.jinja"})
        refused(recipe, ConfigError, line_of(recipe, "base:"), "chat template makes other texts")

    def test_a_single_class(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        tp.write_rows(tmp_path / "rows.jsonl", [{"text": f"text {n}", "label": "yes"} for n in range(6)])
        tp.edit(recipe, stages=[tp.stage("one", "classify", "rows.jsonl")])
        refused(recipe, DataError, "'yes'")

    def test_rows_to_remember_that_nobody_named(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        stage = tp.stage("one", "sft", "rows.jsonl")
        tp.edit(recipe, stages=[{**stage, "forgetting": {"guard": None, "ewc": {"strength": 1.0}}}])
        refused(recipe, ConfigError, line_of(recipe, "ewc:"), "rows")

    def test_a_base_that_is_not_there(self, tiny: TinyModels, tmp_path: Path) -> None:
        recipe = tp.sft(tmp_path, tiny.model())
        tp.edit(recipe, base={"model": "./nowhere"})
        refused(recipe, SubjectError, "nowhere", "no such folder")

    def test_an_encoder_as_the_local_baseline(self, tmp_path: Path) -> None:
        model = make_encoder(tmp_path / "encoder")
        recipe = tp.sft(tmp_path, model)
        tp.write_rows(tmp_path / "rows.jsonl", jobs.rows("class", 6))
        tp.edit(recipe, stages=[tp.stage("one", "classify", "rows.jsonl")])
        refused(recipe, ConfigError, "gate.yaml:1: baseline", "kind: classifier")


# ---------------------------------------------------------------- tampering


@pytest.fixture(scope="module")
def trained(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert tp.run(tp.sft(folder, tiny.model())).exit_code == 0
    return folder


@pytest.mark.parametrize("name", [adapters.WEIGHTS, adapters.CONFIG])
def test_an_adapter_that_was_changed_after_its_training_is_held(trained: Path, tmp_path: Path, name: str) -> None:
    adapter = shutil.copytree(trained / "adapters" / "sft", tmp_path / "adapter")
    if name == adapters.CONFIG:
        said = json.loads((adapter / name).read_text())
        (adapter / name).write_text(json.dumps({**said, "lora_alpha": 1}))
    else:
        content = bytearray((adapter / name).read_bytes())
        content[-2] ^= 1
        (adapter / name).write_bytes(content)
    result = run_gate(with_candidate(load_gate(trained / "gate.yaml"), adapter), Silent())
    assert result.verdict.verdict == "hold"
    (failed,) = [check for check in result.verdict.checks if not check.passed]
    assert failed.name == "as-trained"
    assert name in failed.detail


def test_an_adapter_that_lost_a_file_is_held(trained: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(trained / "adapters" / "sft", tmp_path / "adapter")
    said = json.loads((adapter / adapters.RECORD).read_text())
    said["files"]["more.safetensors"] = "0" * 64
    (adapter / adapters.RECORD).write_text(json.dumps(said))
    result = run_gate(with_candidate(load_gate(trained / "gate.yaml"), adapter), Silent())
    assert result.verdict.verdict == "hold"
    assert "more.safetensors" in result.verdict.reasons[0]


def test_what_was_put_beside_an_adapter_is_held_if_a_loader_would_read_it(trained: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(trained / "adapters" / "sft", tmp_path / "adapter")
    (adapter / "README.md").write_text("What this adapter is for.")
    loaded = with_candidate(load_gate(trained / "gate.yaml"), adapter)
    assert run_gate(loaded, Silent()).verdict.verdict == "promote"
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    again = run_gate(loaded, Silent(), out=tmp_path / "runs")
    assert again.verdict.verdict == "hold"
    assert "chat_template.jinja was put there after the training" in again.verdict.reasons[0]


def test_an_adapter_of_other_base_weights_is_held(trained: Path, tiny: TinyModels, tmp_path: Path) -> None:
    """Everything fits, shapes and names; only the weights that it was trained on were others."""
    gate = tp.write_gate(tmp_path, tiny.model(seed=1))
    result = run_gate(with_candidate(load_gate(gate), trained / "adapters" / "sft"), Silent())
    assert result.verdict.verdict == "hold"
    assert "records other base weights" in result.verdict.reasons[0]


def test_the_base_that_changed_while_it_was_trained_on_is_noticed(tiny: TinyModels, tmp_path: Path) -> None:
    model = shutil.copytree(tiny.model(), tmp_path / "model")
    recipe = tp.sft(tmp_path, model)

    class Swap(tp.Told):
        def stage(self, text: str) -> None:
            if text.endswith("training"):
                shutil.copyfile(tiny.model(seed=1) / "model.safetensors", model / "model.safetensors")

    result = train(tp.loaded(recipe), Swap())
    assert result.verdict is not None
    assert result.verdict.verdict.verdict == "hold"
    assert re.search("other base weights", result.verdict.verdict.reasons[0])
