"""The model of a stage: the base or what an earlier stage left, with the head that the objective needs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.records import content_hash
from harness.subjects import _files
from harness.subjects._classes import head_modules, inside
from harness.subjects._loading import WeightsSpec, load_as, load_base
from harness.subjects.local import choose_device, choose_dtype
from harness.training.recipe import BaseSection
from harness.training.scopes import Head, Scope


def find_base(base: BaseSection, folder: Path) -> _files.ModelFiles:
    """The files of the recipe's base.

    Raises:
        SubjectError: there is no such model, or it is unsafe to load.
    """
    return _files.find_model(base.model, base.revision, folder, base.trust_remote_code)


def spec_of(base: BaseSection, files: _files.ModelFiles, scope: Scope) -> WeightsSpec:
    """How the base is loaded for a scope.

    Whole models are trained in 32 bits unless the recipe says otherwise: in 16 bits an optimiser's steps round to
    nothing. What only adapts a base leaves it in the dtype in which it is evaluated.
    """
    device = choose_device(base.device)
    whole = scope.traits.saves == "checkpoint"
    dtype = "float32" if whole and base.dtype == "auto" else choose_dtype(base.dtype, device)
    return WeightsSpec(files.folder, dtype, device, scope.quantization, files.remote_code)


def tokenizer_folder(base: BaseSection, files: _files.ModelFiles, folder: Path) -> Path:
    """Where the recipe's tokenizer lies: with the model, or in a folder of its own."""
    if base.tokenizer is None:
        return files.folder
    return _files.locate(base.tokenizer, None, folder, list(_files._TOKENIZER_FILES))


def tokenizer_sha256(base: BaseSection, files: _files.ModelFiles, folder: Path) -> str:
    """One hash of the tokenizer's files and the chat template."""
    template = base.chat_template and _files.place(base.chat_template, folder).read_text(encoding="utf-8")
    return content_hash([_files.tokenizer_hashes(tokenizer_folder(base, files, folder)), template])


def save_tokenizer(base: BaseSection, files: _files.ModelFiles, folder: Path, target: Path) -> None:
    """The tokenizer's own files beside a checkpoint.

    They are copied: transformers would write them in its own way, with the pad token that the training chose, and the
    gate would hold a checkpoint whose tokenizer is not the baseline's.
    """
    source = tokenizer_folder(base, files, folder)
    for name in _files.tokenizer_hashes(source):
        shutil.copyfile(source / name, target / name)
    if base.chat_template is not None:
        shutil.copyfile(_files.place(base.chat_template, folder), target / "chat_template.jinja")


def load_tokenizer(base: BaseSection, files: _files.ModelFiles, folder: Path) -> Any:
    """The recipe's tokenizer, with its chat template.

    Raises:
        ConfigError: it cannot be loaded, or the chat template cannot be read.
    """
    from transformers import AutoTokenizer

    source = tokenizer_folder(base, files, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=files.remote_code)
        if base.chat_template is not None:
            tokenizer.chat_template = _files.place(base.chat_template, folder).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer of {base.model}: {error}") from error
    return tokenizer


def tokenizer_of(options: Mapping[str, Any], folder: Path) -> Any | None:
    """The tokenizer that a local subject of these options has; None where it has none of its own."""
    given = {key: options[key] for key in BaseSection.model_fields if key in options}
    if "model" not in given:
        return None
    section = BaseSection.model_validate(given)
    return load_tokenizer(section, find_base(section, folder), folder)


def load_for(spec: WeightsSpec, scope: Scope, head: Head, before: Path | None, classes: Sequence[str] = ()) -> Any:
    """The model, its scope applied, ready to be trained; `before` is the folder of the stage that it goes on from.

    Raises:
        SubjectError: the base cannot be loaded.
        ConfigError: the scope has nothing to train in it.
        AdapterError: `before` does not fit the base.
    """
    whole = before is not None and scope.traits.saves == "checkpoint"
    bare = _load(replace(spec, folder=before) if whole and before is not None else spec, head, classes, fresh=not whole)
    model = scope.apply(bare, head) if before is None else scope.resume(bare, before, head)
    if hasattr(model, "train"):  # what is fitted at once has no modes
        model.train()
    return model


def _load(spec: WeightsSpec, head: Head, classes: Sequence[str], *, fresh: bool) -> Any:
    """`fresh` says whether the head may be one that the training makes."""
    if head == "language":
        return load_base(spec)
    from transformers import AutoConfig, AutoModelForSequenceClassification

    names = list(classes) if head == "classes" else ["reward"]
    labels = {"num_labels": len(names), "id2label": dict(enumerate(names))}
    config = AutoConfig.from_pretrained(spec.folder, trust_remote_code=spec.remote_code, **labels)
    heads = _fresh_heads(config) if fresh else []
    return load_as(
        spec,
        AutoModelForSequenceClassification,
        fresh=lambda name: any(inside(name, one) for one in heads),
        label2id={name: number for number, name in enumerate(names)},
        **labels,
    )


def _fresh_heads(config: Any) -> list[str]:
    """Modules that a base model's files do not hold, because the training makes them."""
    import torch
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        return list(head_modules(AutoModelForSequenceClassification.from_config(config)))
