"""Text to token ids exactly as lm-eval's Hugging Face backend does it, because a token boundary moves a score.

What matters: a context's trailing spaces belong to the continuation, a pair is tokenised whole and then cut, the
tokenizer's own special tokens are added unless the text already starts with BOS, and an empty context is BOS (or EOS
where there is no BOS).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Ids = tuple[int, ...]
Pair = tuple[Ids, Ids]
"""(context ids, continuation ids); the context is never empty."""

_REMEMBERED = 32_768  # pairs; the second subject of a gate asks the very chunk that the first one was asked
_TOGETHER = 512  # texts handed to the tokenizer at a time, which spreads them over its threads


class Encoder:
    """A tokenizer with lm-eval's rules. Pairs are remembered, so choices of one question share their context's ids."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a transformers tokenizer."""
        self._tokenizer = tokenizer
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.prefix: int | None = bos if bos is not None else eos
        self._prefix_text: str | None = None if self.prefix is None else tokenizer.decode(self.prefix)
        self._heads: dict[str, Ids] = {}
        self._pairs: dict[tuple[str, str], Pair] = {}

    def text(self, text: str) -> Ids:
        """Ids of a scored text: special tokens as the tokenizer adds them, never a second BOS."""
        return self._encode([text], already=self._prefix_text)[0]

    def prompt(self, text: str) -> Ids:
        """Ids of a prompt that is to be continued."""
        return self._encode([text], already=self._tokenizer.bos_token)[0]

    def pair(self, context: str, continuation: str) -> Pair:
        """Ids of a context and what follows it; either tuple can come back empty when the tokens merge."""
        self.prime([(context, continuation)])
        return self._pairs[context, continuation]

    def prime(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Encode many pairs of context and continuation at once, for `pair` to find."""
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self._pairs]
        if missing and self._pairs and len(self._pairs) + len(missing) > _REMEMBERED:
            self._pairs, self._heads = {}, {}
            missing = list(dict.fromkeys(pairs))
        for start in range(0, len(missing), _TOGETHER):
            self._prime(missing[start : start + _TOGETHER])

    def _prime(self, pairs: Sequence[tuple[str, str]]) -> None:
        joined = {pair: _spaces_moved(*pair) for pair in pairs if pair[0]}
        heads = [head for head in dict.fromkeys(head for head, _ in joined.values()) if head not in self._heads]
        self._heads.update(zip(heads, self._encode(heads, already=self._prefix_text), strict=True))
        wholes = self._encode([head + tail for head, tail in joined.values()], already=self._prefix_text)
        for (pair, (text, _)), whole in zip(joined.items(), wholes, strict=True):
            head = self._heads[text]
            self._pairs[pair] = head, whole[len(head) :]
        self._pairs.update({pair: self._after_prefix(pair[1]) for pair in pairs if not pair[0]})

    def _after_prefix(self, continuation: str) -> Pair:
        ids = self._batch([continuation], special=False)[0]
        if self.prefix is None or (ids and ids[0] == self.prefix):
            return ids[:1], ids[1:]
        return (self.prefix,), ids

    def _encode(self, texts: Sequence[str], *, already: str | None) -> list[Ids]:
        """Ids of each text, without special tokens where it starts with the text `already`."""
        bare = [already is not None and text.startswith(already) for text in texts]
        with_special = iter(self._batch([t for t, b in zip(texts, bare, strict=True) if not b], special=True))
        without = iter(self._batch([t for t, b in zip(texts, bare, strict=True) if b], special=False))
        return [next(without if b else with_special) for b in bare]

    def _batch(self, texts: Sequence[str], *, special: bool) -> list[Ids]:
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
        return [tuple(ids) for ids in encoded]


def _spaces_moved(context: str, continuation: str) -> tuple[str, str]:
    spaces = len(context) - len(context.rstrip())
    return (context[:-spaces], context[-spaces:] + continuation) if spaces else (context, continuation)


def rolling_windows(ids: Ids, prefix: int, width: int) -> Iterator[Pair]:
    """Windows of at most `width` input tokens that predict every one of `ids` once, with at least one of context.

    The first window predicts as much as it can from `prefix`; a later one keeps just the context that fills it.
    """
    if not ids:
        return
    first = min(width, len(ids))
    yield (prefix,), ids[:first]
    done = first
    while done < len(ids):
        count = min(len(ids) - done, width)
        end = done + count
        yield ids[max(0, end - width - 1) : end - count], ids[end - count : end]
        done = end
