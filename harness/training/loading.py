"""The model of a stage: the base or what an earlier stage left, with the head that the objective needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
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


def load_tokenizer(base: BaseSection, files: _files.ModelFiles, folder: Path) -> Any:
    """The recipe's tokenizer, with its chat template.

    Raises:
        ConfigError: it cannot be loaded, or the chat template cannot be read.
    """
    from transformers import AutoTokenizer

    source = files.folder
    if base.tokenizer is not None:
        source = _files.locate(base.tokenizer, None, folder, list(_files._TOKENIZER_FILES))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=files.remote_code)
        if base.chat_template is not None:
            tokenizer.chat_template = (folder / base.chat_template).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer of {base.model}: {error}") from error
    return tokenizer


def load_for(spec: WeightsSpec, scope: Scope, head: Head, before: Path | None, classes: Sequence[str] = ()) -> Any:
    """The model, its scope applied, ready to be trained; `before` is the folder of the stage that it goes on from.

    Raises:
        SubjectError: the base cannot be loaded.
        ConfigError: the scope has nothing to train in it.
        AdapterError: `before` does not fit the base.
    """
    whole = before is not None and scope.traits.saves == "checkpoint"
    bare = _load(replace(spec, folder=before) if whole and before is not None else spec, head, classes)
    model = scope.apply(bare, head) if before is None else scope.resume(bare, before, head)
    if hasattr(model, "train"):  # what is fitted at once has no modes
        model.train()
    return model


def _load(spec: WeightsSpec, head: Head, classes: Sequence[str]) -> Any:
    if head == "language":
        return load_base(spec)
    from transformers import AutoConfig, AutoModelForSequenceClassification

    names = list(classes) if head == "classes" else ["reward"]
    labels = {"num_labels": len(names), "id2label": dict(enumerate(names))}
    config = AutoConfig.from_pretrained(spec.folder, trust_remote_code=spec.remote_code, **labels)
    heads = _fresh_heads(config)
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
