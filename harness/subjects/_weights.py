"""Weights in memory, shared by the subjects that are made of them.

Baseline and candidate on one base use one set of weights: the baseline is the base with the adapter switched off, the
candidate the same with it on, one after the other and never mixed in a batch (only plain LoRA could be mixed, and the
other PEFT types ignore the request silently). Sharing is allowed only where it is exact: after an adapter is attached,
the base with the adapter off must answer a probe bit for bit as it did before; otherwise the adapter gets weights of
its own. An adapter that trained biases is the known case: switching it off leaves its biases in place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import tuners
from harness.errors import AdapterError, SubjectError


@dataclass(frozen=True, slots=True)
class WeightsSpec:
    """Everything that decides what is in memory; two subjects with equal specs can share."""

    folder: Path
    dtype: str
    device: str
    quantization: str
    remote_code: bool
    private_to: str = ""


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """An adapter folder, the hash of its files and whether to merge it into the weights."""

    folder: Path
    digest: str
    merge: bool

    @property
    def peft_type(self) -> str:
        """PEFT's name of the method, such as LORA or PREFIX_TUNING."""
        return str(self._config().get("peft_type", "")).upper()

    @property
    def alone(self) -> bool:
        """Whether the adapter is known to leave marks on the base, so that sharing is not even tried."""
        return self.merge or self._config().get("bias", "none") != "none"

    def _config(self) -> dict[str, Any]:
        loaded = json.loads((self.folder / "adapter_config.json").read_text(encoding="utf-8"))
        return loaded if isinstance(loaded, dict) else {}


class Weights:
    """One base model in memory with the adapters attached to it; `users` counts the subjects that hold it."""

    def __init__(self, spec: WeightsSpec, base: Any) -> None:
        """Take over a freshly loaded transformers model."""
        self.spec = spec
        self.base = base
        self.users = 0
        self._peft: Any = None
        self._names: dict[str, str] = {}
        self._types: set[str] = set()

    @property
    def adapters(self) -> int:
        """How many adapters are attached."""
        return len(self._names)

    def has(self, adapter: AdapterSpec) -> bool:
        """Whether this very adapter is attached already."""
        return adapter.digest in self._names

    def accepts(self, adapter: AdapterSpec) -> bool:
        """Whether the adapter may be attached beside those that are there: LoRA goes with LoRA, nothing else mixes."""
        return not self._types or self._types == {"LORA"} == {adapter.peft_type}

    def attach(self, adapter: AdapterSpec) -> None:
        """Load an adapter onto the base.

        Raises:
            AdapterError: PEFT cannot load it or it does not fit.
        """
        from peft import PeftModel

        tuners.register()
        name = f"adapter{len(self._names)}"
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self.base, str(adapter.folder), adapter_name=name)
            else:
                self._peft.load_adapter(str(adapter.folder), adapter_name=name, is_trainable=False)
        except Exception as error:
            raise AdapterError(f"{adapter.folder} cannot be put on {self.spec.folder}: {error}") from error
        self._peft.eval()
        self._names[adapter.digest] = name
        self._types.add(adapter.peft_type)

    def merge(self, adapter: AdapterSpec) -> None:
        """Load an adapter and fold it into the base for good.

        Raises:
            AdapterError: its method cannot be merged.
        """
        self.attach(adapter)
        try:
            self.base = self._peft.merge_and_unload()
        except Exception as error:
            raise AdapterError(f"{adapter.folder} ({adapter.peft_type}) cannot be merged: {error}") from error
        self.base.eval()
        self._peft, self._names, self._types = None, {}, set()

    def virtual_tokens(self, adapter: AdapterSpec | None) -> int:
        """Positions that a prompt-learning adapter takes from the context."""
        if adapter is None or not self.has(adapter):
            return 0
        config = self._peft.peft_config[self._names[adapter.digest]]
        return int(getattr(config, "num_virtual_tokens", 0)) if config.is_prompt_learning else 0

    @contextmanager
    def using(self, adapter: AdapterSpec | None) -> Iterator[Any]:
        """The model with `adapter` in force (None: the bare base), in eval mode and without gradients.

        Whoever trains the same weights in this process may have left them in training mode, where dropout makes a
        score random; the mode is set here for every batch and given back afterwards.
        """
        import torch

        model = self._peft if self._peft is not None else self.base
        training = bool(model.training)
        if training:  # setting a mode walks over all layers, which is dear for every step of a decoder
            model.eval()
        try:
            with torch.no_grad():
                if self._peft is None:
                    yield self.base
                elif adapter is None:
                    with self._peft.disable_adapter():
                        yield self._peft.get_base_model()
                else:
                    if self._peft.active_adapter != self._names[adapter.digest]:
                        self._peft.set_adapter(self._names[adapter.digest], inference_mode=True)
                    yield self._peft
        finally:
            if training:
                model.train()

    def probe(self) -> Any:
        """The bare base's logits on a fixed input, [1, 16, vocabulary]."""
        import torch

        rows = int(self.base.get_input_embeddings().weight.shape[0])
        ids = (torch.arange(1, 17) * 7919 % max(2, rows)).unsqueeze(0)
        with self.using(None) as model:
            return model(input_ids=ids.to(self.spec.device), use_cache=False).logits.clone()


