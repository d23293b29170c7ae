"""How a local causal model answers many requests: batching, padding, decoding. One module each.

An engine plugin's `build(options, model)` returns an `Engine`. Every engine gives the answers of `plain`, the
reference: the same log-likelihoods (1e-4 in float32) and the same greedy text, whatever the batch; an engine may only
be faster. Engines know nothing of files, adapters or hubs: they see a `CausalModel`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from harness.engine._encoding import Encoder
from harness.records import Message, Output, Request

Answers = list[tuple[int, Output]]
"""(index of the request, its output), for the requests that one batch finished."""

REVISION = 2
"""Raised whenever an engine's answers can change; a part of every fingerprint, so that no older answer is reused."""


@dataclass(frozen=True, slots=True)
class CausalModel:
    """What an engine may use of a subject.

    `activate()` is entered for every batch and left before its answers are yielded, because several subjects share
    one set of weights: it yields the transformers (or PEFT) model with this subject's adapter in force, in eval mode
    and without gradients. `max_length` counts tokens, prompt and answer together; `virtual_tokens` of them are taken
    by a prompt-learning adapter. `vocabulary` counts the tokens that the model knows. `dtype` is what the model
    computes in (float32, float16 or bfloat16). `render` is the subject's chat template with the generation prompt
    added. Beyond `steady` tokens a row changes its neighbours in a batch (None: never), see `_rope`. Subjects of one
    tokenizer may share an `encoder`.
    """

    tokenizer: Any
    encoder: Encoder
    max_length: int
    virtual_tokens: int
    vocabulary: int
    device: str
    dtype: str
    activate: Callable[[], AbstractContextManager[Any]]
    render: Callable[[Sequence[Message], str], str]
    steady: int | None

    @property
    def room(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.max_length - self.virtual_tokens

    @property
    def sociable(self) -> int:
        """Tokens, of `room`, up to which a row may share a batch with others; a longer one runs alone."""
        return self.room if self.steady is None else min(self.max_length, self.steady) - self.virtual_tokens


class Engine(Protocol):
    """Answers requests with one model; see `harness.subjects.Subject.answer` for what is promised.

    `usage` counts what it did, such as the tokens forwarded; for benchmarks and remarks.
    """

    @property
    def usage(self) -> Counter[str]:
        """The counters so far."""
        ...

    def answer(self, requests: Sequence[Request], drafts: Mapping[int, Sequence[int]]) -> Iterator[Answers]:
        """Answer every request exactly once, in batches, each yielded when it is finished.

        `drafts` maps an index in `requests` to token ids that may turn out to be the answer's.
        """
        ...

    def remarks(self) -> Sequence[str]:
        """See `harness.subjects.Subject.remarks`."""
        ...
