"""One answer while it is written: which token is chosen, when the answer ends, what is reported of it.

Shared by every engine, so that they can differ in nothing but speed. Every row chooses, stops and is cut by itself:
an answer does not depend on its neighbours (in float32 exactly but for ties; in 16 bits the kernels round differently
for other shapes, and a near-tie can fall the other way, which is why near-ties are counted).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records import Generate, Output

NOT_FINITE = "the model's logits are not finite (NaN or infinite)"

_COLDEST = 1e-6  # dividing logits by less would overflow

# Float noise of a logit relative to its size, from the shape of a batch; a smaller gap can fall either way.
_NOISE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request to generate, tokenised: `limit` new tokens fit, which is less than asked where room is short.

    `draft` is a guess at the answer's tokens; an engine may verify it or ignore it.
    """

    index: int
    ids: tuple[int, ...]
    request: Generate
    limit: int
    truncated: bool = False
    draft: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pick:
    """A chosen token, its log-probability in nats, and whether the runner-up was within float noise of it."""

    id: int
    logprob: float
    near: bool = False
    broken: bool = False


class Answer:
    """The tokens of one answer so far; `closed` once it is finished, for whatever reason."""

    __slots__ = ("_tail", "broken", "closed", "ids", "logprobs", "near_ties", "prompt", "stopped")

    def __init__(self, prompt: Prompt) -> None:
        """An answer of no tokens."""
        self.prompt = prompt
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.near_ties = 0
        self.stopped = self.closed = self.broken = False
        # A token that adds text adds at least one byte, so a stop string lies within as many tokens as it has bytes.
        self._tail = max((len(s.encode()) for s in prompt.request.until), default=0) + 2

    @property
    def greedy(self) -> bool:
        """Whether the largest logit decides, so that a draft can be verified: at a temperature that is 0 or as good."""
        return self.prompt.request.temperature < _COLDEST

    def take(self, pick: Pick, endings: Endings) -> None:
        """Write down one more token and close the answer where it ends: an end token, a stop string, its limit."""
        self.ids.append(pick.id)
        self.logprobs.append(pick.logprob)
        self.near_ties += pick.near
        self.broken |= pick.broken
        self.stopped = pick.id in endings.ids or self._holds_stop(endings)
        self.closed = self.stopped or self.broken or len(self.ids) >= self.prompt.limit

    def draw(self, logits: Any) -> int:
        """A token drawn at the request's temperature and top_p from `logits`, [vocabulary].

        Gumbel noise on the log-probabilities makes the largest a draw; it comes from a generator seeded by the request,
        its prompt and the token's place, so that neither another row nor a token drawn again changes it, and no two
        prompts are drawn alike.
        """
        import torch

        request = self.prompt.request
        seed = hashlib.sha256(f"{request.seed}:{len(self.ids)}:{self.prompt.ids}".encode()).digest()[:7]
        generator = torch.Generator().manual_seed(int.from_bytes(seed))
        logprobs = (logits.float().cpu() / request.temperature).log_softmax(-1)
        if request.top_p < 1.0:
            ordered, order = logprobs.sort(descending=True)
            before = ordered.exp().cumsum(-1) - ordered.exp()
            logprobs[order[before >= request.top_p]] = -torch.inf
        noise = torch.empty_like(logprobs).exponential_(generator=generator)
        return int((logprobs - noise.log()).argmax())

    def output(self, endings: Endings) -> Output:
        """The finished answer."""
        prompt = self.prompt
        if self.broken:
            return Output(failure=NOT_FINITE)
        if not self.stopped and prompt.limit < prompt.request.max_tokens:
            wanted = prompt.request.max_tokens
            return Output(
                failure=f"prompt of {len(prompt.ids)} tokens leaves room for {prompt.limit} of {wanted} new tokens, "
                "and the answer did not end within them"
            )
        text = endings.tokenizer.decode(self.ids, skip_special_tokens=True)
        return Output(
            text=cut(text, (*prompt.request.until, *endings.texts)),
            tokens=len(self.ids),
            truncated=prompt.truncated or not self.stopped,
            ids=tuple(self.ids),
            logprobs=tuple(round(value, 6) for value in self.logprobs),
            near_ties=self.near_ties,
        )

    def _holds_stop(self, endings: Endings) -> bool:
        until = self.prompt.request.until
        if not any(until):
            return False
        text = endings.tokenizer.decode(self.ids[-self._tail :])
        return any(stop in text for stop in until if stop)


class Endings:
    """The end tokens of a model and its tokenizer: chat models often name different ones in each."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        """Read them from the generation config and the tokenizer."""
        declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        listed = declared if isinstance(declared, list) else [declared]
        self.tokenizer = tokenizer
        self.ids = {int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None}
        self.texts: tuple[str, ...] = ()
        if tokenizer.eos_token_id is not None:
            self.texts = (tokenizer.decode(tokenizer.eos_token_id),)


def pick(logits: Any, answers: Sequence[Answer], dtype: str) -> list[Pick]:
    """The next token of each row of `logits`, [rows, vocabulary] in float32; `answers[i]` is what row i belongs to.

    `dtype` is what the model computes in; it sets how close two logits must be to count as a near-tie.
    """
    broken = ~logits.logsumexp(-1).isfinite()  # [rows]; a single -inf is a token ruled out, and no harm
    if bool(broken.any()):
        logits = logits.nan_to_num(nan=0.0)
    ids = logits.argmax(-1).tolist()
    for row, answer in enumerate(answers):
        if not answer.greedy:
            ids[row] = answer.draw(logits[row])
    top = logits.topk(min(2, logits.shape[-1])).values  # [rows, 2]
    near = (top[:, 0] - top[:, -1]) <= _NOISE[dtype] * top[:, 0].abs().clamp(min=1.0)
    chosen = logits.gather(-1, logits.new_tensor(ids).long()[:, None])[:, 0] - logits.logsumexp(-1)  # [rows]
    rows = zip(ids, chosen.tolist(), near.tolist(), broken.tolist(), answers, strict=True)
    return [Pick(i, min(lp, 0.0), close and answer.greedy, bad) for i, lp, close, bad, answer in rows]


def cut(text: str, until: Iterable[str]) -> str:
    """`text` up to the stop strings, each applied to what the one before it left."""
    for stop in until:
        if stop:
            text = text.split(stop)[0]
    return text
