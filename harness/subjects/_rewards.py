"""A reward model from its folder into memory: a whole model, a PEFT adapter with its head, or a head alone on a base"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.adapters import CONFIG, WEIGHTS, read_header
from harness.errors import ConfigError

HEAD = "head.safetensors"


def load(folder: Path, base: str | None) -> Any:
    """The model with its one output, on the CPU; an adapter or a head goes on `base` (an adapter names its own).

    Raises:
        ConfigError: there is no reward model in the folder, or its base is not known.
    """
    if (folder / CONFIG).is_file():
        return _adapter(folder, base_of(folder, base))
    if (folder / HEAD).is_file():
        if base is None:
            raise ConfigError(f"reward model {folder} is a head alone: name the model below it with base")
        return _head(folder, base)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no reward model; train one with objective reward")
    return _classifier(str(folder), complete=True)


def base_of(folder: Path, base: str | None) -> str:
    """The model below a reward model: `base`, what its adapter names, or itself."""
    if base is None and (folder / CONFIG).is_file():
        return str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"])
    return base or str(folder)


def tokenizer_of(folder: Path, base: str | None) -> Any:
    """Its tokenizer, from the folder or from the model below it; without a pad token it pads with its end token."""
    from transformers import AutoTokenizer

    places = (folder, Path(base_of(folder, base)))
    source = next((place for place in places if (place / "tokenizer_config.json").is_file()), folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _adapter(folder: Path, base: str) -> Any:
    from peft import PeftModel

    from harness import tuners

    tuners.register()
    model = _classifier(base, complete=False)
    heads = [name for name, _ in model.named_parameters() if name.startswith(("score.", "classifier."))]
    held = read_header(folder / WEIGHTS)
    missing = [name for name in heads if not any(key.endswith(name) for key in held)]
    if missing or not heads:
        raise ConfigError(f"{folder} is no reward model: its adapter holds no {', '.join(missing) or 'head'}")
    return PeftModel.from_pretrained(model, str(folder))


def _head(folder: Path, base: str) -> Any:
    from safetensors.torch import load_file

    model = _classifier(base, complete=False)
    state = load_file(folder / HEAD)
    unknown = set(state) - set(model.state_dict())
    if unknown:
        raise ConfigError(f"the head in {folder} does not fit {base}: {min(unknown)} is unknown there")
    model.load_state_dict(state, strict=False)
    return model


def _classifier(source: str, *, complete: bool) -> Any:
    """The model with one output; transformers makes up a head that the files lack, and only warns of it."""
    from transformers import AutoModelForSequenceClassification

    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"reward model {source} cannot be loaded: {error}") from error
    if complete and info["missing_keys"]:
        raise ConfigError(f"{source} is no reward model: it holds no {min(info['missing_keys'])}")
    return model
