"""What our methods share: each puts a layer of its own around the modules that its config names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn


@dataclass
class TunerConfig(PeftConfig):  # type: ignore[misc]  # peft is not followed by the type checker
    """Which modules get a layer, by full name or by the end of it, and which others are trained and saved whole."""

    target_modules: Any = None
    exclude_modules: Any = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)


class TunerLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]  # neither is followed by the type checker
    """A module with adapters behind it.

    A method names its containers in `adapter_layer_names`, each of which holds one layer or vector by adapter name. It
    must not be nested deeper: PEFT takes the adapter's name out of a tensor's name where it stands last or last but
    one, and would not find the tensor again under another name.
    """

    def __init__(self, base_layer: Any, adapter_name: str, config: Any) -> None:
        """Wrap `base_layer`, with one adapter."""
        super().__init__()
        self.base_layer = base_layer
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.prepare()
        self.update_layer(adapter_name, config)

    def prepare(self) -> None:
        """Make the containers."""
        raise NotImplementedError

    def fill(self, adapter_name: str, config: Any) -> None:
        """Put a new adapter into the containers, one that changes nothing."""
        raise NotImplementedError

    def change(self, adapter_name: str, output: Any) -> Any:
        """What an adapter makes of the base layer's output, of the same shape and type."""
        raise NotImplementedError

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """PEFT's name for adding an adapter to a layer."""
        self.fill(adapter_name, config)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The base layer, then the active adapters unless they are switched off or merged."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        output = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return output
        there = getattr(self, self.adapter_layer_names[0])
        for name in self.active_adapters:
            if name in there:
                output = self.change(name, output)
        return output


class Tuner(BaseTuner):  # type: ignore[misc]  # peft is not followed by the type checker
    """Replaces each target module by `tuner_layer_cls` around it."""

    tuner_layer_cls: type[TunerLayer]

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: Any, target_name: str, parent: Any, current_key: str
    ) -> None:
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config)
            return
        layer = self.tuner_layer_cls(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter is trained only once it is made active
        self._replace_module(parent, target_name, layer, target)
