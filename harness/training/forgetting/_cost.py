"""What looks cost, counted in tokens that pass through the model, so that the same training gives the same count.

The unit is the forward pass of one token. Training on a token costs that pass, the pass backwards for the activations
(as much again), the gradients of the weights (as much again for the share of them that is trained) and, where
activations are recomputed, one more pass forwards (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). A token that is
forwarded without gradients by a reference model costs one. A token of a look costs `LOOK_PRICE`, because encoding,
scoring, deciding and smaller batches come with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LOOK_PRICE = 1.4
"""Measured in processor seconds on the demo model (`benchmarks/forgetting.py --cost`): 1.26, and some room."""

FEWEST_LOOKS = 4  # a look that finds forgetting late saves little, so looks are made smaller before they are made rarer


class Meter:
    """Counts at the model's input embedding. `trained` and `looked` are in forward passes of one token."""

    def __init__(self, model: Any, trained: float = 0.0, looked: float = 0.0) -> None:
        """Start counting, from what was counted before a training was resumed."""
        self.trained, self.looked = trained, looked
        self._looking = False
        self._step = step_cost(model)
        self._handle = model.get_input_embeddings().register_forward_pre_hook(self._count)

    @property
    def share(self) -> float:
        """Compute of looks over compute of training, so far."""
        return self.looked / self.trained if self.trained else 0.0

    @contextmanager
    def look(self) -> Iterator[None]:
        """What is forwarded inside is counted as a look's."""
        self._looking = True
        try:
            yield
        finally:
            self._looking = False

    def stop(self) -> None:
        """Take the hook off the model."""
        self._handle.remove()

    def _count(self, module: Any, arguments: tuple[Any, ...]) -> None:
        import torch

        tokens = arguments[0].numel() if arguments else 0
        if self._looking:
            self.looked += tokens * LOOK_PRICE
        else:
            self.trained += tokens * (self._step if torch.is_grad_enabled() else 1.0)


def step_cost(model: Any) -> float:
    """Forward passes that training on one token costs; see the module."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    share = sum(n for n, moves in sizes if moves) / max(1, sum(n for n, _ in sizes))
    return 2.0 + float(share) + (1.0 if getattr(model, "is_activation_checkpointing", False) else 0.0)


@dataclass(frozen=True, slots=True)
class LookPlan:
    """A look at every `stride`-th point, `looks` in all, with at most `samples` of every suite."""

    stride: int
    looks: int
    samples: int


def plan_looks(points: int, samples: int, full: float, budget: float, *, smallest: int) -> LookPlan | None:
    """The looks that a budget allows; None where not even one of the smallest can be paid.

    Fixed before the first look, and from costs alone, so that the error level of a look does not depend on what an
    earlier look has seen.

    Args:
        points: at how many points of the training a look could be made.
        samples: of a suite, at a look, wanted.
        full: what such a look is expected to cost.
        budget: what all looks together may cost.
        smallest: samples below which a look could not show even a skill that is lost altogether; a look that is made
            smaller keeps a multiple of it.
    """
    affordable = min(float(points), budget / full) if full else float(points)
    wanted = min(points, max(int(affordable), FEWEST_LOOKS))
    found = _spread(points, wanted, samples, affordable, smallest)
    if found is None:  # fewer than wanted then, of the smallest size
        found = _spread(points, int(affordable * samples / smallest), samples, affordable, smallest)
    return found


def _spread(points: int, wanted: int, samples: int, affordable: float, smallest: int) -> LookPlan | None:
    """About `wanted` looks at equal distances, as large as can be paid; None if that is smaller than `smallest`."""
    if wanted < 1 or points < 1:
        return None
    stride = math.ceil(points / min(wanted, points))
    looks = points // stride
    size = min(samples, int(samples * affordable / looks))
    size = size if size == samples else size // smallest * smallest
    return LookPlan(stride, looks, size) if size >= min(smallest, samples) else None
