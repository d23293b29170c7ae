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
        AdapterError: there is none, it does not fit the model, or its file lacks a tensor.
    """
    from peft import PeftModel

    register()
    if not (folder / WEIGHTS).is_file():
        raise AdapterError(f"{folder} holds no {WEIGHTS}, so it is not an adapter")
    try:
        adapted = PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=trainable)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise AdapterError(f"{folder} cannot be put on {model.config.name_or_path}: {error}") from error
    refuse_incomplete(adapted, name, folder)
    return adapted


def refuse_incomplete(adapted: Any, name: str, folder: Path) -> None:
    """Hold adapter `name` of a `PeftModel` against the file that it was loaded from.

    Raises:
        AdapterError: the file lacks a tensor of it. PEFT only warns, and goes on with random values.
    """
    from peft import get_peft_model_state_dict

    expected = get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False)
    if missing := set(expected) - set(read_header(folder / WEIGHTS)):
        raise AdapterError(
            f"{folder / WEIGHTS} does not hold what its config says: {len(missing)} tensors are missing "
            f"(first: {min(missing)})"
        )


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
