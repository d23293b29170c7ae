"""GRPO and RLOO: prompts that go in, the reference, rewards of each kind, and trainings that would learn nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, DataError, SubjectError
from harness.training.objectives import Intake
from tests import objective_jobs as jobs
from tests.conftest import TinyModels
from tests.test_objectives_preference import stir

pytestmark = pytest.mark.slow

LIKE = {"metric": "chrf"}
SMALL: dict[str, Any] = {"generations": 4, "max_new_tokens": 8, "max_failures": 0.5}


def prompts(count: int = 8) -> list[dict[str, Any]]:
    return [{**row, "target": "the the the"} for row in jobs.rows("prompt", count)]


def online(kind: str, **options: Any) -> Any:
    return jobs.objective(kind, **{"rewards": [LIKE], **SMALL, **options})


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("spoken", [False, True])
def test_it_learns_to_earn_more(tiny: TinyModels, tmp_path: Path, kind: str, spoken: bool) -> None:
    made = online(kind, beta=0.0)
    given = [jobs.chat(row) | {"target": "the the the"} if spoken else row for row in prompts(4)]
    job = jobs.job(
        tiny.model(), tmp_path, made, "prompt", train=given, batch_size=16, max_steps=25, learning_rate=5e-3,
        by=jobs.scope("full"),
        template=jobs.UNMARKED, scheduler="constant",
    )  # fmt: skip
    trainer = made.trainer(job)
    trainer.train()
    earned = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    assert sum(earned[-5:]) > 1.5 * sum(earned[:5]) > 0


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("name", ["full", "lora", "ia3", "prefix", "prompt"])
def test_the_divergence_from_the_start_is_none_at_the_start(
    tiny: TinyModels, tmp_path: Path, kind: str, name: str
) -> None:
    made = online(kind, beta=0.1)
    model = stir(jobs.scope(name).apply(jobs.load(tiny.model()), "language"))
    model.config._name_or_path = ""
    job = jobs.job(
        tiny.model(), tmp_path, made, "prompt", train=prompts(), by=jobs.scope(name), model=model, max_steps=3
    )
    trainer = made.trainer(job)
    trainer.train()
    moved = [log["kl"] for log in trainer.state.log_history if "kl" in log]
    assert moved[0] == pytest.approx(0, abs=1e-6)
    assert moved[-1] != 0, "the reference moves along"


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_no_reference_is_kept_where_none_is_used(tiny: TinyModels, tmp_path: Path, kind: str) -> None:
    made = online(kind, beta=0.0)
    job = jobs.job(tiny.model(), tmp_path, made, "prompt", train=prompts())
    trainer = made.trainer(job)
    assert list(job.model.peft_config) == ["default"]
    assert trainer.ref_model is None


def test_prompts_that_an_epoch_leaves_out_are_told_and_too_few_are_refused(tiny: TinyModels, tmp_path: Path) -> None:
    made = online("grpo")
    told: list[Intake] = []
    job = jobs.job(tiny.model(), tmp_path, made, "prompt", train=prompts(7), batch_size=12, told=told)
    trainer = made.trainer(job)
    seen = {row["prompt"] for batch in trainer.get_train_dataloader() for row in batch}
    assert len(seen) == 6
    assert told[0].notes == ("a step takes 3 prompts, so each epoch leaves out 1 of 7, others each time",)
    with pytest.raises(DataError, match="2 prompts do not fill one step of 3"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "prompt", train=prompts(2), batch_size=12))


def test_epochs_are_counted_in_prompts_times_generations(tiny: TinyModels, tmp_path: Path) -> None:
    made = online("rloo")
    job = jobs.job(tiny.model(), tmp_path, made, "prompt", train=prompts(6), batch_size=8, max_steps=None, epochs=2)
    trainer = made.trainer(job)
    trainer.train()
    assert trainer.state.global_step == 2 * 6 * 4 // 8


def test_settings_that_do_not_fit_together_are_refused(tiny: TinyModels, tmp_path: Path) -> None:
    made = online("grpo")
    for settings, message in (
        ({"batch_size": 6}, "6 completions a step .* no multiple of 4"),
        ({"too_long": "cut"}, "too_long is refuse or drop"),
        ({"max_length": 8}, "no room is left"),
        ({"max_length": 20}, "row 0"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            made.trainer(jobs.job(tiny.model(), tmp_path, made, "prompt", train=prompts(), **settings))


def test_a_training_without_any_difference_in_reward_stops(tiny: TinyModels, tmp_path: Path) -> None:
    made = online("grpo", patience_without_signal=3)
    given = [{"prompt": "Question?", "target": "\u4e00"}] * 4
    job = jobs.job(tiny.model(), tmp_path, made, "prompt", train=given, max_steps=10)
    with pytest.raises(DataError, match="step 3: for 3 logs on end all completions"):
        made.trainer(job).train()


def test_the_best_checkpoint_is_the_one_that_earns_most(tiny: TinyModels, tmp_path: Path) -> None:
    made = online("rloo", beta=0.0)
    job = jobs.job(
        tiny.model(), tmp_path, made, "prompt", train=prompts(), validation=prompts(3), max_steps=4, eval_every=2,
        patience=1,
    )  # fmt: skip
    trainer = made.trainer(job)
    trainer.train()
    earned = [log["eval_reward"] for log in trainer.state.log_history if "eval_reward" in log]
    assert trainer.state.best_metric == max(earned)


def test_rows_that_a_metric_cannot_score_are_refused_before_any_work(tiny: TinyModels, tmp_path: Path) -> None:
    made = online("grpo")
    with pytest.raises(DataError, match="train: row 1 cannot be scored by chrf"):
        made.trainer(jobs.job(tiny.model(), tmp_path, made, "prompt", train=[prompts()[0], {"prompt": "no target"}]))
    choices = online("grpo", rewards=[{"metric": "multiple_choice"}])
    with pytest.raises(ConfigError, match="likelihoods of choices"):
        choices.trainer(jobs.job(tiny.model(), tmp_path, choices, "prompt", train=prompts()))
    code = online("grpo", rewards=[{"metric": "code_execution"}])
    with pytest.raises(ConfigError, match="allow_code: true"):
        code.trainer(jobs.job(tiny.model(), tmp_path, code, "prompt", train=prompts()))
    with pytest.raises(ConfigError, match="one of them"):
        online("grpo", rewards=[{"metric": "contains", "model": "x"}])


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_reward_model_is_asked_as_it_was_trained(tiny: TinyModels, tmp_path: Path, name: str) -> None:
    import torch

    from harness.training.objectives._reward_model import RewardModel

    made = jobs.objective("reward")
    trained = jobs.job(tiny.model(), tmp_path / "t", made, "preference", by=jobs.scope(name), learning_rate=1e-2)
    trainer = made.trainer(trained)
    trainer.train()
    folder = tmp_path / "judge"
    trained.model.save_pretrained(folder)
    trained.tokenizer.save_pretrained(folder)
    model, rows = trained.model.eval(), jobs.rows("preference")
    with torch.no_grad():
        expected = [float(model(input_ids=torch.tensor([r["chosen_ids"]])).logits) for r in trainer.train_dataset]
    reward = RewardModel(folder, None, "cpu")
    given = [r["prompt"] for r in rows], [r["chosen"] for r in rows]
    assert reward(*given, [True] * 8) == pytest.approx(expected, abs=1e-4)
    assert reward(*given, [False] * 8) != pytest.approx(expected, abs=1e-4)

    learner = online("rloo", rewards=[{"model": "judge"}, {**LIKE, "weight": 0.5}])
    job = jobs.job(tiny.model(), tmp_path / "o", learner, "prompt", train=prompts())
    made_trainer = learner.trainer(replace(job, home=tmp_path))
    made_trainer.train()
    names = {key for log in made_trainer.state.log_history for key in log}
    assert {"rewards/model_judge/mean", "rewards/chrf/mean"} <= names


def test_what_is_no_reward_model_is_refused(tiny: TinyModels, tmp_path: Path) -> None:
    from harness.training.objectives._reward_model import RewardModel

    with pytest.raises(ConfigError, match=r"is no reward model: it holds no score\.weight"):
        RewardModel(tiny.model(), None, "cpu")
    with pytest.raises(ConfigError, match=r"is no reward model: its adapter holds no score\.weight"):
        RewardModel(tiny.adapter(), None, "cpu")
    with pytest.raises(ConfigError, match="holds no reward model"):
        RewardModel(tmp_path, None, "cpu")


class TestMissingRewards:
    def test_a_few_may_be_missing_and_many_end_the_training(self) -> None:
        from harness.training.objectives._rewards import Tally

        tally = Tally("judge", 0.1)
        assert tally.checked([1.0] * 18 + [None]) == [1.0] * 18 + [None]
        with pytest.raises(SubjectError, match="judge: 3 of 25 answers could not be scored"):
            tally.checked([1.0] * 4 + [None, None])

    def test_a_batch_without_any_ends_it_at_once(self) -> None:
        from harness.training.objectives._rewards import Tally

        with pytest.raises(SubjectError, match="2 of 2"):
            Tally("judge", 0.5).checked([None, None])


def test_a_judge_that_is_down_ends_the_training(tiny: TinyModels, tmp_path: Path) -> None:
    down = {"judge": {"model": "openai/none", "api_base": "http://127.0.0.1:9/v1", "retries": 0}}
    made = online("grpo", rewards=[down])
    job = jobs.job(tiny.model(), tmp_path, made, "prompt", train=prompts())
    with pytest.raises(SubjectError, match="reward judge: 4 of 4 answers could not be scored"):
        made.trainer(job).train()
