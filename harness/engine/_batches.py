"""Runs work in batches and halves the batch when memory runs out."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# CUDA, cuBLAS, Apple's MPS, torch's allocator on Linux and on Windows: each says it in its own words.
_OUT_OF_MEMORY = ("out of memory", "alloc_failed", "allocate memory", "not enough memory")

OUT_OF_MEMORY = "out of memory even when asked alone; shorten the prompt or use a smaller dtype"


def in_batches(
    items: Sequence[Item],
    size: int,
    run: Callable[[Sequence[Item]], Result],
    give_up: Callable[[Item], Result],
) -> Iterator[Result]:
    """`run` over consecutive batches of at most `size` items; `give_up` for an item that does not fit even alone.

    After running out of memory the smaller size is kept: items come longest first, so the rest would fit no worse,
    but a second failure costs more than the larger batch gains.
    """
    start = 0
    while start < len(items):
        batch = items[start : start + size]
        result = attempt(batch, run)
        if result is None and len(batch) > 1:
            size = len(batch) // 2
            continue
        yield give_up(batch[0]) if result is None else result
        start += len(batch)


def attempt(batch: Sequence[Item], run: Callable[[Sequence[Item]], Result]) -> Result | None:
    """None means that memory ran out; what the failed attempt held is released before returning."""
    try:
        return run(batch)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    _release()
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: the machine's failure, not that of what was being computed or loaded."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)


def _release() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
