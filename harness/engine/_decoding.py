"""Decoding of a left-padded batch through the model's own `generate`: the reference for every other way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.engine import CausalModel
from harness.engine._answers import Answer, Endings, Pick, Prompt, pick
from harness.engine._rope import relax
from harness.records import Output


def decode_batch(causal: CausalModel, prompts: Sequence[Prompt]) -> list[tuple[int, Output]]:
    """The outputs of `prompts`, from one call of `generate`."""
    import torch
    from transformers import GenerationConfig

    tokenizer = causal.tokenizer
    width = max(len(p.ids) for p in prompts)
    pad = _pad_id(tokenizer)
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)  # [batch, width]
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[i, width - len(prompt.ids) :] = 1
    with causal.activate() as model:
        if width > causal.sociable - max(p.limit for p in prompts):
            relax(model, causal.device)
        writing = _Writing(prompts, Endings(tokenizer, model), causal.dtype)
        config = GenerationConfig(
            max_new_tokens=max(p.limit for p in prompts), do_sample=False, num_beams=1, use_cache=True,
            temperature=1.0, top_p=1.0, top_k=50, pad_token_id=pad, eos_token_id=sorted(writing.endings.ids) or None,
        )  # fmt: skip
        model.generate(
            input_ids=ids.to(causal.device),
            attention_mask=mask.to(causal.device),
            generation_config=config,
            stopping_criteria=[writing.stopping],
            logits_processor=[writing.choosing],
        )
    return [(answer.prompt.index, answer.output(writing.endings)) for answer in writing.answers]


class _Writing:
    """Writes the answers of a batch while `generate` runs: it picks each row's token and says which rows are done."""

    def __init__(self, prompts: Sequence[Prompt], endings: Endings, dtype: str) -> None:
        self.answers = [Answer(prompt) for prompt in prompts]
        self.endings = endings
        self._dtype = dtype
        self._picks: list[Pick] = []

    def choosing(self, ids: Any, scores: Any) -> Any:
        """Scores whose argmax is the token that was picked, [batch, vocabulary]; transformers calls this first."""
        self._picks = pick(scores, self.answers, self._dtype)
        for row, chosen in enumerate(self._picks):
            scores[row, chosen.id] = float("inf")
        return scores.nan_to_num(nan=0.0)

    def stopping(self, ids: Any, scores: Any, **_: Any) -> Any:
        """A bool per row, [batch]; transformers calls this after every token."""
        import torch

        for answer, chosen in zip(self.answers, self._picks, strict=True):
            if not answer.closed:
                answer.take(chosen, self.endings)
        return torch.tensor([answer.closed for answer in self.answers], device=ids.device)


def _pad_id(tokenizer: Any) -> int:
    """Any id will do: pads are masked before the prompt and cut off after the end."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0
