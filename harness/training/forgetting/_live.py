"""A subject over the very model that is being trained, so that a look needs no second copy of it.

It is asked as the gate asks: by the gate's own engine, context length, truncation and chat template. Under mixed
precision the passes run under the trainer's autocast. The trainer's tokenizer is copied, because encoding leaves
settings of padding and truncation behind in it.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import plugins
from harness.config import LoadedConfig
from harness.engine import REVISION, CausalModel
from harness.engine._encoding import Encoder
from harness.engine._rope import steady_length
from harness.errors import ConfigError
from harness.records import Check, Draft, Message, Request, content_hash
from harness.subjects import Answers, Subject, _files, local
from harness.training.forgetting._model import is_peft


@dataclass(frozen=True, slots=True)
class Asking:
    """How the model of a training is asked, the same at every look; `digest` is the tokenizer's."""

    options: local.Options
    tokenizer: Any
    encoder: Encoder
    digest: str
    device: str
    dtype: str
    autocast: bool

    @classmethod
    def of(cls, loaded: LoadedConfig, args: Any, model: Any, processing: Any) -> Asking:
        """From the gate's baseline and the trainer.

        Raises:
            ConfigError: the trainer has no tokenizer, or the model does not write text.
        """
        _refuse_silent(model)
        options = _options(loaded)
        tokenizer = copy.deepcopy(_tokenizer(processing))
        if options.chat_template is not None:
            tokenizer.chat_template = _template(loaded.folder / options.chat_template)
        first = next(model.parameters())
        mixed = "bfloat16" if getattr(args, "bf16", False) else "float16" if getattr(args, "fp16", False) else ""
        dtype = mixed or str(getattr(model, "dtype", first.dtype)).removeprefix("torch.")
        return cls(options, tokenizer, Encoder(tokenizer), _digest(tokenizer), str(first.device), dtype, bool(mixed))

    def starting(self, model: Any) -> LiveSubject:
        """The model without what is being trained: its adapter switched off, or as it stands before the first step."""

        @contextmanager
        def base() -> Iterator[Any]:
            with model.disable_adapter():
                yield model.get_base_model()

        @contextmanager
        def whole() -> Iterator[Any]:
            yield model

        identity = {**self._identity(model), "weights": _weights_hash(model), "start": True}
        return LiveSubject(self, "start", model, base if is_peft(model) else whole, 0, content_hash(identity))

    def present(self, model: Any, step: int) -> LiveSubject:
        """The model as it is at a step. Its answers are not for a cache: its fingerprint says only the step."""

        @contextmanager
        def whole() -> Iterator[Any]:
            yield model

        config = model.peft_config[model.active_adapter] if is_peft(model) else None
        virtual = int(getattr(config, "num_virtual_tokens", 0)) if config and config.is_prompt_learning else 0
        return LiveSubject(self, f"step {step}", model, whole, virtual, content_hash({"step": step}))

    @contextmanager
    def precision(self) -> Iterator[None]:
        """The trainer's autocast, where it trains in mixed precision."""
        import torch

        with ExitStack() as stack:
            if self.autocast:
                kind = self.device.partition(":")[0]
                stack.enter_context(torch.autocast(kind, dtype=getattr(torch, self.dtype)))
            yield

    def _identity(self, model: Any) -> dict[str, Any]:
        options = self.options
        return {
            "tokenizer_sha256": self.digest,
            "chat": local.chat_fingerprint(self.tokenizer),
            "dtype": self.dtype,
            "autocast": self.autocast,
            "device_type": self.device.partition(":")[0],
            "max_length": options.max_length or local.context_length(model.config, self.tokenizer),
            "truncate": options.truncate,
            "engine": options.engine,
            "engine_revision": REVISION,
            "engine_options": {k: v for k, v in options.engine_options.items() if k not in local._SIZES},
            "versions": {name: version(name).partition("+")[0] for name in ("torch", "transformers")},
        }


