"""The reference of preference and reward objectives: the model as it is when its training starts.

TRL gets it wrong in two ways, both silent. For a fully trained model it loads the reference again from the folder that
the model's config names, whatever has been done to the model since. For a PEFT model it makes a second adapter, "ref",
and copies the parameters whose names have `.default.` inside; those of IA3, VeRA and others end in `.default`, so that
the reference of a second stage is an adapter that does nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.errors import ConfigError

_REFERENCE = "ref"


def reference_of(model: Any) -> Any:
    """A frozen copy of a model without PEFT, to be made before a trainer has changed anything in it."""
    import copy

    return copy.deepcopy(model).requires_grad_(False).eval()


def drop_reference_adapter(model: Any) -> None:
    """Take TRL's copy of the adapter out of a PEFT model, if there is one."""
    if _REFERENCE in getattr(model, "peft_config", {}):
        model.delete_adapter(_REFERENCE)
        model.set_adapter("default")


def mend_reference_adapter(model: Any) -> None:
    """Make TRL's copy of the adapter in a PEFT model a copy indeed, all of it.

    Raises:
        ConfigError: the two adapters do not have the same parameters.
    """
    if _REFERENCE not in getattr(model, "peft_config", {}):
        return
    state = dict(model.named_parameters())
    ours = {_as_reference(name): p for name, p in state.items() if _as_reference(name) != name}
    copies = {name for name in state if _REFERENCE in name.split(".")}
    if set(ours) != copies:
        raise ConfigError(f"the adapter cannot be copied for reference: {min(set(ours) ^ copies)} has no counterpart")
    for name, parameter in ours.items():
        state[name].data.copy_(parameter.data)
        state[name].requires_grad_(False)
    model.set_adapter("default")


def _as_reference(name: str) -> str:
    return ".".join(_REFERENCE if part == "default" else part for part in name.split("."))


@contextmanager
def evaluated(model: Any) -> Iterator[None]:
    """Without dropout and gradients; the modes of all modules are put back, and not those of the top one alone."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@functools.cache
def referring(make: type[Any]) -> type[Any]:
    """`make` (TRL's trainer for DPO or KTO) with log-probabilities of the reference that are those of the start.

    They are computed once, from the very model that is about to be trained: no second model, no second adapter, and
    in the first step policy and reference agree.
    """

    class Referring(make):  # type: ignore[misc]  # a class that is known at run time only
        def _prepare_dataset(self, dataset: Any, *given: Any, **named: Any) -> Any:
            return dataset  # rows have been tokenised

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            from torch.utils.data import DataLoader

            if self.state.global_step > 0:
                raise ConfigError("the reference of new rows can be computed before training only")
            drop_reference_adapter(self.model)
            found: dict[str, list[float]] = {}
            with evaluated(self.model):
                for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator):
                    for column, values in self._reference(self._prepare_inputs(batch)).items():
                        found.setdefault(column, []).extend(values.float().cpu().tolist())
            for column, values in found.items():
                dataset = dataset.add_column(column, values)
            return dataset

        def _reference(self, batch: dict[str, Any]) -> dict[str, Any]:
            self.ref_model = self.model  # TRL switches adapters off unless there is a model for reference
            try:
                first, second = self.compute_ref_log_probs(self.model, batch)
            finally:
                self.ref_model = None
            names = ("ref_logps", "ref_KL_logps") if "label" in batch else ("ref_chosen_logps", "ref_rejected_logps")
            return {n: v for n, v in zip(names, (first, second), strict=True) if v is not None}

    Referring.__name__ = Referring.__qualname__ = make.__name__
    return Referring
