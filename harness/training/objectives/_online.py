"""Objectives that learn from what the model itself writes, by the rewards of several answers to each prompt.

A completion is compared with the others to the same prompt, so that what goes in is prompts times generations. Dropout
is off: a completion's likelihood when it was drawn and when it is learnt from would differ by it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import ConfigError, DataError
from harness.training.objectives import Job, Part, Row, RowKind
from harness.training.objectives._arguments import PREFERENCE_SHARE, arguments
from harness.training.objectives._fitting import Fitting, dataset, rows_of, tokens_of
from harness.training.objectives._reference import drop_reference_adapter, mend_reference_adapter, reference_of
from harness.training.objectives._rewards import RewardSection, built
from harness.training.objectives._tokens import Tokenised
from harness.training.objectives._trainers import assembled, refuse_head, refuse_output_adapter
from harness.training.scopes import Head, Scope

_SILENT = "frac_reward_zero_std"


class OnlineOptions(BaseModel):
    """Options of an objective that learns from its own completions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rewards: tuple[RewardSection, ...] = Field(min_length=1, description="added up by their weights")
    generations: int = Field(8, ge=2, description="completions for each prompt; batch_size counts completions")
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    learn_from_cut: bool = Field(True, description="also learn from completions that max_new_tokens cut off")
    max_failures: float = Field(0.02, ge=0, lt=1, description="share of rewards that may be missing")
    patience_without_signal: int = Field(
        50, ge=1, description="logged steps in which no prompt's completions differ in reward, before it stops"
    )


@dataclass(frozen=True, slots=True)
class OnlineObjective:
    """See `harness.training.objectives.Objective`; `own` are the trainer's further arguments, `trl` gives its class."""

    name: str
    options: OnlineOptions
    own: Mapping[str, Any]
    trl: Callable[[], tuple[Any, Any]]
    rows: frozenset[RowKind] = frozenset({"prompt"})
    head: Head = "language"

    def refusal(self, scope: Scope) -> str | None:
        """See `Objective.refusal`."""
        return refuse_head(self.name, self.head, scope)

    def trainer(self, job: Job) -> Any:
        """See `Objective.trainer`."""
        rows_of(job, self.name, self.rows)
        refuse_output_adapter(job)
        if job.settings.too_long == "cut":
            raise ConfigError("a prompt that is cut asks something else: with prompts, too_long is refuse or drop")
        prompts = self._prompts_a_step(job)
        train = self._prompts(job, "train", job.train, lambda used: _left_over(used, prompts))
        validation = self._prompts(job, "validation", job.validation, None)
        rewards = [built(section, job, self.options.max_failures) for section in self.options.rewards]
        make, config = self.trl()
        trainer = assembled(
            job,
            anchored(make),
            args=self._arguments(job, config, len(train) // prompts * prompts),
            train_dataset=dataset(train),
            eval_dataset=dataset(validation),
            reward_funcs=rewards,
        )
        trainer.add_callback(_stop_without_signal(self.options.patience_without_signal))
        return trainer

    def _prompts_a_step(self, job: Job) -> int:
        completions = job.settings.batch_size * job.settings.gradient_accumulation
        if completions % self.options.generations:
            raise ConfigError(
                f"{completions} completions a step (batch_size × gradient_accumulation) are no multiple of "
                f"{self.options.generations} generations a prompt"
            )
        return completions // self.options.generations

    def _prompts(
        self, job: Job, part: Part, rows: Sequence[Row], notes: Callable[[int], Sequence[str]] | None
    ) -> list[dict[str, Any]]:
        tokens = tokens_of(job)

        def encode(row: Row) -> Sequence[Tokenised]:
            return [Tokenised.to_read(tokens.prompt(row["prompt"]))]

        fitting = Fitting(job, part, notes, room=self.options.max_new_tokens)
        return fitting.run(rows, encode, lambda row, _: dict(row))

    def _arguments(self, job: Job, config: Any, prompts: int) -> Any:
        options = self.options
        wanted = -(-job.settings.batch_size // options.generations) * options.generations
        own = {
            "num_generations": options.generations,
            "max_completion_length": options.max_new_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "mask_truncated_completions": not options.learn_from_cut,
            "reward_weights": [section.weight for section in options.rewards],
            "disable_dropout": True,
            "per_device_eval_batch_size": wanted,
            **self.own,
        }
        best = ("eval_reward", True)
        rows = prompts * options.generations
        return arguments(job, config, rows=rows, rate=PREFERENCE_SHARE, best=best, own=own)


def _left_over(used: int, prompts: int) -> Sequence[str]:
    """What the trainer's sampler leaves out of an epoch without a word: prompts that do not fill a step."""
    if used < prompts:
        raise DataError(f"train: {used} prompts do not fill one step of {prompts}; lower batch_size or give more")
    if not used % prompts:
        return ()
    return [f"a step takes {prompts} prompts, so each epoch leaves out {used % prompts} of {used}, others each time"]


@functools.cache
def anchored(make: type[Any]) -> type[Any]:
    """`make` (TRL's trainer for GRPO or RLOO), held where it is held at all to the model as it is at the start."""

    class Anchored(make):  # type: ignore[misc]  # a class that is known at run time only
        def __init__(self, model: Any, *given: Any, args: Any, **named: Any) -> None:
            beta = args.beta
            bare = beta and not hasattr(model, "peft_config")
            reference = reference_of(model) if bare else None
            args.beta = 0.0 if bare else beta  # or TRL loads a reference from the folder that the config names
            super().__init__(model, *given, args=args, **named)
            args.beta = self.beta = beta
            if not beta:
                drop_reference_adapter(model)
            mend_reference_adapter(model)
            if reference is not None:
                self._hold_to(reference)

        def _hold_to(self, reference: Any) -> None:
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(reference, temperature=self.temperature)
            self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)

    Anchored.__name__ = Anchored.__qualname__ = make.__name__
    return Anchored


def _stop_without_signal(patience: int) -> Any:
    """A callback that raises DataError after `patience` logs in which nothing could be learnt."""
    from transformers import TrainerCallback

    class StopWithoutSignal(TrainerCallback):  # type: ignore[misc]  # transformers is not followed
        silent = 0

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
            if not logs or _SILENT not in logs:
                return
            self.silent = self.silent + 1 if logs[_SILENT] >= 1.0 else 0
            if self.silent >= patience:
                raise DataError(
                    f"step {state.global_step}: for {patience} logs on end all completions of each prompt earned the "
                    "same reward, so nothing is learnt. Raise temperature or generations, take easier prompts, or a "
                    "reward with more steps between bad and good."
                )

    return StopWithoutSignal()
