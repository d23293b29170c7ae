"""The demo's two trainings, run for real: one forgets, one learns, and both leave a plain PEFT adapter."""

import json
from pathlib import Path

import pytest

from harness.demo import training
from harness.demo.answers import accuracy
from harness.demo.frozen import golden_questions
from harness.demo.skills import NEW_SKILL, OLD_SKILLS
from harness.demo.training import DATA_NAME, MODEL, PLANS, train_adapter, training_rows

SEED = 0


def test_a_seed_gives_the_same_rows_and_another_seed_others():
    assert training_rows(PLANS["careful"], 1) == training_rows(PLANS["careful"], 1)
    assert training_rows(PLANS["careful"], 1) != training_rows(PLANS["careful"], 2)


def test_only_the_careful_training_replays():
    assert training_rows(PLANS["careless"], SEED)[1] == 0
    rows, replayed = training_rows(PLANS["careful"], SEED)
    assert replayed / len(rows) == PLANS["careful"].replay_share


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return {style: train_adapter(style, folder / style, seed=SEED) for style in PLANS}


def accuracies(adapter: Path | None) -> dict[str, float]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype="float32")
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    skills = (*OLD_SKILLS, NEW_SKILL)
    return {skill.name: accuracy(model.eval(), tokenizer, golden_questions(skill)) for skill in skills}


@pytest.fixture(scope="module")
def base() -> dict[str, float]:
    return accuracies(None)


@pytest.mark.slow
@pytest.mark.parametrize("style", sorted(PLANS))
def test_the_folder_holds_a_plain_adapter_and_its_rows(trained, style):
    summary = trained[style]
    assert {"adapter_config.json", "adapter_model.safetensors", DATA_NAME} <= {
        p.name for p in summary.adapter.iterdir()
    }
    assert not list(summary.adapter.rglob("*.bin"))
    config = json.loads((summary.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert Path(config["base_model_name_or_path"]) == MODEL
    assert len(summary.data.read_text(encoding="utf-8").splitlines()) == summary.rows
    assert summary.steps == PLANS[style].steps


@pytest.mark.slow
def test_the_careless_one_learns_and_forgets(trained, base):
    careless = accuracies(trained["careless"].adapter)
    assert careless["consonants"] >= 0.8
    assert min(careless[skill.name] - base[skill.name] for skill in OLD_SKILLS) < -0.2


@pytest.mark.slow
def test_the_careful_one_learns_and_keeps(trained, base):
    careful = accuracies(trained["careful"].adapter)
    assert careful["consonants"] - base["consonants"] >= 0.5
    assert min(careful[skill.name] - base[skill.name] for skill in OLD_SKILLS) > -0.04


@pytest.mark.slow
def test_the_same_seed_gives_the_same_adapter_and_progress_is_told(tmp_path, monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(training.PLANS, "careless", replace(PLANS["careless"], steps=20))
    told: list[tuple[int, int, float]] = []
    first = train_adapter("careless", tmp_path / "a", seed=4, on_step=lambda *step: told.append(step))
    second = train_adapter("careless", tmp_path / "b", seed=4)
    weights = [(s.adapter / "adapter_model.safetensors").read_bytes() for s in (first, second)]
    assert weights[0] == weights[1]
    assert [step[:2] for step in told] == [(10, 20), (20, 20)]
    assert told[-1][2] == first.loss
