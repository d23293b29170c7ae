"""What a penalty pulls at: weights that are trained themselves, and weights that a LoRA adapter changes.

For a weight W that is trained itself the change is W − W₀. Under LoRA the trained matrices A (r × in) and B (out × r)
are not the model's weights: what moves is ΔW = s·BA, and the same ΔW comes from many A and B. So the penalty is on
the effective change ΔW − ΔW₀, with ΔW₀ what an adapter that is trained further began with (0 for a fresh one). It is
s·B̃Ã with B̃ = [B, −B₀] and Ã = [A; A₀], and so of rank 2r at most. A fresh adapter has B̃ = B, Ã = A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import ConfigError
from harness.training.forgetting._model import is_peft, trainable


class Term(Protocol):
    """One weight of the model. Both penalties are ½ λ Σ f·change², with f = 1 (L2-SP) or the Fisher diagonal (EWC)."""

    name: str

    def start(self) -> dict[str, Any]:
        """The tensors that say where it started, by name, copied."""
        ...

    def anchor(self, start: Mapping[str, Any]) -> None:
        """Pull to where `start` says."""
        ...

    def pull(self, strength: float, fisher: Any = None) -> Any:
        """Add the penalty's gradient to the parameters' and return its value, a 0-d float32 tensor."""
        ...


@dataclass(slots=True)
class Direct:
    """A weight that is trained itself."""

    name: str
    parameter: Any
    _start: Any = None

    def start(self) -> dict[str, Any]:
        """See `Term.start`."""
        return {self.name: self.parameter.detach().clone()}

    def anchor(self, start: Mapping[str, Any]) -> None:
        """See `Term.anchor`."""
        self._start = start[self.name].to(self.parameter.device)

    def pull(self, strength: float, fisher: Any = None) -> Any:
        """See `Term.pull`; `fisher` has the parameter's shape."""
        change = self.parameter.detach().float() - self._start.float()
        weighted = change if fisher is None else fisher * change
        _add(self.parameter, strength * weighted)
        return 0.5 * strength * (weighted * change).sum()


@dataclass(slots=True)
class LowRank:
    """A weight that a LoRA layer changes; `name` is the layer's. Shapes: a (r, in), b (out, r)."""

    name: str
    layer: Any
    a: Any
    b: Any
    scaling: float
    _start: tuple[Any, Any] | None = None

    def start(self) -> dict[str, Any]:
        """See `Term.start`."""
        return {f"{self.name}.A": self.a.detach().clone(), f"{self.name}.B": self.b.detach().clone()}

    def anchor(self, start: Mapping[str, Any]) -> None:
        """See `Term.anchor`."""
        a, b = (start[f"{self.name}.{which}"].to(self.a.device).float() for which in "AB")
        self._start = (a, b) if b.any() and a.any() else None

    def pull(self, strength: float, fisher: Any = None) -> Any:
        """See `Term.pull`; `fisher` is (out, in), and only with it is ΔW written out."""
        wide, tall = self._factors()
        if fisher is None:
            # ½ λ s² ‖B̃Ã‖² = ½ λ s² tr(B̃ᵀB̃ · ÃÃᵀ), and its gradients: products of at most 2r × 2r.
            a, b = self.a.detach().float(), self.b.detach().float()
            scale = strength * self.scaling**2
            _add(self.a, scale * ((b.T @ wide) @ tall))
            _add(self.b, scale * (wide @ (tall @ a.T)))
            return 0.5 * scale * ((wide.T @ wide) * (tall @ tall.T)).sum()
        change = self.scaling * (wide @ tall)  # (out, in), of this layer alone
        weighted = fisher * change
        scale = strength * self.scaling
        _add(self.a, scale * (self.b.detach().float().T @ weighted))
        _add(self.b, scale * (weighted @ self.a.detach().float().T))
        return 0.5 * strength * (weighted * change).sum()

    def _factors(self) -> tuple[Any, Any]:
        """B̃ (out, ≤ 2r) and Ã (≤ 2r, in) in float32."""
        import torch

        a, b = self.a.detach().float(), self.b.detach().float()
        if self._start is None:
            return b, a
        return torch.cat([b, -self._start[1]], dim=1), torch.cat([a, self._start[0]], dim=0)


def terms_of(model: Any, what: str) -> list[Term]:
    """One term for every weight that training changes.

    Raises:
        ConfigError: an adapter under which the change of the weights is not s·BA, or nothing is trained.
    """
    if is_peft(model):
        _refuse_other_methods(model, what)
    found: list[Term] = list(_low_rank(model, what))
    claimed = {id(p) for term in found if isinstance(term, LowRank) for p in (term.a, term.b)}
    for name, parameter in trainable(model).items():
        if id(parameter) not in claimed:
            if "lora_" in name:
                raise ConfigError(f"{what} knows no effective weight change for the parameter {name}; leave it out")
            found.append(Direct(name, parameter))
    if not found:
        raise ConfigError(f"{what}: no parameter of the model is trained")
    return found


def _low_rank(model: Any, what: str) -> list[LowRank]:
    try:
        from peft.tuners.lora.layer import LoraLayer
    except ImportError:
        return []
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    found = [_term(name, layer, what) for name, layer in layers]
    return [term for term in found if term is not None]


def _term(name: str, layer: Any, what: str) -> LowRank | None:
    names = [a for a in layer.active_adapters if a in layer.lora_A or a in layer.lora_embedding_A]
    if not names:
        return None
    if len(names) > 1:
        raise ConfigError(f"{what}: {len(names)} adapters are active at once in {name}; train one at a time")
    adapter = names[0]
    if variant := layer.lora_variant.get(adapter):
        raise ConfigError(
            f"{what}: under {type(variant).__name__} the change of a weight is not s·BA but depends on the weight "
            "itself, so the penalty is not defined for it; use plain LoRA (use_dora: false), or leave the penalty out"
        )
    if layer.lora_bias.get(adapter):
        raise ConfigError(f"{what}: lora_bias moves biases besides s·BA in {name}; set lora_bias=False")
    if adapter in layer.lora_embedding_A:
        a, b = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    else:
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    if a.dim() != 2 or b.dim() != 2 or type(layer).__name__ == "ParamWrapper":
        raise ConfigError(f"{what} knows the change of linear and embedding layers only, and {name} is another kind")
    return LowRank(name, layer, a, b, float(layer.scaling[adapter])) if a.requires_grad or b.requires_grad else None


def _refuse_other_methods(model: Any, what: str) -> None:
    config = model.peft_config[model.active_adapter]
    method = str(getattr(config.peft_type, "value", config.peft_type))
    if method == "LORA":
        return
    if config.is_prompt_learning:
        reason = (
            "changes no weight: it puts virtual tokens before the text, and with them away the model is the old one"
        )
    else:
        reason = "does not add s·BA to the weights, so the effective change is not defined here"
    raise ConfigError(
        f"{what} cannot be used with {method}, which {reason}. Use LoRA, train the weights, or leave it out"
    )


def _add(parameter: Any, gradient: Any) -> None:
    """Add to a gradient, which is None where the step's rows did not touch the parameter."""
    if not parameter.requires_grad:
        return
    gradient = gradient.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)
