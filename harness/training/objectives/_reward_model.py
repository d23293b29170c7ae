"""A reward model that objective `reward` has trained, asked as it was trained.

TRL's own way of asking one adds no special tokens and takes the end token off an answer, so that a model trained on
`<s>prompt answer</s>` is asked about `prompt answer`: another text, another reward.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.adapters import CONFIG, WEIGHTS, read_header
from harness.errors import ConfigError, DataError
from harness.training.objectives._tokens import Messages, RowProblem, Tokens

_HEAD = "head.safetensors"
_TOGETHER = 16  # texts in a batch


class RewardModel:
    """A model with one number for a text, and its tokenizer."""

    def __init__(self, folder: Path, base: str | None, device: str) -> None:
        """Load what `folder` holds: a whole model, a PEFT adapter, or a head alone; the latter two on a base.

        Raises:
            ConfigError: there is no reward model in it, or its base is not known.
        """
        from transformers import AutoTokenizer

        self._name = folder.name
        self._model = _loaded(folder, base).to(device).eval().requires_grad_(False)
        source = next((p for p in (folder, Path(self._base_of(folder, base))) if _has_tokenizer(p)), folder)
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self._tokens = Tokens(self.tokenizer)
        config = self._model.config.get_text_config()
        self._most: int | None = getattr(config, "max_position_embeddings", None)

    def __call__(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], ended: Sequence[bool]
    ) -> list[float]:
        """A reward for each answer; one that was cut off has no end token."""
        import torch

        rows = [self._ids(p, c, e) for p, c, e in zip(prompts, completions, ended, strict=True)]
        rewards: list[float] = []
        for batch in _padded(rows, self.tokenizer.pad_token_id):
            with torch.no_grad():
                logits = self._model(**{k: v.to(self._model.device) for k, v in batch.items()}).logits
            rewards += logits[:, 0].float().cpu().tolist()
        return rewards

    def _ids(self, prompt: str | Messages, completion: str, ended: bool) -> tuple[int, ...]:
        answer = completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]
        try:
            ids = self._tokens.whole(prompt, answer, ended=ended)
        except RowProblem as error:
            raise DataError(f"reward model {self._name}: {error}") from error
        if self._most is not None and len(ids) > self._most:
            raise DataError(f"reward model {self._name} reads {self._most} tokens, and an answer has {len(ids)}")
        return ids

    @staticmethod
    def _base_of(folder: Path, base: str | None) -> str:
        if base is None and (folder / CONFIG).is_file():
            return str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
        return base or str(folder)


def _loaded(folder: Path, base: str | None) -> Any:
    if (folder / CONFIG).is_file():
        return _adapter(folder, RewardModel._base_of(folder, base))
    if (folder / _HEAD).is_file():
        if base is None:
            raise ConfigError(f"reward model {folder} is a head alone: name the model below it with base")
        return _head(folder, base)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no reward model; train one with objective reward")
    return _classifier(str(folder), complete=True)


def _adapter(folder: Path, base: str) -> Any:
    from peft import PeftModel

    from harness import tuners

    tuners.register()
    model = _classifier(base, complete=False)
    heads = [name for name, _ in model.named_parameters() if name.startswith(("score.", "classifier."))]
    held = read_header(folder / WEIGHTS)
    missing = [name for name in heads if not any(key.endswith(name) for key in held)]
    if missing or not heads:
        raise ConfigError(f"{folder} is no reward model: its adapter holds no {', '.join(missing) or 'head'}")
    return PeftModel.from_pretrained(model, str(folder))


def _head(folder: Path, base: str) -> Any:
    from safetensors.torch import load_file

    model = _classifier(base, complete=False)
    state = load_file(folder / _HEAD)
    unknown = set(state) - set(model.state_dict())
    if unknown:
        raise ConfigError(f"the head in {folder} does not fit {base}: {min(unknown)} is unknown there")
    model.load_state_dict(state, strict=False)
    return model


def _classifier(source: str, *, complete: bool) -> Any:
    """The model with one output; transformers makes up a head that the files lack, and only warns of it."""
    from transformers import AutoModelForSequenceClassification

    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"reward model {source} cannot be loaded: {error}") from error
    if complete and info["missing_keys"]:
        raise ConfigError(f"{source} is no reward model: it holds no {min(info['missing_keys'])}")
    return model


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").is_file()


def _padded(rows: Sequence[tuple[int, ...]], pad: int) -> Iterator[dict[str, Any]]:
    import torch

    for start in range(0, len(rows), _TOGETHER):
        batch = rows[start : start + _TOGETHER]
        width = max(len(ids) for ids in batch)
        yield {
            "input_ids": torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in batch]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in batch]),
        }
