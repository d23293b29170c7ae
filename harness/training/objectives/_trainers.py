"""What every trainer of an objective has in common, whichever library it is from."""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, DataError
from harness.training.objectives import Job
from harness.training.scopes import Head, Scope

_log = logging.getLogger(__name__)

_STATE = "trainer_state.json"


def refuse_head(name: str, head: Head, scope: Scope) -> str | None:
    """Why a scope cannot train the head that objective `name` needs, or None."""
    if head in scope.traits.heads:
        return None
    fit = {"language": "texts", "reward": "a reward model", "classes": "a classifier"}
    return (
        f"scope {scope.name} trains {' or '.join(fit[h] for h in sorted(scope.traits.heads))}, and objective {name} "
        f"{fit[head]}; use scope lora"
    )


def assembled(job: Job, make: Any, **given: Any) -> Any:
    """A trainer of class `make` for a job, with its callbacks; `given` is what the class takes besides.

    TRL casts the adapter of a quantised base to bfloat16, where small steps of the optimiser round to nothing: the
    types that the scope chose are put back.

    Raises:
        ConfigError: the trainer refuses what it was given.
        DataError: the trainer has taken other rows than those it was given.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback

    _pad_token(job)
    _remark(job, given["args"])
    types = {name: p.dtype for name, p in job.model.named_parameters() if p.requires_grad}
    patience = [EarlyStoppingCallback(job.settings.patience)] if job.settings.patience else []
    rows = len(given["train_dataset"])
    try:
        with quiet():
            trainer = _quietly(make)(
                model=job.model,
                processing_class=job.tokenizer,
                callbacks=[*job.callbacks, *patience],
                **given,
            )
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"{make.__name__} refuses this training: {error}") from error
    trainer.remove_callback(PrinterCallback)
    for name, parameter in job.model.named_parameters():
        if name in types:
            parameter.data = parameter.data.to(types[name])
    if len(trainer.train_dataset) != rows:
        raise DataError(f"{make.__name__} took {len(trainer.train_dataset)} of {rows} rows")
    return trainer


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a training, to give to `trainer.train(resume_from_checkpoint=…)`.

    The trainer writes its state last: a checkpoint without it is what a killed process left, and is passed over.
    """
    found = [(int(p.name.rpartition("-")[2]), p) for p in folder.glob("checkpoint-*") if p.name[11:].isdecimal()]
    return next((path for _, path in sorted(found, reverse=True) if _whole(path)), None)


def _whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _pad_token(job: Job) -> None:
    """One pad token for tokenizer and model: a classifier finds the end of a text by it.

    The losses go by lengths and never by this token, so that an end token that serves for padding is learnt still.
    """
    if job.tokenizer.pad_token is None:
        job.tokenizer.pad_token = job.tokenizer.eos_token
    job.model.config.get_text_config().pad_token_id = job.tokenizer.pad_token_id
    if getattr(job.model, "generation_config", None) is not None:
        job.model.generation_config.pad_token_id = job.tokenizer.pad_token_id


def _remark(job: Job, args: Any) -> None:
    """Say what would otherwise be done in silence."""
    from torch import nn

    if getattr(args, "disable_dropout", False) and any(isinstance(m, nn.Dropout) and m.p for m in job.model.modules()):
        _log.warning(
            "%s trains without dropout, that of the scope included", type(args).__name__.removesuffix("Config")
        )
    if any(p.requires_grad and str(p.dtype) == "torch.bfloat16" for p in job.model.parameters()):
        _log.warning("weights in bfloat16 lose every step smaller than 1/256 of them; base.dtype: float32 keeps them")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to themselves the progress bars of datasets, and warnings about names that TRL itself still uses."""
    import datasets

    bars = datasets.is_progress_bar_enabled() if hasattr(datasets, "is_progress_bar_enabled") else True
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
            yield
    finally:
        if bars:
            datasets.enable_progress_bars()


@functools.cache
def _quietly(make: Any) -> Any:
    """`make`, quiet while it trains."""

    class Quiet(make):  # type: ignore[misc]  # a class that is known at run time only
        def train(self, *args: Any, **given: Any) -> Any:
            with quiet():
                return super().train(*args, **given)

    Quiet.__name__ = Quiet.__qualname__ = make.__name__
    return Quiet


def refuse_output_adapter(job: Job) -> None:
    """Raise where an adapter sits on the layer of the logits.

    TRL's losses multiply by that layer's weights directly, so that such an adapter would never be trained.

    Raises:
        ConfigError: it does.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if hasattr(job.model, "peft_config") and isinstance(job.model.get_output_embeddings(), BaseTunerLayer):
        raise ConfigError(
            "an adapter on the layer of the logits (lm_head) would not be trained by this objective; take it out of "
            "the scope's targets"
        )
