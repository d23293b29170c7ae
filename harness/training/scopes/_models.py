"""What a scope asks about a model: its parts, their names, and whether there is anything for it to train."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.errors import ConfigError
from harness.subjects._loading import keep_trainable


def skeleton(config: Any) -> Any:
    """The backbone of a transformers config without its weights, for looking at names and kinds of modules.

    None for a model that only its own code can lay out.

    Raises:
        ConfigError: an encoder-decoder, which nothing here trains.
    """
    import torch
    from transformers import AutoModel

    refuse_encoder_decoder(config)
    try:
        with torch.device("meta"):
            return AutoModel.from_config(config)
    except (ValueError, ImportError):
        return None


def refuse_encoder_decoder(config: Any) -> None:
    """Raise ConfigError for an encoder-decoder."""
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"{config.model_type} is an encoder-decoder; causal language models and encoders can be trained"
        )


def reason(attempt: Callable[[], Any]) -> str | None:
    """The message of the ConfigError that `attempt` raises, or None."""
    try:
        attempt()
    except ConfigError as error:
        return str(error)
    return None


def shortest(model: Any, chosen: Iterable[str]) -> list[str]:
    """The chosen modules as PEFT matches them: by the last part of the name where it stands for chosen ones only."""
    wanted = set(chosen)
    others = {name.rpartition(".")[2] for name, _ in model.named_modules() if name not in wanted}
    return sorted({name if name.rpartition(".")[2] in others else name.rpartition(".")[2] for name in wanted})


def decoder_head(model: Any) -> str | None:
    """Name of the layer that turns hidden states into tokens, where the model has one."""
    output = model.get_output_embeddings()
    return None if output is None else next(name for name, module in model.named_modules() if module is output)


def freeze(model: Any) -> None:
    """No parameter is trained any more."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def refuse_quantised(model: Any, scope: str) -> None:
    """Raise ConfigError where the base was loaded in 4 or 8 bits and the scope would train packed weights."""
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        raise ConfigError(f"scope {scope} cannot train a quantised base; load it unquantised, or choose scope qlora")


def keep_gradients(model: Any) -> None:
    """Keep a 4-bit base from repacking itself for a CPU kernel without a gradient; see `harness.subjects._loading`.

    Raises:
        ConfigError: it has done so already, because it was asked something before.
    """
    keep_trainable(model)
    weights = (getattr(module, "weight", None) for module in model.modules())
    if any(getattr(getattr(w, "quant_state", None), "packing_format_for_cpu", False) for w in weights):
        raise ConfigError(
            "this 4-bit base has been asked before it is trained, and has packed its weights for a CPU kernel without "
            "a gradient; load it afresh for training"
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Without two warnings of PEFT: of GPT-2's transposed weights, which it handles, and of biases not merging."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        warnings.filterwarnings("ignore", message="Detected that the base layer has no bias term")
        yield
