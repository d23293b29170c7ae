"""Scopes that are a PEFT method: the base stays as it is, and what is trained lies beside it in a small folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from harness import tuners
from harness.errors import ConfigError
from harness.subjects import _classes
from harness.training.scopes import Head, Traits
from harness.training.scopes._models import (
    keep_gradients,
    quietly,
    reason,
    refuse_encoder_decoder,
    refuse_quantised,
    skeleton,
)

ALL_HEADS: frozenset[Head] = frozenset({"language", "reward", "classes"})
TASKS: Mapping[Head, str] = {"language": "CAUSAL_LM", "reward": "SEQ_CLS", "classes": "SEQ_CLS"}
ADAPTER = "default"

Configure = Callable[[Any, Mapping[str, Any]], Any]
"""(model or its skeleton, what every PEFT config of this model says) → the method's PEFT config."""


class ScopeOptions(BaseModel):
    """Base of every scope's options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def nothing(model: Any) -> None:
    """A base that needs no preparation."""


@dataclass(frozen=True, slots=True)
class AdapterScope:
    """See `harness.training.scopes.Scope`.

    `configure` raises ConfigError for a model that the method does not fit; `prepare` sees the base first.
    """

    name: str
    traits: Traits
    configure: Configure
    quantization: Literal["none", "4bit"] = "none"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], None] = nothing

    def refusal(self, config: Any) -> str | None:
        """See `Scope.refusal`: the method is configured for the model without its weights."""
        return reason(lambda: self._try(skeleton(config)))

    def apply(self, model: Any, head: Head) -> Any:
        """See `Scope.apply`: a `PeftModel` with one adapter, which changes nothing yet."""
        from peft import get_peft_model

        self._prepare(model, head)
        # A head that was just made up belongs to no base: it is trained and saved with the adapter.
        common: dict[str, Any] = {"task_type": TASKS[head]}
        if head != "language":
            common["modules_to_save"] = [n for n in _classes.head_modules(model) if n not in ("classifier", "score")]
        with quietly():
            adapted = get_peft_model(model, self.configure(model, common), adapter_name=ADAPTER)
        return self._checked(adapted)

    def resume(self, model: Any, folder: Path, head: Head) -> Any:
        """See `Scope.resume`.

        Raises:
            AdapterError: the folder holds no such adapter, or it does not fit the model.
        """
        self._prepare(model, head)
        with quietly():
            return self._checked(tuners.open_adapter(model, folder, name=ADAPTER, trainable=True))

    def save(self, model: Any, folder: Path) -> None:
        """See `Scope.save`: our adapter alone, as a trainer may have put others (DPO's reference) beside it."""
        model.save_pretrained(str(folder), safe_serialization=True, selected_adapters=[ADAPTER])
        if model.peft_config[ADAPTER].task_type == "SEQ_CLS" and model.config.num_labels > 1:
            _classes.write(folder, "adapter", _classes.names_of(model.config))

    def _try(self, model: Any) -> None:
        if model is not None:  # else what does not fit shows when the model has been loaded
            tuners.register()
            self.configure(model, {})

    def _prepare(self, model: Any, head: Head) -> None:
        tuners.register()
        if head not in self.traits.heads:
            raise ConfigError(f"scope {self.name} trains no head for {head}, but for {sorted(self.traits.heads)}")
        refuse_encoder_decoder(model.config)
        if not self.traits.quantised:
            refuse_quantised(model, self.name)
        keep_gradients(model)
        self.prepare(model)

    def _checked(self, adapted: Any) -> Any:
        if not any(p.requires_grad for p in adapted.parameters()):
            raise ConfigError(f"scope {self.name}: no parameter of {adapted.config.name_or_path} is in it")
        return adapted
