"""What every trainer of an objective has in common, whichever library it is from."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, DataError
from harness.training.objectives import Job
from harness.training.scopes import Head, Scope

_STATE = "trainer_state.json"
_PROMPT = "prompt_encoder.safetensors"


def refuse_head(name: str, head: Head, scope: Scope) -> str | None:
    """Why a scope cannot train the head that objective `name` needs, or None."""
    if head in scope.traits.heads:
        return None
    fit = {"language": "texts", "reward": "a reward model", "classes": "a classifier"}
    return (
        f"scope {scope.name} trains {' or '.join(fit[h] for h in sorted(scope.traits.heads))}, and objective {name} "
        f"{fit[head]}; use scope lora"
    )


def assembled(job: Job, make: type[Any], **given: Any) -> Any:
    """A trainer of class `make` for a job, with its callbacks; `given` is what the class takes besides.

    The class is extended by what checkpoints need. TRL casts the adapter of a quantised base to bfloat16, where small
    steps of the optimiser round to nothing: the types that the scope chose are put back.

    Raises:
        ConfigError: the trainer refuses what it was given.
        DataError: the trainer has taken other rows than those it was given.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback

    _pad_token(job)
    types = {name: p.dtype for name, p in job.model.named_parameters() if p.requires_grad}
    patience = [EarlyStoppingCallback(job.settings.patience)] if job.settings.patience else []
    rows = len(given["train_dataset"])
    try:
        with quiet():
            trainer = _resumable(make)(
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


def _resumable(make: type[Any]) -> type[Any]:
    """`make` whose checkpoints hold all that is trained.

    Of p-tuning PEFT saves the virtual tokens, and not the network that makes them; a training that went on from these
    would feed them to a new network, without a word.
    """

    class Resumable(make):  # type: ignore[misc]  # a class that is known at run time only
        def train(self, *args: Any, **given: Any) -> Any:
            with quiet():
                return super().train(*args, **given)

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            super()._save(output_dir, state_dict)
            if (network := _prompt_network(self.model)) is not None:
                _write(network, Path(output_dir or self.args.output_dir) / _PROMPT)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            _read(_prompt_network(self.model), Path(resume_from_checkpoint) / _PROMPT)

        def _load_best_model(self) -> None:
            super()._load_best_model()
            _read(_prompt_network(self.model), Path(self.state.best_model_checkpoint) / _PROMPT)

    Resumable.__name__ = Resumable.__qualname__ = make.__name__
    return Resumable


def _prompt_network(model: Any) -> Any:
    """What makes a PEFT model's virtual tokens, or None for a model without any."""
    encoders = getattr(model, "prompt_encoder", None)
    return encoders["default"] if encoders is not None and "default" in encoders else None


def _write(module: Any, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}, path)


def _read(module: Any, path: Path) -> None:
    from safetensors.torch import load_file

    if module is not None:
        module.load_state_dict(load_file(path))


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
