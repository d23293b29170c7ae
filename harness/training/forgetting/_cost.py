"""What looks cost, counted in tokens that pass through the model, so that the same training gives the same count.

The unit is the forward pass of one token. Training on a token costs that pass, the pass backwards for the activations
(as much again), the gradients of the weights (as much again for the share of them that is trained) and, where
activations are recomputed, one more pass forwards (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). A token that is
forwarded without gradients by a reference model costs one. A token of a look costs `LOOK_PRICE`, because encoding,
scoring, deciding and smaller batches come with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LOOK_PRICE = 1.4
"""Measured in processor seconds on the demo model (`benchmarks/forgetting.py --cost`) where the answers stay the same:
1.36. Where they differ and are written token by token, a token took more, 2.5."""


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
    """`looks` spread over `points` of the training, the last at its end, with `samples` of every suite at each."""

    points: int
    looks: int
    samples: int

    def due(self, point: int) -> bool:
        """Whether there is a look at this point, from 1."""
        return point <= self.points and point * self.looks // self.points > (point - 1) * self.looks // self.points


def plan_looks(
    points: int, samples: int, full: float, budget: float, *, smallest: int, suites: int = 1
) -> LookPlan | None:
    """The looks that a budget allows; None where not even one of the smallest can be paid.

    Looks are made smaller first and then fewer: between two looks that are far apart everything can be lost, and a
    small look goes on with what does worse than is tolerated. For that, room is left to ask one suite of each look to
    the end, or, of few suites, one in every fourth look.

    Fixed before the first look, and from costs alone, so that the error level of a look does not depend on what an
    earlier look has seen.

    Args:
        points: at how many points of the training a look could be made.
        samples: of a suite, at a look, wanted.
        full: what a look at all of them is expected to cost.
        budget: what all looks together may cost.
        smallest: samples below which a look could not show even a skill that is lost altogether; a look that is made
            smaller keeps a multiple of it.
        suites: how many are asked.
    """
    smallest = min(smallest, samples)

    def price(size: int) -> float:
        return full * (size + (samples - size) / max(suites, 4)) / samples

    looks = min(points, int(budget / price(smallest))) if full else points
    if not looks:
        return None
    sizes = (samples, *range(samples // smallest * smallest, 0, -smallest))
    return LookPlan(points, looks, next(size for size in sizes if looks * price(size) <= budget or size == smallest))
