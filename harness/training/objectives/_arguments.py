"""The recipe's settings as a trainer's arguments, in one place for every objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from harness.errors import ConfigError
from harness.training.objectives import Job

ADAPTER_RATE, FULL_RATE = 2e-4, 1e-5  # where neither recipe nor scope gives a learning rate
PREFERENCE_SHARE = 0.1
"""Preferences and rewards are learnt at a tenth of the rate of texts: TRL's own defaults are 1e-6 against 2e-5."""

_EVALUATIONS = 10  # in a training, unless `eval_every` says otherwise
_LOGS = 100  # in a training
_RENAMED = {"gradient_checkpointing": "activation_checkpointing"}


def steps(job: Job, rows: int) -> int:
    """Optimiser steps of a training over `rows` rows, as the trainer counts them."""
    settings = job.settings
    if settings.max_steps is not None:
        return settings.max_steps
    batches = math.ceil(rows / settings.batch_size)
    return max(1, math.ceil(settings.epochs * max(1, math.ceil(batches / settings.gradient_accumulation))))


def arguments(
    job: Job,
    config: Any,
    *,
    rows: int,
    rate: float = 1.0,
    best: tuple[str, bool] = ("eval_loss", False),
    own: Mapping[str, Any] | None = None,
) -> Any:
    """A `config` (TrainingArguments or one of TRL's) from the job's settings; `own` is what the objective adds.

    `rows` are those of an epoch. `rate` is a share of the scope's learning rate. `best` is the metric that a checkpoint
    is best by, and whether more of it is better. What the scope cannot do without outranks everything.

    Raises:
        ConfigError: settings that contradict each other.
    """
    total = steps(job, rows)
    chosen = {
        **_optimisation(job, rate),
        **_schedule(job, total, best),
        **_machine(job),
        **(own or {}),
        **{_RENAMED.get(key, key): value for key, value in job.scope.arguments.items()},
    }
    return config(**chosen)


def _optimisation(job: Job, rate: float) -> dict[str, Any]:
    settings, defaults = job.settings, job.scope.defaults
    fallback = FULL_RATE if job.scope.traits.saves == "checkpoint" else ADAPTER_RATE
    return {
        "learning_rate": settings.learning_rate or defaults.get("learning_rate", fallback) * rate,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_steps,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "optim": settings.optimizer or defaults.get("optim", "adamw_torch"),
        "weight_decay": settings.weight_decay,
        "adam_beta2": settings.adam_beta2,
        "max_grad_norm": settings.max_grad_norm,
        "activation_checkpointing": settings.activation_checkpointing,
    }


def _schedule(job: Job, total: int, best: tuple[str, bool]) -> dict[str, Any]:
    settings = job.settings
    every = settings.eval_every or max(1, total // _EVALUATIONS)
    saving = settings.save_every or every
    chosen: dict[str, Any] = {
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "logging_steps": max(1, total // _LOGS),
        "save_strategy": "steps",
        "save_steps": saving,
        "save_total_limit": 2,  # the newest, and the best where there is one
        "eval_strategy": "steps" if job.validation else "no",
        "eval_steps": every if job.validation else None,
    }
    if settings.patience is None:
        return chosen
    if not job.validation:
        raise ConfigError("patience counts evaluations on validation rows, and there are none: set data.validation")
    if saving % every:
        raise ConfigError(f"patience goes back to the best checkpoint: save_every must be a multiple of {every}")
    metric, more_is_better = best
    return chosen | {
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": more_is_better,
    }


def _machine(job: Job) -> dict[str, Any]:
    precision = _precision(job)
    return {
        "output_dir": str(job.folder),
        "seed": job.seed,
        "data_seed": job.seed,
        "use_cpu": job.device == "cpu",
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "report_to": [],
        "disable_tqdm": True,
        "push_to_hub": False,
        "logging_nan_inf_filter": False,  # a loss that is no number is news
        "dataloader_pin_memory": job.device == "cuda",
        "prediction_loss_only": True,
    }


def _precision(job: Job) -> Literal["bf16", "fp16", "none"]:
    """Mixed precision in the type that the model was loaded in, on CUDA only; float32 stays float32."""
    kind = str(job.model.dtype).removeprefix("torch.")
    if kind == "float16" and any(p.requires_grad and str(p.dtype) == "torch.float16" for p in job.model.parameters()):
        raise ConfigError("weights in float16 cannot be trained: their gradients overflow; set base.dtype: bfloat16")
    if job.device != "cuda":
        return "none"
    return "bf16" if kind == "bfloat16" else "fp16" if kind == "float16" else "none"
