"""The callbacks in every trainer of TRL: one line each, and a training that is not stopped ends as it would have."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from tests.conftest import TinyModels
from tests.forgetting_project import equal, load, own_answers, weights

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

PREFERENCES = [{"prompt": f"{i} + 1 =", "chosen": f" {i + 1}", "rejected": " no"} for i in range(8)]
COMPLETIONS = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PREFERENCES]
LABELLED = [{**row, "label": i % 2 == 0} for i, row in enumerate(COMPLETIONS)]
PROMPTS = [{"prompt": row["prompt"]} for row in PREFERENCES]


def by_length(completions: list[str], **_: Any) -> list[float]:
    """A reward that differs between completions, so that there is something to learn."""
    return [float(len(set(text))) for text in completions]


def trainers() -> dict[str, tuple[Any, Any, list[dict[str, Any]], dict[str, Any], dict[str, Any]]]:
    """Trainer, its configuration, rows, and extra arguments of either, by name."""
    import trl
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    short, reward = {"max_length": 32}, {"reward_funcs": by_length}
    write = {"max_completion_length": 4, "num_generations": 4}
    return {
        "SFT": (trl.SFTTrainer, trl.SFTConfig, COMPLETIONS, short, {}),
        "DPO": (trl.DPOTrainer, trl.DPOConfig, PREFERENCES, short, {}),
        "KTO": (trl.KTOTrainer, trl.KTOConfig, LABELLED, short, {}),
        "ORPO": (ORPOTrainer, ORPOConfig, PREFERENCES, short, {}),
        "CPO": (CPOTrainer, CPOConfig, PREFERENCES, short, {}),
        "GRPO": (trl.GRPOTrainer, trl.GRPOConfig, PROMPTS, write, reward),
        "RLOO": (trl.RLOOTrainer, trl.RLOOConfig, PROMPTS, write, reward),
    }


def train(name: str, base: Path, out: Path, add: Callable[[Any], None]) -> tuple[dict[str, Any], Any]:
    """Two steps of LoRA with dropout under the trainer `name`; `add` is the user's one line."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer

    kind, config, rows, settings, extra = trainers()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = kind(
            model=load(base),
            args=config(
                output_dir=str(out), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-6, use_cpu=True,
                bf16=False, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, **settings,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(base),
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.1, target_modules="all-linear"),
            **extra,
        )  # fmt: skip
        add(trainer)
        trainer.train()
    return weights(trainer.model), trainer


@pytest.fixture(scope="module")
def project(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("gate")
    return tiny.model(), own_answers(folder, tiny.model())


@pytest.mark.parametrize("name", ["SFT", "DPO", "KTO", "ORPO", "CPO", "GRPO", "RLOO"])
def test_one_line_adds_the_guard_and_changes_nothing_else(
    project: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    from harness.training import ForgettingGuard

    base, gate = project
    guard = ForgettingGuard(gate, every=1, cost=100)
    plain, _ = train(name, base, tmp_path / "plain", lambda trainer: None)
    guarded, trainer = train(name, base, tmp_path / "guarded", lambda trainer: trainer.add_callback(guard))
    assert [look.step for look in guard.looks] == [1, 2]
    assert all(look.clear for look in guard.looks)
    assert equal(plain, guarded)
    assert trainer.model.training
    assert trainer.model.active_adapter == "default"


@pytest.mark.parametrize("name", ["SFT", "DPO", "GRPO"])
def test_penalties_work_in_trainers_that_scale_their_loss_differently(
    project: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    from harness.training.forgetting import L2SP, Ewc, StopOnNaN

    def add(trainer: Any) -> None:
        for callback in (StopOnNaN(), L2SP(0.1), Ewc(1.0, COMPLETIONS, samples=2)):
            trainer.add_callback(callback)

    _, trainer = train(name, project[0], tmp_path, add)
    logged = [line for line in trainer.state.log_history if "loss" in line]
    assert logged[0]["l2_sp"] == logged[0]["ewc"] == 0.0  # a fresh adapter has moved nothing yet
    assert logged[1]["l2_sp"] > 0
    assert logged[1]["ewc"] > 0


def test_a_reward_model_writes_no_text_and_is_refused_but_can_be_penalised(
    project: tuple[Path, Path], tmp_path: Path
) -> None:
    import trl
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from harness.training import ForgettingGuard
    from harness.training.forgetting import L2SP

    base, gate = project

    def reward(callback: Any) -> Any:
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        return trl.RewardTrainer(
            model=model,
            args=trl.RewardConfig(
                output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, use_cpu=True, bf16=False,
                report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, max_length=32,
            ),
            train_dataset=Dataset.from_list(PREFERENCES),
            processing_class=AutoTokenizer.from_pretrained(base),
            callbacks=[callback],
        )  # fmt: skip

    with pytest.raises(ConfigError, match="no language head"):
        reward(ForgettingGuard(gate)).train()
    trainer = reward(L2SP(0.1))
    trainer.train()
    assert [line["l2_sp"] for line in trainer.state.log_history if "loss" in line][1] > 0


def test_what_a_recipe_asks_for_becomes_callbacks(project: tuple[Path, Path]) -> None:
    from harness.training.forgetting import callbacks
    from harness.training.recipe import EwcSection, ForgettingSection

    section = ForgettingSection(l2_sp=0.5, ewc=EwcSection(strength=2.0, samples=3))
    made = callbacks(section, gate=project[1], rows=COMPLETIONS)
    assert [type(c).__name__ for c in made] == ["StopOnNaN", "L2SP", "Ewc", "ForgettingGuard"]
    assert [type(c).__name__ for c in callbacks(ForgettingSection(guard=None), gate=project[1])] == ["StopOnNaN"]
    with pytest.raises(ConfigError, match="no rows"):
        callbacks(section, gate=project[1])
