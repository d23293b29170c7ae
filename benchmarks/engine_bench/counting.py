"""What a run cost, counted and not guessed: tokens forwarded, logits made, floating-point operations, memory.

Every alternative is counted by the same hooks on the model itself, so none reports on its own behalf.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Size:
    """Parameters by how often they are used: `body` once a token, `head` once a position whose logits are made.

    The input embedding is looked up, not multiplied, so it costs nothing. `adapter` is used once a token while the
    adapter is in force.
    """

    body: int
    head: int
    adapter: int = 0

    @property
    def total(self) -> int:
        """Without the adapter and without the input embedding."""
        return self.body + self.head


@dataclass(slots=True)
class Work:
    """What went through a model: `tokens` with padding, `positions` with logits, passes, and attention's FLOPs."""

    tokens: int = 0
    positions: int = 0
    passes: int = 0
    attention: int = 0

    def __sub__(self, other: Work) -> Work:
        """The work between two moments."""
        return Work(*(a - b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    def copy(self) -> Work:
        """As it stands now."""
        return Work(**asdict(self))


def flops(size: Size, work: Work) -> int:
    """Two operations for every parameter that a token or position is multiplied with, and those of attention."""
    return 2 * (size.body + size.adapter) * work.tokens + 2 * size.head * work.positions + work.attention


def attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *, causal: bool) -> int:
    """Of one call with shapes [batch, heads, length, size]: two products, without the masked half if it is causal."""
    batch, heads, queries, width = query
    pairs = queries * key[2]
    if causal and queries == key[2]:
        pairs = queries * (queries + 1) // 2
    return 2 * batch * heads * pairs * (width + value[3])


def size_of(model: Any) -> Size:
    """The size of a transformers model, or of a PEFT one with the LoRA that is in force; other LoRAs cost nothing."""
    named = [(name, int(p.numel())) for name, p in model.named_parameters()]
    attached = sum(count for name, count in named if "lora_" in name)
    active = f".{model.active_adapter}." if hasattr(model, "get_base_model") else None
    adapter = sum(count for name, count in named if "lora_" in name and active is not None and active in name)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    shared = embedding is head or embedding.data_ptr() == head.data_ptr()
    total = sum(count for _, count in named) - attached
    return Size(total - int(head.numel()) - (0 if shared else int(embedding.numel())), int(head.numel()), adapter)


@contextmanager
def metered(model: Any) -> Iterator[Work]:
    """Counts everything that goes through `model` while the context is open, beginning at its embedding layer."""
    import torch

    work = Work()
    genuine = torch.nn.functional.scaled_dot_product_attention

    def embedded(_: Any, given: tuple[Any, ...]) -> None:
        work.tokens += int(given[0].numel())
        work.passes += 1

    def projected(_: Any, __: Any, made: Any) -> None:
        work.positions += int(made.numel() // made.shape[-1])

    def attended(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> Any:
        causal = bool(options.get("is_causal", rest[2] if len(rest) > 2 else False))
        # Where fewer key heads than query heads are given, every one of them is used for several.
        work.attention += attention_flops(query.shape, key.shape, value.shape, causal=causal)
        return genuine(query, key, value, *rest, **options)

    handles = [
        model.get_input_embeddings().register_forward_pre_hook(embedded),
        model.get_output_embeddings().register_forward_hook(projected),
    ]
    torch.nn.functional.scaled_dot_product_attention = attended
    try:
        yield work
    finally:
        torch.nn.functional.scaled_dot_product_attention = genuine
        for handle in handles:
            handle.remove()


def unique_prefix_tokens(rows: Iterable[Sequence[int]]) -> int:
    """Nodes of the trie of `rows`: the tokens that are left to compute when every common prefix is computed once."""
    total, before = 0, ()
    for row in sorted(set(map(tuple, rows))):
        total += len(row) - common_prefix(before, row)
        before = row
    return total


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two rows begin with in common."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])


def peak_memory(device: str) -> int:
    """Bytes: the most that this process has had resident so far, or on CUDA the most that torch has allocated."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage counts what the parent held when it started us
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
