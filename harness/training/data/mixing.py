"""How many rows of each source, and which: shares as asked to within a row, without repetition, by the seed alone.

Which rows are drawn depends on their content and the seed, not on their order. Everything here works on numbers of
rows; nothing is copied. O(n log n) time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def order(seed: int, purpose: str, rows: Sequence[int], digest: Callable[[int], bytes]) -> list[int]:
    """`rows` in an order that looks random and depends on the seed, the purpose and each row's digest only."""
    salt = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=16).digest()
    return sorted(rows, key=lambda row: hashlib.blake2b(digest(row), digest_size=16, key=salt).digest())


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """`total` divided by `weights` into whole numbers, each within one of its exact part (largest remainders)."""
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (parts[i] - exact[i], i))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def weighted(available: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many rows of each source make a mixture with the shares of `weights`, as large as the scarcest one allows."""
    total = min(int(count * sum(weights) / weight + 1e-9) for count, weight in zip(available, weights, strict=True))
    parts = apportion(total, weights)
    while any(part > count for part, count in zip(parts, available, strict=True)):  # a remainder went past the end
        total -= 1
        parts = apportion(total, weights)
    return parts


@dataclass(frozen=True, slots=True)
class ReplayDraw:
    """Which rows are replayed, in order (a row comes again only if `repeat` asked for it), and what was asked for."""

    rows: list[int]
    wanted: int
    available: int

    @property
    def short(self) -> bool:
        """Whether there were too few rows."""
        return self.available < self.wanted


def replay_count(rows: int, share: float) -> int:
    """How many replay rows make up `share` of all when they join `rows` others: r / (rows + r) = share."""
    return round(rows * share / (1 - share))


def draw_replay(
    pools: Sequence[Sequence[int]], weights: Sequence[float] | None, wanted: int, *, repeat: bool
) -> ReplayDraw:
    """The first rows of `pools`, which are in the order of drawing; by `weights` as far as their rows last.

    Without weights every row of every pool is as likely, which `pools` of one merged pool stand for.
    """
    available = sum(len(pool) for pool in pools)
    first = _fill([len(pool) for pool in pools], weights or [max(1, len(p)) for p in pools], min(wanted, available))
    rows = [row for pool, count in zip(pools, first, strict=True) for row in pool[:count]]
    if repeat and rows and available < wanted:
        rounds, rest = divmod(wanted, len(rows))
        rows = rows * rounds + rows[:rest]
    return ReplayDraw(rows, wanted, available)


def _fill(available: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """`total` (at most all that is available) by weight; what one pool cannot give is taken from the others."""
    parts = [0] * len(available)
    while sum(parts) < total:
        open_ = [i for i, count in enumerate(available) if parts[i] < count]
        shares = apportion(total - sum(parts), [weights[i] for i in open_])
        for index, share in zip(open_, shares, strict=True):
            parts[index] += min(share, available[index] - parts[index])
    return parts
