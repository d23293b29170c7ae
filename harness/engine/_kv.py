"""Keys and values of attention, kept so that no token is computed twice.

A `Segment` holds those of consecutive tokens of one sequence; a `Batch` those of several sequences on their way through
the model. The rows of a batch end at a common right edge and are padded on the left, so that distances between tokens
are distances between columns: sliding windows, and everything else that transformers derives from columns, stay exact
for rows of different lengths. Every layer keeps all of its tokens, a sliding one too; the mask does the sliding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Layers = list[tuple[Any, Any]]
"""(keys, values) of each layer."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one token takes in a model's cache: (heads, key size, value size) of each layer, dtype and device."""

    layers: tuple[tuple[int, int, int], ...]
    dtype: Any
    device: str

    @property
    def bytes(self) -> int:
        """Bytes of one token."""
        return sum(heads * (key + value) for heads, key, value in self.layers) * int(self.dtype.itemsize)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Keys [heads, length, size] and values of `length` consecutive tokens, layer by layer."""

    layers: Layers
    length: int

    def split(self, at: int) -> tuple[Segment, Segment]:
        """The first `at` tokens and the rest, each with memory of its own so that either can be dropped."""
        head = [(k[:, :at].clone(), v[:, :at].clone()) for k, v in self.layers]
        tail = [(k[:, at:].clone(), v[:, at:].clone()) for k, v in self.layers]
        return Segment(head, at), Segment(tail, self.length - at)


_SLACK = 1.25  # of the columns that a batch needs, before its memory is laid out anew


class Scratch:
    """Memory for batches that live for one pass: given anew each time, it would cost as much as filling it.

    `filled` tells what the rows hold from the pass before: neighbours in a benchmark stand behind one prefix, which
    then need not be copied again.
    """

    def __init__(self) -> None:
        """Nothing is held yet."""
        self._held: dict[tuple[int, int], Any] = {}
        self._columns = 0
        self.filled: dict[int, tuple[int, int, int]] = {}

    def columns(self, wanted: int) -> int:
        """Columns for a batch that needs `wanted`: as before where that wastes little, so that its rows stay put."""
        if not wanted <= self._columns <= wanted * _SLACK:
            self._columns = -(-wanted // 64) * 64
            self.filled.clear()
        return self._columns

    def tensor(self, key: tuple[int, int], size: tuple[int, ...], shape: Shape) -> Any:
        """A tensor of `size` whose content is whatever was there; the next one of the same key overwrites it."""
        import torch

        wanted = math.prod(size)
        held = self._held.get(key)
        if held is None or held.numel() < wanted:
            self._held.pop(key, None)  # let go before taking more
            held = self._held[key] = torch.empty(wanted, dtype=shape.dtype, device=shape.device)
            self.filled.clear()
        return held[:wanted].view(size)

    def drop(self) -> None:
        """Give the memory back."""
        self._held.clear()
        self.filled.clear()


class Batch:
    """Keys and values [rows, heads, columns, size] of several sequences; row i is the last `lengths[i]` columns."""

    def __init__(self, shape: Shape, lengths: Sequence[int], room: int, scratch: Scratch | None = None) -> None:
        """Rows whose tokens are still to be filled in, and `room` more columns to grow into."""
        self.shape = shape
        self.lengths = list(lengths)
        self.end = max(self.lengths, default=0)
        self._ends: list[int] = []
        columns, rows = self.end + room, len(self.lengths)
        if scratch is not None:
            columns = scratch.columns(columns)
        else:
            scratch = Scratch()
        self.layers: Layers = [
            (
                scratch.tensor((layer, 0), (rows, heads, columns, key), shape),
                scratch.tensor((layer, 1), (rows, heads, columns, value), shape),
            )
            for layer, (heads, key, value) in enumerate(shape.layers)
        ]

    @property
    def rows(self) -> int:
        """How many sequences there are."""
        return len(self.lengths)

    @property
    def padded(self) -> bool:
        """Whether some row starts later than another."""
        return any(length < self.end for length in self.lengths)

    def fill(self, first: int, last: int, segments: Sequence[Segment]) -> None:
        """Rows `first` to `last` (exclusive) all begin with these segments, and have nothing else so far."""
        start = self.end - sum(segment.length for segment in segments)
        for layer, pair in enumerate(self.layers):
            for which, buffer in enumerate(pair):
                # Pads are masked, but 0 · NaN is NaN: what a masked column holds must be finite.
                buffer[first:last, :, :start] = 0
                column = start
                for segment in segments:
                    buffer[first:last, :, column : column + segment.length] = segment.layers[layer][which]
                    column += segment.length

    def mask(self, width: int) -> Any:
        """What `width` new columns may see, [rows, columns], with 1 for a token; None where nothing is padded."""
        import torch

        if not self.padded:
            return None
        starts = torch.tensor([self.end - length for length in self.lengths])
        seen = torch.arange(self.end + width)[None, :] >= starts[:, None]
        return seen.long().to(self.shape.device)

    def cache(self) -> Any:
        """A transformers cache that reads these columns and writes new ones behind them."""
        return _make_cache(self)

    def keep(self, new: Sequence[int]) -> Batch:
        """After new columns were written: row i keeps the first `new[i]` of them.

        Where these differ the rows end at different columns until they are moved, by `take` or `join`; so no memory
        is needed here, and rows that are not wanted any more are never moved.
        """
        self.lengths = [length + count for length, count in zip(self.lengths, new, strict=True)]
        if all(count == new[0] for count in new):
            self.end += new[0]
        else:
            self._ends = [self.end + count for count in new]
        return self

    @property
    def ragged(self) -> bool:
        """Whether the rows end at different columns, so that nothing can be forwarded behind them."""
        return bool(self._ends)

    def take(self, rows: Sequence[int], room: int) -> Batch:
        """Some of the rows, as a batch of their own."""
        return Batch.join([(self, rows)], room)

    @staticmethod
    def join(parts: Sequence[tuple[Batch, Sequence[int]]], room: int) -> Batch:
        """Some of the rows of several batches of one shape, behind one another."""
        lengths = [batch.lengths[row] for batch, rows in parts for row in rows]
        joined = Batch(parts[0][0].shape, lengths, room)
        first = 0
        for batch, rows in parts:
            joined._move(first, batch, rows)
            first += len(rows)
        return joined

    def segment(self, row: int, first: int, count: int) -> Segment:
        """`count` tokens of a row from its token number `first` on; they may lie behind the edge, just written."""
        start = self.end - self.lengths[row] + first
        return Segment([(k[row, :, start : start + count].clone(), v[row, :, start : start + count].clone())
                        for k, v in self.layers], count)  # fmt: skip

    @property
    def room(self) -> int:
        """Columns that can still be written; none in a ragged batch."""
        return 0 if self.ragged else self._columns - self.end

    @property
    def width(self) -> int:
        """Columns that the rows take once they end at a common edge."""
        return max(self.lengths, default=0) if self.ragged else self.end

    @property
    def _columns(self) -> int:
        return int(self.layers[0][0].shape[2])

    def _move(self, first: int, source: Batch, rows: Sequence[int]) -> None:
        """Put rows of `source` at this batch's edge, from row `first` on."""
        lengths = [source.lengths[row] for row in rows]
        ends = [source._ends[row] if source.ragged else source.end for row in rows]
        move = _move_rows if self.shape.device == "cpu" else _gather_rows
        last = first + len(lengths)
        for target, pair in zip(self.layers, source.layers, strict=True):
            for into, buffer in zip(target, pair, strict=True):
                move(into[first:last, :, : self.end], buffer, rows, ends, lengths)


