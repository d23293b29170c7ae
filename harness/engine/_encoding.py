"""Text to token ids exactly as lm-eval's Hugging Face backend does it, because a token boundary moves a score.

What matters: a context's trailing spaces belong to the continuation, a pair is tokenised whole and then cut, the
tokenizer's own special tokens are added unless the text already starts with BOS, and an empty context is BOS (or EOS
where there is no BOS).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Pair = tuple[list[int], list[int]]
"""(context ids, continuation ids); the context is never empty."""


class Encoder:
    """A tokenizer with lm-eval's rules."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a transformers tokenizer."""
        self._tokenizer = tokenizer
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.prefix: int | None = bos if bos is not None else eos
        self._prefix_text: str | None = None if self.prefix is None else tokenizer.decode(self.prefix)

    def text(self, text: str) -> list[int]:
        """Ids of a scored text: special tokens as the tokenizer adds them, never a second BOS."""
        return self._encode(text, already=self._prefix_text)

    def prompt(self, text: str) -> list[int]:
        """Ids of a prompt that is to be continued."""
        return self._encode(text, already=self._tokenizer.bos_token)

    def pair(self, context: str, continuation: str) -> Pair:
        """Ids of a context and what follows it; either list can come back empty when the tokens merge."""
        if not context:
            return self._after_prefix(continuation)
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        whole, head = self.text(context + continuation), self.text(context)
        return head, whole[len(head) :]

    def _after_prefix(self, continuation: str) -> Pair:
        ids = self._plain(continuation)
        if self.prefix is None or (ids and ids[0] == self.prefix):
            return ids[:1], ids[1:]
        return [self.prefix], ids

    def _encode(self, text: str, *, already: str | None) -> list[int]:
        if already is not None and text.startswith(already):
            return self._plain(text)
        ids: list[int] = self._tokenizer.encode(text, verbose=False)
        return ids

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids


def rolling_windows(ids: list[int], prefix: int, width: int) -> Iterator[Pair]:
    """Windows of at most `width` input tokens that predict every one of `ids` once, with at least one of context.

    The first window predicts as much as it can from `prefix`; a later one keeps just the context that fills it.
    """
    if not ids:
        return
    first = min(width, len(ids))
    yield [prefix], ids[:first]
    done = first
    while done < len(ids):
        count = min(len(ids) - done, width)
        end = done + count
        yield ids[max(0, end - width - 1) : end - count], ids[end - count : end]
        done = end
