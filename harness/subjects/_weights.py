"""Weights in memory, shared by the subjects that are made of them.

Baseline and candidate on one base use one set of weights: the baseline is the base with the adapter switched off, the
candidate the same with it on, one after the other and never mixed in a batch (only plain LoRA could be mixed, and the
other PEFT types ignore the request silently).

Sharing is allowed only where it is exact. After an adapter was attached, and again after it was taken off, the base
must have the bits that were loaded, and with every adapter switched off it must answer a probe bit for bit as before.
Otherwise, and also where PEFT failed half way, the base is let go of: whoever else holds it has it loaded afresh at the
next use, and the adapter gets weights of its own. Known cases are adapters that trained biases (which stay in place
when it is switched off), that start from the base's own singular vectors (PiSSA and its kin change the base), and that
carry whole embeddings (which are loaded into the base).
"""

from __future__ import annotations

import gc
import itertools
import json
from collections import Counter
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import tuners
from harness.engine._batches import out_of_memory
from harness.errors import AdapterError, InfrastructureError, SubjectError
from harness.subjects import _files
from harness.subjects._loading import WeightsSpec, load_base
from harness.subjects._snapshot import Snapshot, probe, same_bits

_HARMLESS_STARTS = ("gaussian", "orthogonal", "eva")
_MORE_THAN_LAYERS = ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication")


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
        config = self._config()
        start = config.get("init_lora_weights")
        marks = isinstance(start, str) and start.lower() not in _HARMLESS_STARTS
        return self.merge or config.get("bias", "none") != "none" or marks

    @property
    def plain(self) -> bool:
        """Whether the adapter is a LoRA on layers and nothing more: the only kind that PEFT mixes on one base."""
        config = self._config()
        return self.peft_type == "LORA" and not any(config.get(key) for key in _MORE_THAN_LAYERS)

    def _config(self) -> dict[str, Any]:
        loaded = json.loads((self.folder / "adapter_config.json").read_text(encoding="utf-8"))
        return loaded if isinstance(loaded, dict) else {}


@dataclass(frozen=True, slots=True)
class _Attached:
    """An adapter on the base: PEFT's name for it, the virtual tokens that it takes, and the hashes of its files."""

    adapter: AdapterSpec
    name: str
    virtual_tokens: int
    files: dict[str, str]