def _move_rows(into: Any, buffer: Any, rows: Sequence[int], ends: Sequence[int], lengths: Sequence[int]) -> None:
    """Row by row: on a CPU plain memory moves are several times faster than an indexed copy."""
    width = into.shape[2]
    for i, (row, end, length) in enumerate(zip(rows, ends, lengths, strict=True)):
        into[i, :, : width - length] = 0
        into[i, :, width - length :] = buffer[row, :, end - length : end]


def _gather_rows(into: Any, buffer: Any, rows: Sequence[int], ends: Sequence[int], lengths: Sequence[int]) -> None:
    """All rows at once: on a GPU every call costs more than what it moves."""
    import torch

    stop = torch.tensor(ends)[:, None]
    columns = torch.arange(into.shape[2]) - into.shape[2] + stop  # [rows, columns]
    # A pad reads the row's own first token, which is finite; the mask hides it.
    columns = torch.maximum(columns, stop - torch.tensor(lengths)[:, None]).to(buffer.device)
    which = torch.tensor(list(rows), device=buffer.device)[:, None]
    into[:] = buffer.transpose(1, 2)[which, columns].transpose(1, 2)  # through [rows, columns, heads, size]


def _make_cache(batch: Batch) -> Any:
    from transformers.cache_utils import Cache, DynamicLayer

    class Layer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
        """One layer of `batch`, as transformers wants to see it."""

        def __init__(self, keys: Any, values: Any, end: int) -> None:
            super().__init__()
            self.is_initialized = True
            self.keys, self.values, self.end = keys, values, end

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            start, self.end = self.end, self.end + key_states.shape[-2]
            self.keys[:, :, start : self.end] = key_states
            self.values[:, :, start : self.end] = value_states
            return self.keys[:, :, : self.end], self.values[:, :, : self.end]

        def get_seq_length(self) -> int:
            return self.end

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return self.end + query_length, 0

    return Cache(layers=[Layer(keys, values, batch.end) for keys, values in batch.layers])
