"""Ask a model the demo's questions and count the right answers: the per-skill table of the training scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.demo.skills import Question

MAX_TOKENS = 14
"""Longest answer in tokens, the ending included."""

_BATCH = 128


def accuracy(model: Any, tokenizer: Any, questions: Sequence[Question]) -> float:
    """Share of `questions` that greedy decoding answers exactly; questions of one length are asked together."""
    by_length: dict[int, list[tuple[list[int], str]]] = {}
    for question in questions:
        ids = tokenizer(question.prompt)["input_ids"]
        by_length.setdefault(len(ids), []).append((ids, question.answer))
    right = 0
    for group in by_length.values():
        for start in range(0, len(group), _BATCH):
            right += _right(model, tokenizer, group[start : start + _BATCH])
    return right / len(questions)


def _right(model: Any, tokenizer: Any, rows: Sequence[tuple[list[int], str]]) -> int:
    import torch

    prompts = torch.tensor([ids for ids, _ in rows])
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("\n")]
    with torch.inference_mode():
        outputs = model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
        )
    texts = (tokenizer.decode(row, skip_special_tokens=True) for row in outputs[:, prompts.shape[1] :].tolist())
    return sum(text.split("\n")[0].strip() == answer for text, (_, answer) in zip(texts, rows, strict=True))
