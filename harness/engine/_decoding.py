"""Greedy and sampled decoding of a left-padded batch, through the model's own `generate`.

Every row stops, samples and is cut by itself, so an answer does not depend on its neighbours (in float32 exactly but
for ties; in bfloat16 the kernels round differently for other shapes, and a near-tie can fall the other way).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.engine import CausalModel
from harness.records import Generate, Output

NOT_FINITE = "the model's logits are NaN"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request to generate, tokenised: `limit` new tokens fit, which is less than asked where room is short."""

    index: int
    ids: tuple[int, ...]
    request: Generate
    limit: int
    truncated: bool = False


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
        stopping = _Stopping(tokenizer, prompts, width, _eos_ids(model, tokenizer))
        choosing = _Choosing([p.request for p in prompts])
        config = GenerationConfig(
            max_new_tokens=max(p.limit for p in prompts), do_sample=False, num_beams=1, use_cache=True,
            temperature=1.0, top_p=1.0, top_k=50, pad_token_id=pad, eos_token_id=sorted(stopping.eos) or None,
        )  # fmt: skip
        whole = model.generate(
            input_ids=ids.to(causal.device),
            attention_mask=mask.to(causal.device),
            generation_config=config,
            stopping_criteria=[stopping],
            logits_processor=[choosing],
        )  # [batch, width + new]
    new = whole[:, width:].tolist()
    return [(p.index, _output(tokenizer, p, new[i], stopping, choosing, i)) for i, p in enumerate(prompts)]


def _output(
    tokenizer: Any, prompt: Prompt, ids: list[int], stopping: _Stopping, choosing: _Choosing, row: int
) -> Output:
    if row in choosing.broken:
        return Output(failure=NOT_FINITE)
    count = stopping.ended[row]
    stopped = stopping.stopped[row]
    if not stopped and prompt.limit < prompt.request.max_tokens:
        wanted = prompt.request.max_tokens
        return Output(
            failure=f"prompt of {len(prompt.ids)} tokens leaves room for {prompt.limit} of {wanted} new tokens, "
            "and the answer did not end within them"
        )
    text = tokenizer.decode(ids[:count], skip_special_tokens=True)
    text = cut(text, (*prompt.request.until, *_eos_text(tokenizer)))
    return Output(text=text, tokens=count, truncated=prompt.truncated or not stopped)


def cut(text: str, until: Iterable[str]) -> str:
    """`text` up to the stop strings, each applied to what the one before it left."""
    for stop in until:
        if stop:
            text = text.split(stop)[0]
    return text


class _Stopping:
    """Says per row whether it is finished: its own limit, an end token, or one of its own stop strings."""

    def __init__(self, tokenizer: Any, prompts: Sequence[Prompt], width: int, eos: set[int]) -> None:
        self.eos = eos
        self.ended = [0] * len(prompts)
        self.stopped = [False] * len(prompts)
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._width = width
        self._open = set(range(len(prompts)))
        # A token that adds text adds at least one byte, so a stop string lies within as many tokens as it has bytes.
        self._window = [max((len(s.encode()) for s in p.request.until), default=0) + 2 for p in prompts]

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        """A bool per row, [batch]; transformers calls this after every token."""
        import torch

        count = ids.shape[1] - self._width
        tails = ids[:, -min(count, max(self._window)) :].tolist()
        for row in sorted(self._open):
            self._look(row, tails[row][-self._window[row] :], count)
        closed = [row not in self._open for row in range(len(self._prompts))]
        return torch.tensor(closed, device=ids.device)

    def _look(self, row: int, tail: list[int], count: int) -> None:
        """`tail` holds the row's latest tokens, of the `count` that it has been given so far."""
        prompt = self._prompts[row]
        stopped = tail[-1] in self.eos or self._holds_stop(prompt, tail)
        if stopped or count >= prompt.limit:
            self.ended[row], self.stopped[row] = count, stopped
            self._open.discard(row)

    def _holds_stop(self, prompt: Prompt, tail: list[int]) -> bool:
        if not any(prompt.request.until):
            return False
        text = self._tokenizer.decode(tail)
        return any(stop in text for stop in prompt.request.until if stop)


class _Choosing:
    """Turns sampling into an argmax per row, so that one greedy `generate` serves rows of either kind.

    A row with a temperature draws from its own generator, seeded by its request: adding exponential noise to the
    log-probabilities and taking the largest is a draw from the distribution, and no other row uses up the stream.
    Rows whose logits are NaN are remembered in `broken`.
    """

    def __init__(self, requests: Sequence[Generate]) -> None:
        import torch

        self.broken: set[int] = set()
        self._requests = requests
        self._generators = {
            row: torch.Generator().manual_seed(request.seed)
            for row, request in enumerate(requests)
            if request.temperature > 0
        }

    def __call__(self, ids: Any, scores: Any) -> Any:
        """Scores whose argmax is the next token of every row, [batch, vocabulary]."""
        broken = scores.isnan().any(-1)  # [batch]
        if bool(broken.any()):
            self.broken.update(broken.nonzero().flatten().tolist())
            scores = scores.nan_to_num(nan=0.0)
        for row, generator in self._generators.items():
            scores[row] = self._draw(scores[row], self._requests[row], generator).to(scores)
        return scores

    @staticmethod
    def _draw(scores: Any, request: Generate, generator: Any) -> Any:
        """Log-probabilities of the kept tokens plus Gumbel noise, [vocabulary]."""
        import torch

        logprobs = (scores.float().cpu() / request.temperature).log_softmax(-1)
        if request.top_p < 1.0:
            ordered, order = logprobs.sort(descending=True)
            before = ordered.exp().cumsum(-1) - ordered.exp()
            logprobs[order[before >= request.top_p]] = -torch.inf
        noise = torch.empty_like(logprobs).exponential_(generator=generator)
        return logprobs - noise.log()


def _pad_id(tokenizer: Any) -> int:
    """Any id will do: pads are masked before the prompt and cut off after the end."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def _eos_ids(model: Any, tokenizer: Any) -> set[int]:
    """End tokens of the generation config and of the tokenizer: chat models often name different ones."""
    config = getattr(model, "generation_config", None)
    declared = getattr(config, "eos_token_id", None)
    ids = declared if isinstance(declared, list) else [declared]
    return {int(i) for i in (*ids, tokenizer.eos_token_id) if i is not None}


def _eos_text(tokenizer: Any) -> tuple[str, ...]:
    eos = tokenizer.eos_token_id
    return () if eos is None else (tokenizer.decode(eos),)
