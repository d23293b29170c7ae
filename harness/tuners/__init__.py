"""Adapter methods that PEFT 0.21 does not have, as PEFT tuners: saved, loaded and switched off like its own.

Whoever loads an adapter calls `register` first, so that a folder whose `adapter_config.json` names one of them opens
like any other. The modules here import torch and peft at their top, because they derive classes from them; only
`register` imports the modules.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from harness.adapters import WEIGHTS, read_header
from harness.errors import AdapterError

TYPES = frozenset({"BITFIT", "BOTTLENECK"})
"""What `peft_type` says in the `adapter_config.json` of an adapter of ours."""


def register() -> None:
    """Make PEFT know our methods; a second call does nothing."""
    for name in sorted(TYPES):
        importlib.import_module(f"harness.tuners.{name.lower()}")


def open_adapter(model: Any, folder: Path, *, name: str = "default", trainable: bool = False) -> Any:
    """The model with the adapter of a folder on it, a `PeftModel` of whichever method.

    Raises:
        AdapterError: there is none, it does not fit the model, or its file does not hold just what its config says:
            PEFT only warns of that, and goes on with fresh values.
    """
    from peft import PeftModel, get_peft_model_state_dict

    register()
    if not (folder / WEIGHTS).is_file():
        raise AdapterError(f"{folder} holds no {WEIGHTS}, so it is not an adapter")
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=trainable)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise AdapterError(f"{folder} cannot be put on {model.config.name_or_path}: {error}") from error
    differing = set(get_peft_model_state_dict(adapted, adapter_name=name)) ^ set(read_header(folder / WEIGHTS))
    if differing:
        raise AdapterError(
            f"{folder / WEIGHTS} does not hold what its config says: {len(differing)} tensors are in one of the two "
            f"only (first: {min(differing)})"
        )
    return adapted


def copy_adapter(model: Any, source: str = "default", target: str = "ref") -> None:
    """Give one adapter of a `PeftModel` the values of another of the same config.

    TRL adds a frozen adapter "ref" to a model that has been trained before, but copies only tensors whose names go on
    behind the adapter's. For IA3 and added biases they do not, and its reference is silently the bare base.

    Raises:
        AdapterError: the target is not there, or is not like the source.
    """
    there = dict(model.named_parameters())
    pairs = {name: ".".join(target if part == source else part for part in name.split(".")) for name in there}
    pairs = {name: other for name, other in pairs.items() if other != name}
    if not pairs or not set(pairs.values()) <= set(there):
        raise AdapterError(f"adapter {target!r} has not the tensors of {source!r}, so it cannot be made its copy")
    for name, other in pairs.items():
        there[other].data.copy_(there[name].data)
