"""Trainable weights kept on disk, to be put back bit for bit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import StorageError
from harness.training.forgetting._model import trainable


class KeptWeights:
    """One file of trainable weights. A new one takes the old one's place whole or not at all."""

    def __init__(self, path: Path) -> None:
        """Nothing is written yet; a file that is there may be read."""
        self.path = path

    def save(self, model: Any) -> None:
        """Write the model's trainable parameters.

        Raises:
            StorageError: there is no space, or the folder cannot be written; what was kept before is untouched.
        """
        write_tensors(self.path, {name: parameter.detach() for name, parameter in trainable(model).items()})

    def restore(self, model: Any) -> None:
        """Put the kept weights into the model.

        Raises:
            StorageError: the file is gone or is not this model's.
        """
        import torch

        tensors = read_tensors(self.path)
        parameters = dict(model.named_parameters())
        if missing := [name for name in tensors if name not in parameters]:
            raise StorageError(
                f"{self.path}: this model has no parameter {missing[0]!r}; the file is another training's"
            )
        with torch.no_grad():
            for name, tensor in tensors.items():
                parameters[name].copy_(tensor)


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, atomically.

    Raises:
        StorageError: there is no space, or the folder cannot be written.
    """
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A copy of each: safetensors refuses tensors that share memory.
        save_file({name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}, temporary)
        os.replace(temporary, path)
    except Exception as error:  # safetensors has its own exception for a full disk
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error}. Free space, then resume the training") from error


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a file, on the CPU.

    Raises:
        StorageError: it is not there or not safetensors.
    """
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Any] = load_file(path)
    except Exception as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    return tensors
