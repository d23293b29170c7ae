"""Decoding of a left-padded batch through the model's own `generate`: the reference for every other way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.engine import CausalModel
from harness.engine._answers import Answer, Endings, Pick, Prompt, pick
from harness.engine._rope import relax
from harness.records import Generate, Output

_TRIAL_NOISE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}  # nats

_IDLE: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "bad_words_ids": ([],), "min_length": (0,), "min_new_tokens": (0,),
    "suppress_tokens": ([],), "begin_suppress_tokens": ([],), "forced_bos_token_id": (), "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (), "sequence_bias": ({},), "guidance_scale": (1.0,),
    "remove_invalid_values": (False,), "renormalize_logits": (False,), "watermarking_config": (),
    "token_healing": (False,),
}  # fmt: skip
"""What in a GenerationConfig changes which token is chosen, with the values that change nothing."""


def rules_of(model: Any) -> list[str]:
    """What a model's generation config asks for that makes a choice other than the largest logit."""
    config = getattr(model, "generation_config", None)
    return [name for name, idle in _IDLE.items() if getattr(config, name, None) not in (None, *idle)]


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


def trial(causal: CausalModel) -> list[Prompt]:
    """Prompts of different lengths (of one length behind virtual tokens), to be decoded together and alone."""
    lengths = (7, 4, 2) if not causal.virtual_tokens else (5, 5, 5)
    request = Generate("", max_tokens=4)
    rows = [tuple((11 * i * i + 5 * i + 3 * k) % causal.vocabulary for i in range(n)) for k, n in enumerate(lengths)]
    return [Prompt(index, ids[: max(1, causal.room - 4)], request, 4) for index, ids in enumerate(rows)]


def alike(one: Output, other: Output, dtype: str) -> bool:
    """Whether two decodings of a prompt differ by float noise at most, up to where that turned a choice.

    One that failed is like none that did not: what gives no answer in a batch must not pass for exact there.
    """
    if (one.failure is None) != (other.failure is None):
        return False
    for a, b, p, q in zip(one.ids, other.ids, one.logprobs, other.logprobs, strict=False):
        if a != b:
            return bool(one.near_ties or other.near_ties)
        if abs(p - q) > _TRIAL_NOISE[dtype]:
            return False
    return True


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
