"""Whether weights in memory are still bit for bit those that were loaded.

A probe of a few tokens shows what a change does to every input, but not a change of one token's embedding; a sum over
all parameters shows that, but not a layer that is left switched on. So both are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The parameters of a bare model, by name and by reference, and the sum of each one's bits."""

    tensors: Mapping[str, Any]
    sums: Mapping[str, int]

    @classmethod
    def of(cls, model: Any) -> Snapshot:
        """Remember a model that nothing has been attached to."""
        tensors = dict(_stored(model))
        return cls(tensors, {name: _sum(tensor) for name, tensor in tensors.items()})

    def holds(self) -> bool:
        """Whether the remembered parameters, wherever they hang by now, have the bits that they had."""
        return all(_sum(tensor) == self.sums[name] for name, tensor in self.tensors.items())

    def is_whole(self, model: Any) -> bool:
        """Whether `model` is made of the remembered parameters and of nothing else."""
        found = dict(_stored(model))
        return found.keys() == self.tensors.keys() and all(found[n] is t for n, t in self.tensors.items())


def probe(model: Any, rows: int, device: str) -> Any:
    """A model's logits on 16 fixed tokens out of `rows`, [1, positions, vocabulary]."""
    import torch

    ids = (torch.arange(1, 17) * 7919 % max(2, rows)).unsqueeze(0)
    return model(input_ids=ids.to(device), use_cache=False).logits.clone()


def same_bits(one: Any, two: Any) -> bool:
    """Whether two tensors are equal bit by bit; unlike in a comparison of numbers, NaN equals itself."""
    import torch

    return bool(one.shape == two.shape and torch.equal(_bytes(one), _bytes(two)))


def _stored(model: Any) -> Iterator[tuple[str, Any]]:
    """Parameters and those buffers that a checkpoint holds; others are caches that a model may renew by itself."""
    yield from model.named_parameters(remove_duplicate=False)
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}", buffer


def _sum(tensor: Any) -> int:
    """The sum modulo 2^64 of a tensor's bits, read as 64-bit numbers where its size allows."""
    import torch

    raw = _bytes(tensor)
    fits = raw.numel() % 8 == 0 and raw.storage_offset() % 8 == 0
    return int((raw.view(torch.int64) if fits else raw).sum(dtype=torch.int64))


def _bytes(tensor: Any) -> Any:
    import torch

    return tensor.data.contiguous().reshape(-1).view(torch.uint8)