def acquire(pool: MutableMapping[Any, Any], spec: WeightsSpec, adapter: AdapterSpec | None) -> Weights:
    """The weights for a base with an adapter, shared through `pool` where that is exact."""
    weights = _shared(pool, spec) if adapter is None else _with_adapter(pool, spec, adapter)
    weights.users += 1
    return weights


def release(pool: MutableMapping[Any, Any], weights: Weights) -> None:
    """Give up one use; the last one frees the memory."""
    weights.users -= 1
    if weights.users > 0:
        return
    for key in [key for key, held in pool.items() if held is weights]:
        del pool[key]
    weights.base = weights._peft = None


def _shared(pool: MutableMapping[Any, Any], spec: WeightsSpec) -> Weights:
    if spec not in pool:
        pool[spec] = Weights(spec, load_base(spec))
    found: Weights = pool[spec]
    return found


def _with_adapter(pool: MutableMapping[Any, Any], spec: WeightsSpec, adapter: AdapterSpec) -> Weights:
    own = WeightsSpec(
        spec.folder, spec.dtype, spec.device, spec.quantization, spec.remote_code,
        private_to=f"{adapter.digest}{'+merged' if adapter.merge else ''}",
    )  # fmt: skip
    if own in pool:
        found: Weights = pool[own]
        return found
    if adapter.alone:
        return _private(pool, own, adapter)
    shared = _shared(pool, spec)
    if shared.has(adapter):
        return shared
    if not shared.accepts(adapter):
        return _private(pool, own, adapter)
    return _attach_checked(pool, shared, own, adapter)


def _private(pool: MutableMapping[Any, Any], own: WeightsSpec, adapter: AdapterSpec) -> Weights:
    weights = Weights(own, load_base(own))
    (weights.merge if adapter.merge else weights.attach)(adapter)
    pool[own] = weights
    return weights


def _attach_checked(pool: MutableMapping[Any, Any], shared: Weights, own: WeightsSpec, adapter: AdapterSpec) -> Weights:
    """Attach to the shared weights, and undo the sharing if the base is no longer bit for bit what it was."""
    import torch

    before = shared.probe()
    shared.attach(adapter)
    if torch.equal(before, shared.probe()):
        return shared
    return _part(pool, shared, own, adapter)


def _part(pool: MutableMapping[Any, Any], shared: Weights, own: WeightsSpec, adapter: AdapterSpec) -> Weights:
    """The changed weights stay with the new adapter; whoever shared them gets the base loaded afresh."""
    if shared.adapters > 1:
        raise AdapterError(f"{adapter.folder} changes the base it is put on; compare it in a run of its own")
    changed = Weights(own, shared.base)
    changed._peft, changed._names, changed._types = shared._peft, shared._names, shared._types
    shared.base, shared._peft, shared._names, shared._types = load_base(shared.spec), None, {}, set()
    pool[own] = changed
    return changed


def load_base(spec: WeightsSpec) -> Any:
    """A causal language model in eval mode on its device.

    Raises:
        SubjectError: it cannot be loaded, or it is not a causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        _no_progress_bars()
        config = AutoConfig.from_pretrained(spec.folder, trust_remote_code=spec.remote_code)
        if getattr(config, "is_encoder_decoder", False):
            raise SubjectError(f"{spec.folder} is an encoder-decoder; only causal language models are supported")
        model = AutoModelForCausalLM.from_pretrained(
            spec.folder,
            dtype=getattr(torch, spec.dtype),
            use_safetensors=True,
            trust_remote_code=spec.remote_code,
            **_quantization(spec),
        )
        if spec.quantization == "none":
            model.to(spec.device)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise SubjectError(f"{spec.folder} cannot be loaded: {error}") from error
    _keep_trainable(model)
    return model.eval()


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


def _keep_trainable(model: Any) -> None:
    """Stop 4-bit layers from repacking themselves on CPUs with AVX512-BF16.

    The repacked kernel has no gradient, so a later training step on the same weights would silently compute wrong
    ones. Must come before the first forward pass; it does not change what evaluation computes.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
