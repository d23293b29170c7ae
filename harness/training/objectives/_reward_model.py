"""A reward model that objective `reward` has trained, asked as it was trained.

TRL's own way of asking one adds no special tokens and takes the end token off an answer, so that a model trained on
`<s>prompt answer</s>` is asked about `prompt answer`: another text, another reward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.subjects import _rewards
from harness.training.objectives._tokens import Messages, RowProblem, Tokens

_TOGETHER = 16  # texts in a batch


class RewardModel:
    """A model with one number for a text, and its tokenizer."""

    def __init__(self, folder: Path, base: str | None, device: str) -> None:
        """Load what `folder` holds: a whole model, a PEFT adapter, or a head alone; the latter two on a base.

        Raises:
            ConfigError: there is no reward model in it, or its base is not known.
        """
        self._name = folder.name
        self._model = _rewards.load(folder, base).to(device).eval().requires_grad_(False)
        self.tokenizer = _rewards.tokenizer_of(folder, base)
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


def _padded(rows: Sequence[tuple[int, ...]], pad: int) -> Iterator[dict[str, Any]]:
    import torch

    for start in range(0, len(rows), _TOGETHER):
        batch = rows[start : start + _TOGETHER]
        width = max(len(ids) for ids in batch)
        yield {
            "input_ids": torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in batch]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in batch]),
        }
