"""A causal language model from its folder into memory, in eval mode on its device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engine._batches import out_of_memory
from harness.errors import InfrastructureError, SubjectError


@dataclass(frozen=True, slots=True)
class WeightsSpec:
    """Everything that decides what is in memory; two subjects with equal specs can share."""

    folder: Path
    dtype: str
    device: str
    quantization: str
    remote_code: bool
    private_to: str = ""


def load_base(spec: WeightsSpec) -> Any:
    """A causal language model, in eval mode on its device.

    Raises:
        SubjectError: it cannot be loaded, or it is not a causal language model.
        InfrastructureError: memory ran out.
    """
    from transformers import AutoModelForCausalLM

    return load_as(spec, AutoModelForCausalLM)


def load_as(spec: WeightsSpec, make: Any, *, fresh: Callable[[str], bool] = lambda _: False, **given: Any) -> Any:
    """A model by one of transformers' Auto classes, in eval mode on its device.

    `fresh` says of a parameter's name whether it may be missing in the files, as a head that is about to be trained is;
    `given` is added to the model's config.

    Raises:
        SubjectError: it cannot be loaded, or it is an encoder-decoder.
        InfrastructureError: memory ran out.
    """
    import torch
    from transformers import AutoConfig

    try:
        _no_progress_bars()
        config = AutoConfig.from_pretrained(spec.folder, trust_remote_code=spec.remote_code)
        if getattr(config, "is_encoder_decoder", False):
            raise SubjectError(f"{spec.folder} is an encoder-decoder; only causal language models are supported")
        model, found = make.from_pretrained(
            spec.folder,
            dtype=getattr(torch, spec.dtype),
            use_safetensors=True,
            trust_remote_code=spec.remote_code,
            output_loading_info=True,
            **_quantization(spec),
            **given,
        )
        _refuse_missing(spec.folder, sorted(name for name in found["missing_keys"] if not fresh(name)))
        if spec.quantization == "none":
            model.to(spec.device)
    except SubjectError:
        raise
    except Exception as error:  # safetensors, tokenizers and a model's own code raise errors of their own
        raise _said(spec, error) from error
    keep_trainable(model)
    return model.eval()


def _refuse_missing(folder: Path, missing: Sequence[str]) -> None:
    """transformers fills what a checkpoint lacks with random numbers, and says so in a warning only."""
    if missing:
        raise SubjectError(f"{folder}: {len(missing)} weights are missing in its files (first: {missing[0]})")


def _said(spec: WeightsSpec, error: Exception) -> InfrastructureError:
    if out_of_memory(error):
        return InfrastructureError(f"{spec.folder}: memory ran out while it was loaded: {error}")
    return SubjectError(f"{spec.folder} cannot be loaded: {error}")


def _no_progress_bars() -> None:
    """Loading draws bars of its own on the terminal, where only the console may draw."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _quantization(spec: WeightsSpec) -> dict[str, Any]:
    """Arguments for bitsandbytes: NF4 with double quantisation, or LLM.int8."""
    if spec.quantization == "none":
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    if spec.quantization == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, spec.dtype),
        )
    return {"quantization_config": config, "device_map": {"": spec.device}}


def keep_trainable(model: Any) -> None:
    """Stop 4-bit layers from repacking themselves on CPUs with AVX512-BF16.

    The repacked kernel has no gradient, so a later training step on the same weights would silently compute wrong
    ones. Must come before the first forward pass; it does not change what evaluation computes.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
