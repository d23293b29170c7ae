"""What a trained classifier leaves on disk: the names of its classes, and tensors as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from harness.errors import SubjectError

RECORD = "classifier.json"
TENSORS = "head.safetensors"
_FORMAT = 1

Kind = Literal["head", "adapter", "features"]
"""A model's own head; a PEFT adapter with its head; a scikit-learn classifier on the backbone's hidden states."""


@dataclass(frozen=True, slots=True)
class Record:
    """`classifier.json`: the classes in the order of the outputs, none for a reward; `settings` are the kind's own."""

    kind: Kind
    classes: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def write(folder: Path, kind: Kind, classes: Sequence[str], settings: Mapping[str, Any] | None = None) -> None:
    """Write `classifier.json`."""
    record = {"format": _FORMAT, "kind": kind, "classes": list(classes), "settings": dict(settings or {})}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(folder: Path) -> Record:
    """Read `classifier.json`.

    Raises:
        SubjectError: there is none, or it is not one of ours.
    """
    path = folder / RECORD
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != _FORMAT or raw["kind"] not in get_args(Kind):
            raise ValueError(f"format {raw['format']!r}, kind {raw['kind']!r}")
        classes = tuple(str(name) for name in raw["classes"])
        return Record(raw["kind"], classes, dict(raw["settings"]))
    except FileNotFoundError as error:
        raise SubjectError(f"{folder} holds no {RECORD}, so it is not a classifier that a training left") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SubjectError(f"{path} is not the record of a classifier: {error}") from error


def names_of(config: Any) -> tuple[str, ...]:
    """The classes of a transformers config, in the order of its outputs."""
    return tuple(str(config.id2label[i]) for i in range(config.num_labels))


def save_head(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a head's tensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / TENSORS)


def tensors(folder: Path) -> dict[str, Any]:
    """A head's tensors by name.

    Raises:
        SubjectError: they cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(folder / TENSORS))
    except (OSError, SafetensorError) as error:
        raise SubjectError(f"{folder / TENSORS} cannot be read: {error}") from error


def load_head(model: Any, folder: Path) -> None:
    """Put a saved head's tensors into a model.

    Raises:
        SubjectError: they cannot be read, or are not those of this model's head.
    """
    state, there = tensors(folder), model.state_dict()
    for name, tensor in state.items():
        if name not in there or there[name].shape != tensor.shape:
            shape = list(there[name].shape) if name in there else "nothing of that name"
            raise SubjectError(f"{folder}: its {name} is {list(tensor.shape)}, this base has {shape}")
    missing = [n for n in there if any(inside(n, head) for head in head_modules(model)) and n not in state]
    if missing:
        raise SubjectError(f"{folder} lacks {missing[0]}, which this base has no value for either")
    model.load_state_dict(state, strict=False)


def head_modules(model: Any) -> list[str]:
    """Names of everything between the backbone's last hidden state and the logits of a classifier or reward model.

    A backbone's pooler counts too: where the base's files lack one, transformers makes it up, so that it has to be
    trained and saved with the head. Empty for a model without a head.
    """
    backbone = model.base_model
    if backbone is model:
        return []
    names = [
        name
        for name, child in model.named_children()
        if child is not backbone and next(child.parameters(), None) is not None
    ]
    prefix = next(name for name, child in model.named_children() if child is backbone)
    return names + [f"{prefix}.{name}" for name, child in backbone.named_children() if name == "pooler"]


def inside(name: str, module: str) -> bool:
    """Whether a name is that of a module or of a part of it."""
    return name == module or name.startswith(f"{module}.")
