"""A training that was stopped, or killed, goes on to the very result that it would have had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.training.objectives._trainers import last_checkpoint
from tests import objective_jobs as jobs
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow

ONLINE: dict[str, Any] = {
    "rewards": [{"metric": "chrf"}], "generations": 4, "max_new_tokens": 6, "beta": 0.05, "max_failures": 0.5
}  # fmt: skip
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("sft", "completion", "full", {}),
    ("sft", "completion", "lora", {}),
    ("sft", "completion", "ptuning", {}),
    ("sft", "completion", "prefix", {}),
    ("dpo", "preference", "full", {}),
    ("dpo", "preference", "ia3", {}),
    ("kto", "labelled", "lora", {}),
    ("orpo", "preference", "lora", {}),
    ("simpo", "preference", "lora", {}),
    ("reward", "preference", "lora", {}),
    ("classify", "class", "lora", {}),
    ("grpo", "prompt", "lora", ONLINE),
    ("rloo", "prompt", "full", ONLINE),
    ("rloo", "prompt", "ia3", ONLINE),
]


def job_of(tiny: TinyModels, folder: Path, case: Any, callbacks: Sequence[Any] = ()) -> tuple[Any, Any]:
    kind, rows_kind, name, options = case
    made = jobs.objective(kind, **options)
    job = jobs.job(
        tiny.model(), folder, made, rows_kind, by=jobs.scope(name), train=jobs.rows(rows_kind, 16), max_steps=6,
        save_every=2, callbacks=callbacks,
    )  # fmt: skip
    return made, job


def stop_at(step: int) -> Any:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            control.should_training_stop = state.global_step >= step

    return Stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_a_training_that_stopped_goes_on_as_if_it_had_not(tiny: TinyModels, tmp_path: Path, case: Any) -> None:
    import torch

    made, whole = job_of(tiny, tmp_path / "whole", case)
    expected = made.trainer(whole)
    expected.train()
    made, stopped = job_of(tiny, tmp_path / "parts", case, [stop_at(4)])
    made.trainer(stopped).train()
    made, resumed = job_of(tiny, tmp_path / "parts", case)
    trainer = made.trainer(resumed)
    checkpoint = last_checkpoint(tmp_path / "parts")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-4"
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert jobs.losses(trainer)[-2:] == pytest.approx(jobs.losses(expected)[-2:], abs=1e-4)
    for name, parameter in jobs.trained(whole.model).items():
        assert torch.allclose(parameter, jobs.trained(resumed.model)[name], atol=1e-5), name


def test_a_training_that_was_killed_reaches_the_same_loss(tiny: TinyModels, tmp_path: Path) -> None:
    base, folder = tiny.model(), tmp_path / "killed"
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([sys.executable, __file__, str(base), str(folder)], env=environment)
    try:
        waited = time.monotonic() + 200
        while last_checkpoint(folder) is None and time.monotonic() < waited:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None
    made, job = job_of(tiny, folder, CASES[1])
    trainer = made.trainer(job)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    made, whole = job_of(tiny, tmp_path / "whole", CASES[1])
    expected = made.trainer(whole)
    expected.train()
    assert jobs.losses(trainer)[-1] == pytest.approx(jobs.losses(expected)[-1], abs=1e-4)
    assert len(jobs.losses(trainer)) == 6


def test_a_checkpoint_that_was_being_written_is_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    states = {"checkpoint-2": "{}", "checkpoint-10": '{"half', "checkpoint-12": None, "checkpoint-x": "{}"}
    for name, state in states.items():
        (tmp_path / name).mkdir()
        if state is not None:
            (tmp_path / name / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize(("name", "rate"), [("ptuning", 5.0), ("lora", 0.05)])
def test_the_best_checkpoint_is_put_back_whole(tiny: TinyModels, tmp_path: Path, name: str, rate: float) -> None:
    """What is learnt makes the rows of validation ever less likely; the best checkpoint must answer as it did."""
    made = jobs.objective("sft")
    apart = [{"prompt": f"{n}", "completion": " \u4e00\u4e8c\u4e09"} for n in range(3)]
    job = jobs.job(
        tiny.model(), tmp_path, made, "completion", by=jobs.scope(name), validation=apart, max_steps=12, eval_every=1,
        patience=2, learning_rate=rate, scheduler="constant",
    )  # fmt: skip
    trainer = made.trainer(job)
    trainer.train()
    found = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert len(found) < 12, "patience did not end it"
    assert found[-1] > min(found)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(found), abs=1e-4)


def _main() -> None:
    """What the killed process runs: slowly, so that it is killed in the middle."""
    from transformers import TrainerCallback

    class Slow(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            time.sleep(0.5)

    class Tiny:
        def model(self) -> Path:
            return Path(sys.argv[1])

    made, job = job_of(Tiny(), Path(sys.argv[2]), CASES[1], [Slow()])  # type: ignore[arg-type]
    made.trainer(job).train()


if __name__ == "__main__":
    _main()