class Weights:
    """One base model in memory with the adapters attached to it.

    The base may be let go of between two uses and loaded again, so nobody keeps a reference to it: `using` gives the
    model for one batch. `users` counts the subjects by the digest of their adapter, "" for the bare base.
    """

    def __init__(self, spec: WeightsSpec) -> None:
        """Load the base.

        Raises:
            SubjectError: it cannot be loaded.
        """
        self.spec = spec
        self.users: Counter[str] = Counter()
        self._files = self._hashes()
        self._base: Any = load_base(spec)
        self._peft: Any = None
        self._attached: dict[str, _Attached] = {}
        self._numbers = itertools.count()
        self._snapshot: Snapshot | None = None
        self._probes: dict[str, Any] = {}

    @property
    def base(self) -> Any:
        """The transformers model; with adapters attached, their layers are in it."""
        if self._base is None:
            self._load_again()
        return self._base

    def has(self, adapter: AdapterSpec) -> bool:
        """Whether this very adapter is attached already."""
        return adapter.digest in self._attached

    def accepts(self, adapter: AdapterSpec) -> bool:
        """Whether the adapter may be attached beside those that are there."""
        return not self._attached or all(a.plain for a in (adapter, *(h.adapter for h in self._attached.values())))

    def attach(self, adapter: AdapterSpec) -> bool:
        """Attach an adapter; False, and it is not attached, where the base would not stay what it was."""
        self._remember()
        try:
            self.put(adapter)
            exact = self._unchanged()
        except Exception:  # whatever failed, it may have left half of its layers in the base
            exact = False
        if not exact:
            self._attached.pop(adapter.digest, None)
            self._let_go()
        return exact

    def detach(self, adapter: AdapterSpec) -> None:
        """Take an adapter off; the base is let go of where that does not bring back what was loaded."""
        gone = self._attached.pop(adapter.digest, None)
        if gone is None or self._base is None:
            return
        self._probes.pop(adapter.digest, None)
        try:
            self._take_off(gone)
            exact = self._unchanged()
        except Exception:  # some methods cannot be taken off at all
            exact = False
        if not exact:
            self._let_go()

    def put(self, adapter: AdapterSpec) -> None:
        """Load an adapter onto the base without looking at what that does to it.

        Raises:
            AdapterError: PEFT cannot load it or it does not fit.
            InfrastructureError: memory ran out.
        """
        from peft import PeftModel

        tuners.register()
        # No name is used twice: where PEFT has a slot of that name, it keeps the settings that the slot was made with.
        name, folder = f"adapter{next(self._numbers)}", str(adapter.folder)
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self.base, folder, adapter_name=name)
            else:
                self._peft.load_adapter(folder, adapter_name=name, is_trainable=False)
            tuners.refuse_incomplete(self._peft, name, adapter.folder)
        except AdapterError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise InfrastructureError(f"{folder}: memory ran out while it was loaded: {error}") from error
            raise AdapterError(f"{folder} cannot be put on {self.spec.folder}: {error}") from error
        self._peft.eval()
        config = self._peft.peft_config[name]
        virtual = int(getattr(config, "num_virtual_tokens", 0)) if config.is_prompt_learning else 0
        self._attached[adapter.digest] = _Attached(adapter, name, virtual, _files.adapter_hashes(adapter.folder))

    def merge(self, adapter: AdapterSpec) -> None:
        """Load an adapter and fold it into the base for good.

        Raises:
            AdapterError: its method cannot be merged.
        """
        self.put(adapter)
        try:
            self._base = self._peft.merge_and_unload()
        except Exception as error:
            raise AdapterError(f"{adapter.folder} ({adapter.peft_type}) cannot be merged: {error}") from error
        self._base.eval()
        self._peft, self._attached = None, {}

    def virtual_tokens(self, adapter: AdapterSpec | None) -> int:
        """Positions that a prompt-learning adapter takes from the context."""
        held = None if adapter is None else self._attached.get(adapter.digest)
        return 0 if held is None else held.virtual_tokens

    @contextmanager
    def using(self, adapter: AdapterSpec | None) -> Iterator[Any]:
        """The model with `adapter` in force (None: the bare base), in eval mode and without gradients.

        Whoever trains the same weights in this process may have left them in training mode, where dropout makes a
        score random; the mode is set here for every batch and given back afterwards.

        Raises:
            InfrastructureError: the base had been let go of and cannot be loaded again.
        """
        import torch

        base = self.base  # before anything else is looked at: it may have to be loaded
        model = base if self._peft is None else self._peft
        training = bool(model.training)
        if training:  # setting a mode walks over all layers, which is dear for every step of a decoder
            model.eval()
        try:
            with torch.no_grad():
                if self._peft is None:
                    yield base
                elif adapter is None:
                    with self._peft.disable_adapter():
                        yield self._peft.get_base_model()
                else:
                    self._switch_to(self._attached[adapter.digest].name)
                    yield self._peft
        finally:
            if training:
                model.train()

    def close(self) -> None:
        """Free the memory."""
        self._attached = {}
        self._let_go()

    def _switch_to(self, name: str) -> None:
        if self._peft.active_adapter != name:
            self._peft.set_adapter(name, inference_mode=True)

    def _take_off(self, gone: _Attached) -> None:
        if not self._peft.peft_config[gone.name].is_prompt_learning:  # which leaves the base as it is
            self._peft.delete_adapter(gone.name)
            if not self._attached:
                self._base = self._peft.unload()
        if self._attached:
            self._peft.set_adapter(next(iter(self._attached.values())).name, inference_mode=True)
        else:
            self._peft = None

    def _remember(self) -> None:
        """What the base is, before the first adapter after it was loaded."""
        if self._snapshot is None:
            self._snapshot = Snapshot.of(self.base)
            self._probes = {"": self._probe(None)}

    def _unchanged(self) -> bool:
        """Whether the base and the adapters on it are what they were; an adapter that is new is remembered."""
        if self._snapshot is None or not self._snapshot.holds():
            return False
        if self._peft is None and not self._snapshot.is_whole(self._base):
            return False
        found = {"": self._probe(None)} | {key: self._probe(held.adapter) for key, held in self._attached.items()}
        same = all(same_bits(before, found[key]) for key, before in self._probes.items())
        self._probes = found
        return same

    def _probe(self, adapter: AdapterSpec | None) -> Any:
        with self.using(adapter) as model:
            return probe(model, int(self.base.get_input_embeddings().weight.shape[0]), self.spec.device)

    def _let_go(self) -> None:
        """Free the base and what hangs on it; the adapters of those who still hold these weights stay in the list."""
        import torch

        self._base = self._peft = self._snapshot = None
        self._probes = {}
        gc.collect()  # the layers of PEFT refer to each other in circles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load_again(self) -> None:
        """Load the base that was let go of, with the adapters that are still in use.

        Raises:
            InfrastructureError: it cannot be loaded, or it is no longer what it was.
        """
        try:
            if not self.users.total():
                raise SubjectError("nobody uses it any more")
            _refuse_changed(self.spec.folder, self._files, self._hashes())
            self._base = load_base(self.spec)
            for held in list(self._attached.values()):
                self._remember()
                _refuse_changed(held.adapter.folder, held.files, _files.adapter_hashes(held.adapter.folder))
                self.put(held.adapter)
            if self._attached and not self._unchanged():
                raise AdapterError("the adapters that were on it cannot be attached again without changing it")
        except Exception as error:
            self._let_go()
            raise InfrastructureError(f"{self.spec.folder} cannot be loaded again: {error}") from error

    def _hashes(self) -> dict[str, str]:
        return _files.ModelFiles(self.spec.folder.name, self.spec.folder, self.spec.remote_code).hashes()


