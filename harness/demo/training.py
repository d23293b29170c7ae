"""The demo's two LoRA trainings on the new skill, done with TRL as a team would do them.

The careless one sees nothing but the new skill, at a higher learning rate, and overwrites what the model knew. The
careful one goes gentler and longer, with more room (rank), and mixes in questions of the old skills (replay).
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from harness.demo.skills import NEW_SKILL, OLD_SKILLS, Question, training_questions

Style = Literal["careless", "careful"]
OnStep = Callable[[int, int, float], None]
"""Told (step, steps, loss) every few steps."""

MODEL = Path(__file__).parent / "model"
DATA_NAME = "training_rows.jsonl"
"""Written beside the adapter: every row it was trained on, for the gate's contamination check."""

_LOG_EVERY = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What one style of training does."""

    steps: int
    rows_per_step: int
    learning_rate: float
    replay_share: float
    """Share of the rows that ask for old skills, in equal parts."""
    rank: int = 16
    alpha: int = 32
    warmup_steps: int = 10
    beta2: float = 0.99
    """Adam's memory of squared gradients; its usual 0.999 outlasts a training of a hundred steps."""


PLANS: dict[Style, Plan] = {
    "careless": Plan(steps=60, rows_per_step=16, learning_rate=5e-3, replay_share=0.0),
    "careful": Plan(steps=200, rows_per_step=24, learning_rate=3e-3, replay_share=0.75),
}


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """What a training did. `loss` is the mean over the last logged steps; `data` holds its rows."""

    style: Style
    seed: int
    adapter: Path
    data: Path
    rows: int
    replayed: int
    steps: int
    learning_rate: float
    loss: float
    seconds: float


def training_rows(plan: Plan, seed: int) -> tuple[list[Question], int]:
    """The rows of a training, shuffled, and how many of them replay old skills."""
    rng = Random(seed)  # noqa: S311  # data, not a secret
    total = plan.steps * plan.rows_per_step
    replayed = round(total * plan.replay_share)
    new = training_questions(NEW_SKILL, rng)
    old = [training_questions(skill, rng) for skill in OLD_SKILLS]
    rows = [next(new) for _ in range(total - replayed)]
    rows += [next(old[place % len(old)]) for place in range(replayed)]
    rng.shuffle(rows)
    return rows, replayed


def train_adapter(
    style: Style, out: Path, *, seed: int, base: Path = MODEL, on_step: OnStep | None = None
) -> TrainingSummary:
    """Train a LoRA adapter into the folder `out`, which holds a plain PEFT adapter afterwards.

    The same style, seed and machine give the same adapter.
    """
    started = time.monotonic()
    plan = PLANS[style]
    rows, replayed = training_rows(plan, seed)
    out.mkdir(parents=True, exist_ok=True)
    data = out / DATA_NAME
    examples = [{"prompt": row.prompt, "completion": f" {row.answer}"} for row in rows]
    data.write_text("".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8")
    with warnings.catch_warnings():
        # TRL still reads a property that transformers has renamed; nothing for the reader of a demo.
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        loss = _fit(plan, examples, out, seed, base, on_step)
    return TrainingSummary(
        style=style,
        seed=seed,
        adapter=out,
        data=data,
        rows=len(rows),
        replayed=replayed,
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        loss=loss,
        seconds=time.monotonic() - started,
    )


def _fit(plan: Plan, examples: list[dict[str, str]], out: Path, seed: int, base: Path, on_step: OnStep | None) -> float:
    """Run TRL's trainer and save the adapter; returns the last logged loss."""
    import datasets
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, set_seed
    from transformers.utils import logging
    from trl import SFTConfig, SFTTrainer

    set_seed(seed)
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(out),
            max_steps=plan.steps,
            per_device_train_batch_size=plan.rows_per_step,
            learning_rate=plan.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=plan.warmup_steps,
            adam_beta2=plan.beta2,
            max_length=64,
            seed=seed,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            report_to="none",
            logging_steps=min(_LOG_EVERY, plan.steps),
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(examples),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=plan.rank,
            lora_alpha=plan.alpha,
            lora_dropout=0.0,
            target_modules="all-linear",
        ),
        callbacks=[_watcher(plan.steps, on_step)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.model.save_pretrained(out, safe_serialization=True)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return float(losses[-1])


def _watcher(steps: int, on_step: OnStep | None) -> Any:
    """A trainer callback that passes the loss on."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by the type checker
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            if on_step is not None and logs and "loss" in logs:
                on_step(state.global_step, steps, float(logs["loss"]))

    return Watcher()
