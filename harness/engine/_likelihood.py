"""Log-likelihoods: requests become pieces, equal inputs become one row, rows become a right-padded batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.engine import Answers
from harness.records import Output

NOT_FINITE = "the model's log-likelihood is not finite (NaN or infinite logits)"


@dataclass(frozen=True, slots=True)
class Piece:
    """A continuation to score after a context, for request number `index`; a rolling request has several."""

    index: int
    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the model reads: all tokens but the last, which is only predicted."""
        return (self.context + self.continuation)[:-1]


@dataclass(frozen=True, slots=True)
class Row:
    """One input sequence and every piece that can be read off it (one-token choices share their context)."""

    inputs: tuple[int, ...]
    pieces: tuple[Piece, ...]


def rows_of(pieces: Sequence[Piece]) -> list[Row]:
    """Rows with distinct inputs, longest first so that running out of memory shows at once."""
    groups: dict[tuple[int, ...], list[Piece]] = {}
    for piece in pieces:
        groups.setdefault(piece.inputs, []).append(piece)
    rows = [Row(inputs, tuple(group)) for inputs, group in groups.items()]
    return sorted(rows, key=lambda row: (-len(row.inputs), row.inputs))


@dataclass(slots=True)
class Tally:
    """What is known of one request while its pieces come in."""

    pending: int
    truncated: bool = False
    is_greedy: bool = True
    tokens: int = 0
    logprobs: list[float] = field(default_factory=list)

    def add(self, logprob: float, is_greedy: bool, tokens: int) -> None:
        """Record one finished piece."""
        self.pending -= 1
        self.logprobs.append(logprob)
        self.is_greedy &= is_greedy
        self.tokens += tokens

    def output(self) -> Output:
        """The answer, once nothing is pending."""
        total = math.fsum(self.logprobs) if all(map(math.isfinite, self.logprobs)) else math.nan
        if not math.isfinite(total):
            return Output(failure=NOT_FINITE)
        return Output(logprob=total, is_greedy=self.is_greedy, tokens=self.tokens, truncated=self.truncated)


def read_batch(model: Any, rows: Sequence[Row], device: str) -> list[tuple[Piece, float, bool]]:
    """(piece, log-likelihood in nats, is greedy) for every piece of `rows`, from one forward pass.

    Padding is on the right and unmasked: in a causal model no token sees what follows it, so the pads change nothing
    and the attention kernels keep their fast causal path.
    """
    import torch

    width = len(rows[0].inputs)
    ids = torch.zeros((len(rows), width), dtype=torch.long)  # [batch, width]
    for i, row in enumerate(rows):
        ids[i, : len(row.inputs)] = torch.tensor(row.inputs)
        ids[i, len(row.inputs) :] = row.inputs[-1]
    logits = model(input_ids=ids.to(device), use_cache=False).logits  # [batch, virtual + width, vocabulary]
    virtual = logits.shape[1] - width
    read: list[tuple[Piece, float, bool]] = []
    for i, row in enumerate(rows):
        read += _read_row(logits[i, virtual : virtual + len(row.inputs)], row.pieces)
    return read


def _read_row(logits: Any, pieces: Sequence[Piece]) -> list[tuple[Piece, float, bool]]:
    """Scores of the pieces of one row; `logits` is [length, vocabulary] without virtual tokens and padding."""
    import torch

    longest = max(len(piece.continuation) for piece in pieces)
    tail = logits[-longest:].float()  # [longest, vocabulary]; float32 whatever the model computes in
    logprobs, best = tail.log_softmax(-1), tail.argmax(-1)
    read = []
    for piece in pieces:
        count = len(piece.continuation)
        ids = torch.tensor(piece.continuation, device=tail.device)
        chosen = logprobs[-count:].gather(1, ids[:, None])  # [count, 1]
        read.append((piece, float(chosen.double().sum()), bool((best[-count:] == ids).all())))
    return read


def settle(read: Sequence[tuple[Piece, float, bool]], tallies: Mapping[int, Tally]) -> Answers:
    """Enter what was read into the tallies; the requests that this completed."""
    finished: Answers = []
    for piece, logprob, is_greedy in read:
        tally = tallies[piece.index]
        tally.add(logprob, is_greedy, len(piece.continuation))
        if not tally.pending:
            finished.append((piece.index, tally.output()))
    return finished