def _refuse_changed(folder: Path, before: dict[str, str], now: dict[str, str]) -> None:
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        raise SubjectError(f"{', '.join(changed)} in {folder} changed while it was in use")


def acquire(pool: MutableMapping[Any, Any], spec: WeightsSpec, adapter: AdapterSpec | None) -> Weights:
    """The weights for a base with an adapter, shared through `pool` where that is exact.

    Raises:
        SubjectError: the base cannot be loaded.
        AdapterError: the adapter cannot be put on a base of its own either.
    """
    weights = _shared(pool, spec) if adapter is None else _with_adapter(pool, spec, adapter)
    weights.users[_key(adapter)] += 1
    return weights


def release(pool: MutableMapping[Any, Any], weights: Weights, adapter: AdapterSpec | None) -> None:
    """Give up one use: an adapter's last one takes it off, the very last one frees the memory."""
    key = _key(adapter)
    weights.users[key] -= 1
    if not weights.users.total():
        _drop(pool, weights)
    elif adapter is not None and not weights.users[key]:
        weights.detach(adapter)


def _key(adapter: AdapterSpec | None) -> str:
    return "" if adapter is None else adapter.digest


def _shared(pool: MutableMapping[Any, Any], spec: WeightsSpec) -> Weights:
    if spec not in pool:
        pool[spec] = Weights(spec)
    found: Weights = pool[spec]
    return found


def _with_adapter(pool: MutableMapping[Any, Any], spec: WeightsSpec, adapter: AdapterSpec) -> Weights:
    own = replace(spec, private_to=f"{adapter.digest}{'+merged' if adapter.merge else ''}")
    if own in pool:
        found: Weights = pool[own]
        return found
    if adapter.alone:
        return _private(pool, own, adapter)
    shared = _shared(pool, spec)
    if shared.has(adapter) or (shared.accepts(adapter) and shared.attach(adapter)):
        return shared
    if not shared.users.total():  # it was loaded for this adapter
        _drop(pool, shared)
    return _private(pool, own, adapter)


def _private(pool: MutableMapping[Any, Any], own: WeightsSpec, adapter: AdapterSpec) -> Weights:
    weights = Weights(own)
    try:
        (weights.merge if adapter.merge else weights.put)(adapter)
    except BaseException:
        weights.close()
        raise
    pool[own] = weights
    return weights


def _drop(pool: MutableMapping[Any, Any], weights: Weights) -> None:
    for key in [key for key, held in pool.items() if held is weights]:
        del pool[key]
    weights.close()
