"""Rotary embeddings that rescale themselves by the longest row of a batch: how far they do not, and how to undo it.

transformers' `dynamic` kinds (NTK scaling by the length at hand) and `longrope` (one set of frequencies up to the
original context, another beyond) look at the largest position of a whole batch. Behind such a row its neighbours are
computed with other frequencies, and `dynamic` even keeps the longest row's for the batches that follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def steady_length(config: Any) -> int | None:
    """Tokens up to which no row of a model of this transformers config changes its neighbours'; None: at any length."""
    text = getattr(config, "text_config", None) or config
    limits = []
    for rope in _parameters(getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}):
        kind = str(rope.get("rope_type", rope.get("type", "")))
        context = int(getattr(text, "max_position_embeddings", 0) or 0)
        if kind == "longrope":
            limits.append(int(rope.get("original_max_position_embeddings") or context))
        elif "dynamic" in kind:
            limits.append(context - 1)  # it goes back to its own scale below its context only, not at it
    return min(limits, default=None)


def relax(model: Any, device: str) -> None:
    """One pass of one token, which takes a stretched rotary embedding back to its own scale."""
    import torch

    model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=False)


def _parameters(rope: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parameters of the model, or of each kind of layer where these differ."""
    yield rope
    for value in rope.values():
        if isinstance(value, Mapping):
            yield value
