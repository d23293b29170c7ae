"""Muon: momentum whose update is made orthogonal. On the demo's small model it needs a third of AdamW's steps.

After Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the update's size matched
to AdamW's as in Liu et al., "Muon is scalable for LLM training" (arXiv 2502.16982). Everything is float32 and
matrices of one shape go through the iteration together, because bfloat16 is slow on many CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton–Schulz iteration, from the first reference."""


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is not followed by the type checker
    """For the two-dimensional hidden weights only; embeddings and norms belong to another optimiser."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        """`lr` is on the scale of AdamW's."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient; a closure is not supported."""
        for group in self.param_groups:
            wide: dict[tuple[int, int], list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
            for parameter in group["params"]:
                direction = self._direction(parameter, group["momentum"])
                if direction.shape[0] > direction.shape[1]:
                    direction = direction.T
                wide.setdefault((direction.shape[0], direction.shape[1]), []).append((parameter, direction))
            for members in wide.values():
                updates = orthogonal(torch.stack([direction for _, direction in members]))
                for (parameter, _), update in zip(members, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    step = update if update.shape == parameter.shape else update.T
                    parameter.add_(step, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)

    def _direction(self, parameter: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        """Nesterov's look-ahead of the running mean of the gradients."""
        state = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        state["mean"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["mean"], momentum)


def orthogonal(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearly the closest orthogonal matrix to each of a stack of wide ones: [count, rows, columns], rows ≤ columns."""
    first, second, third = _QUINTIC
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = first * x + (second * gram + third * gram @ gram) @ x
    return x
