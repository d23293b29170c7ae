"""The recipe's settings as a trainer's arguments."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from tests import objective_jobs as jobs
from tests.conftest import TinyModels

pytestmark = pytest.mark.slow


def made(tiny: TinyModels, folder: Path, kind: str = "sft", rows_kind: Any = "completion", **settings: Any) -> Any:
    objective = jobs.objective(kind)
    return objective.trainer(jobs.job(tiny.model(), folder, objective, rows_kind, **settings)).args


def test_settings_are_arguments(tiny: TinyModels, tmp_path: Path) -> None:
    args = made(
        tiny, tmp_path, max_steps=None, epochs=2.5, learning_rate=3e-4, scheduler="linear", warmup_steps=3,
        batch_size=2, gradient_accumulation=2, weight_decay=0.1, adam_beta2=0.95, max_grad_norm=0.5, save_every=7,
        optimizer="adafactor", activation_checkpointing=True,
    )  # fmt: skip
    said = {
        "num_train_epochs": 2.5, "max_steps": -1, "learning_rate": 3e-4, "lr_scheduler_type": "linear",
        "warmup_steps": 3, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2, "weight_decay": 0.1, "adam_beta2": 0.95, "max_grad_norm": 0.5,
        "optim": "adafactor", "save_steps": 7, "activation_checkpointing": True, "seed": 0, "data_seed": 0,
        "bf16": False, "fp16": False, "use_cpu": True, "report_to": [], "disable_tqdm": True, "push_to_hub": False,
        "logging_nan_inf_filter": False, "save_strategy": "steps", "eval_strategy": "no",
        "load_best_model_at_end": False, "output_dir": str(tmp_path), "max_length": None,
    }  # fmt: skip
    assert {name: getattr(args, name) for name in said} == said


def test_defaults_come_from_the_scope_and_its_arguments_outrank_the_recipe(tiny: TinyModels, tmp_path: Path) -> None:
    plain = {"learning_rate": None}
    assert made(tiny, tmp_path, **plain).learning_rate == 2e-4
    assert made(tiny, tmp_path, **plain, by=jobs.scope("full")).learning_rate == 1e-5
    assert made(tiny, tmp_path, "dpo", "preference", **plain).learning_rate == pytest.approx(2e-5)
    own: Any = replace(jobs.scope("lora"), defaults={"learning_rate": 5e-3, "optim": "sgd"})  # type: ignore[type-var]
    args = made(tiny, tmp_path, **plain, by=own)
    assert (args.learning_rate, str(args.optim.value)) == (5e-3, "sgd")
    prefix = made(tiny, tmp_path, by=jobs.scope("prefix"), activation_checkpointing=True)
    assert prefix.activation_checkpointing is False


def test_evaluations_and_checkpoints_are_spread_over_the_training(tiny: TinyModels, tmp_path: Path) -> None:
    rows = jobs.rows("completion", 80)
    given: dict[str, Any] = {"train": rows, "validation": rows[:2], "max_steps": None, "batch_size": 2}
    args = made(tiny, tmp_path, **given, epochs=2)
    assert (args.eval_strategy.value, args.eval_steps, args.save_steps) == ("steps", 8, 8)
    args = made(tiny, tmp_path, **given, eval_every=3, save_every=6, patience=2)
    assert (args.eval_steps, args.save_steps, args.load_best_model_at_end) == (3, 6, True)
    assert (args.metric_for_best_model, args.greater_is_better) == ("eval_loss", False)


def test_patience_needs_something_to_wait_for(tiny: TinyModels, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are none: set data"):
        made(tiny, tmp_path, patience=1)
    with pytest.raises(ConfigError, match="save_every must be a multiple of 2"):
        made(tiny, tmp_path, patience=1, eval_every=2, save_every=3, validation=jobs.rows("completion", 2))


def test_mixed_precision_is_for_cuda_and_follows_the_type_of_the_model() -> None:
    from types import SimpleNamespace

    import torch

    from harness.training.objectives._arguments import _precision

    def precision(device: str, dtype: Any, trained: Any) -> str:
        parameter = torch.nn.Parameter(torch.zeros(1, dtype=trained))
        model = SimpleNamespace(dtype=dtype, parameters=lambda: [parameter])
        return str(_precision(SimpleNamespace(device=device, model=model)))  # type: ignore[arg-type]

    assert precision("cpu", torch.bfloat16, torch.float32) == "none"
    assert precision("mps", torch.bfloat16, torch.float32) == "none"
    assert precision("cuda", torch.bfloat16, torch.float32) == "bf16"
    assert precision("cuda", torch.float32, torch.float32) == "none"
    assert precision("cuda", torch.float16, torch.float32) == "fp16"
    with pytest.raises(ConfigError, match="float16 cannot be trained"):
        precision("cuda", torch.float16, torch.float16)


def test_a_training_touches_no_network_and_writes_inside_its_folder_only(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> Any:
        raise AssertionError(f"a connection to {given}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    objective = jobs.objective("sft")
    job = jobs.job(tiny.model(), tmp_path / "out", objective, "completion", validation=jobs.rows("completion", 2))
    objective.trainer(job).train()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_loss_that_is_no_number_is_logged(tiny: TinyModels, tmp_path: Path) -> None:
    import torch

    objective = jobs.objective("sft")
    job = jobs.job(tiny.model(), tmp_path, objective, "completion", by=jobs.scope("full"))
    with torch.no_grad():
        job.model.lm_head.weight.fill_(float("nan"))
    trainer = objective.trainer(job)
    trainer.train()
    assert jobs.losses(trainer)[0] != jobs.losses(trainer)[0]


def test_callbacks_see_the_model_and_a_progress_printer_is_not_among_them(tiny: TinyModels, tmp_path: Path) -> None:
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    seen: list[Any] = []

    class Look(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            seen.append(given["model"])

    objective = jobs.objective("sft")
    job = jobs.job(tiny.model(), tmp_path, objective, "completion", callbacks=[Look()])
    trainer = objective.trainer(job)
    trainer.train()
    assert seen == [job.model, job.model]
    assert not [c for c in trainer.callback_handler.callbacks if isinstance(c, PrinterCallback | ProgressCallback)]


def test_what_is_left_out_is_said(tiny: TinyModels, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tiny, tmp_path, "dpo", "preference", by=jobs.scope("lora", dropout=0.1))
    assert "DPO trains without dropout" in caplog.text
    caplog.clear()
    made(tiny, tmp_path, by=jobs.scope("lora", dropout=0.1))
    assert "dropout" not in caplog.text
    model = jobs.load(tiny.model()).bfloat16()
    made(tiny, tmp_path, by=jobs.scope("full"), model=model)
    assert "bfloat16 lose every step" in caplog.text