class LiveSubject:
    """See `harness.subjects.Subject`. Made for one look: what its engine keeps is of these very weights."""

    def __init__(
        self,
        asking: Asking,
        name: str,
        model: Any,
        activate: Callable[[], AbstractContextManager[Any]],
        virtual_tokens: int,
        fingerprint: str,
    ) -> None:
        """Nothing is computed yet. `activate` puts what is asked in force; mode and gradients are the caller's."""
        self.name = name
        self.fingerprint = fingerprint
        self.chat_fingerprint = local.chat_fingerprint(asking.tokenizer)
        self._asking = asking

        @contextmanager
        def precisely() -> Iterator[Any]:
            with asking.precision(), activate() as active:
                yield active

        causal = CausalModel(
            tokenizer=asking.tokenizer,
            encoder=asking.encoder,
            max_length=asking.options.max_length or local.context_length(model.config, asking.tokenizer),
            virtual_tokens=virtual_tokens,
            vocabulary=int(model.get_input_embeddings().weight.shape[0]),
            device=asking.device,
            dtype=asking.dtype,
            activate=precisely,
            render=local.renderer(asking.tokenizer, name),
            steady=steady_length(model.config),
        )
        self._engine = local.build_engine(asking.options, causal)

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """See `Subject.render_chat`."""
        tokenizer = self._asking.tokenizer
        return local.render_chat(tokenizer, self.name, messages, add_generation_prompt=add_generation_prompt)

    def answer(self, requests: Sequence[Request], drafts: Sequence[Draft | None] = ()) -> Iterator[Answers]:
        """See `Subject.answer`."""
        return self._engine.answer(requests, {i: self._ids(d) for i, d in enumerate(drafts) if d is not None})

    def remarks(self) -> Sequence[str]:
        """See `Subject.remarks`."""
        return self._engine.remarks()

    def checks(self, baseline: Subject) -> Sequence[Check]:
        """None: a training is no candidate yet."""
        return ()

    def describe(self) -> dict[str, Any]:
        """See `Subject.describe`."""
        return {"kind": "live", "name": self.name, "tokenizer_sha256": self._asking.digest}

    def close(self) -> None:
        """Nothing is held but the engine's keys and values, which go with this object."""

    def _ids(self, draft: Draft) -> Sequence[int]:
        if draft.ids and draft.tokenizer == self._asking.digest:
            return draft.ids
        ids: list[int] = self._asking.tokenizer.encode(draft.text, add_special_tokens=False, verbose=False)
        return ids


def _refuse_silent(model: Any) -> None:
    inner = model.get_base_model() if is_peft(model) else model
    if not (hasattr(inner, "generate") and getattr(inner, "can_generate", lambda: False)()):
        raise ConfigError(
            f"ForgettingGuard asks the gate's samples, and a {type(inner).__name__} writes no text: it has no language "
            "head. Leave the guard out of this training (the penalties L2SP and Ewc work in it)"
        )


def _options(loaded: LoadedConfig) -> local.Options:
    """The baseline's options where it is a local subject: they say how it is asked. Else the defaults."""
    section = loaded.gate.baseline
    if section.kind != "local":
        return local.Options(model=".")
    options = plugins.options("subjects", "local", section.options, where=loaded.where("baseline"))
    return local.Options.model_validate(options.model_dump())


def _tokenizer(processing: Any) -> Any:
    tokenizer = getattr(processing, "tokenizer", processing)  # a processor of text and images holds one
    if tokenizer is None or not hasattr(tokenizer, "encode"):
        raise ConfigError("ForgettingGuard needs the trainer's tokenizer: give the trainer processing_class=tokenizer")
    return tokenizer


def _template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"chat template {path} cannot be read: {error}") from error


def _digest(tokenizer: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return _files.digest(_files.tokenizer_hashes(Path(folder)))


def _weights_hash(model: Any) -> str:
    """SHA-256 over all parameters and buffers but the adapter's own, by name.

    What is left out by mistake would serve one model's answers to another, what is left in by mistake costs a cache
    hit; so only what PEFT's own prefixes mark as an adapter's is left out.
    """
    import torch

    own = _adapter_marks(model) if is_peft(model) else ()
    total = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not any(mark in name for mark in own):
            total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
            total.update(memoryview(raw.numpy()))
    return total.hexdigest()


def _adapter_marks(model: Any) -> tuple[str, ...]:
    prefix = getattr(model.base_model, "prefix", "")
    return tuple(filter(None, (prefix, "prompt_encoder.", "modules_to_save.")))
