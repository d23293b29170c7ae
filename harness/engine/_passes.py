"""Forward passes: many rows behind kept keys and values, logits only where they are read.

Whether a model can be run this way exactly is not believed but tried: before the first use a probe of uneven rows is
put to it in one plain pass and again in parts, and a model whose answers differ is left to the plain engine.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from harness.engine import CausalModel
from harness.engine._batches import out_of_memory
from harness.engine._kv import Batch, Segment, Shape

_LONGEST = 23  # tokens of the longest row of the trial

# They index a buffer as long as their context by columns, of which padded rows can have more.
_BY_COLUMN = {"gpt_neo", "mpt"}

# PEFT's tuners whose forward pass is the model's with other layers; AdaLoRA's adds a term to a training loss.
_PLAIN_FORWARDS = {"BaseTuner.forward", "AdaLoraModel.forward"}

# Mean difference of the probe's logits, relative to their spread: float noise stays far below, a wrong mask above.
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


class Unsupported(Exception):
    """The model cannot be run in parts exactly; the text says why."""


class Passes:
    """Runs one model. `usage` counts passes, and the tokens forwarded with and without padding."""

    def __init__(self, causal: CausalModel, *, trim_logits: bool = True) -> None:
        """Learn the shape of the model's cache and try it out.

        Raises:
            Unsupported: the model has no usable cache, or its answers differ when it is run in parts.
        """
        self.causal = causal
        self.usage: Counter[str] = Counter()
        self._trim = trim_logits
        self._held: Any = None
        self._reach = causal.virtual_tokens + causal.sociable
        with self.run() as model:
            self._positions = "position_ids" in inspect.signature(model.forward).parameters
            self.shape, self.root = _learn(causal, model)
        self._try_out()
        self.usage.clear()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Passes without a yield between them: the adapter is put in force once, which walks over all layers."""
        with self.run() as model:
            self._held = model
            try:
                yield
            finally:
                self._held = None

    @contextmanager
    def run(self) -> Iterator[Any]:
        """The transformers model itself, with the subject's adapter in force."""
        if self._held is not None:
            yield self._held
            return
        with self.causal.activate() as model:
            yield model.get_base_model() if hasattr(model, "get_base_model") else model

    def forward(
        self, tokens: Sequence[Sequence[int]], reads: Sequence[Sequence[int]], past: Batch | None = None
    ) -> Any:
        """Logits in float32, [positions, vocabulary]: those of `reads[i]`, positions in `tokens[i]`, row after row.

        With `past` its columns are seen and the new keys and values stand behind them, one column for every token of
        the longest row; padding is on the right, where no token sees it.
        """
        import torch

        width = max(len(row) for row in tokens)
        ids = torch.zeros((len(tokens), width), dtype=torch.long)  # [rows, width]
        for i, row in enumerate(tokens):
            ids[i, : len(row)] = torch.tensor(row)
            ids[i, len(row) :] = row[-1]  # a pad is a token that is there anyway, so nothing new can overflow
        where = [(i, position) for i, positions in enumerate(reads) for position in positions]
        at = torch.tensor(where or [(0, 0)], device=self.causal.device).T  # [2, positions]
        self.usage.update(passes=1, forwarded=ids.numel(), tokens=sum(map(len, tokens)), read=len(where))
        arguments = self._arguments(tokens, width, past)
        with self.run() as model, self._trimmed(model, at) as trimmed:
            logits = model(input_ids=ids.to(self.causal.device), **arguments).logits
        return (logits[0] if trimmed else logits[at[0], at[1]]).float()

    def _arguments(self, tokens: Sequence[Sequence[int]], width: int, past: Batch | None) -> dict[str, Any]:
        import torch

        if past is None:
            return {"use_cache": False}
        arguments: dict[str, Any] = {"past_key_values": past.cache(), "use_cache": True}
        mask = past.mask(width)
        if mask is not None:
            arguments["attention_mask"] = mask
        if self._positions:
            first = torch.tensor(past.lengths)[:, None]  # [rows, 1]
            last = torch.tensor(
                [min(n + len(row), self._reach) - 1 for n, row in zip(past.lengths, tokens, strict=True)]
            )
            # A pad and a finished row repeat a position: a real one beyond the others could be unknown to the model.
            positions = torch.minimum(first + torch.arange(width), last[:, None])  # [rows, width]
            arguments["position_ids"] = positions.to(self.causal.device)
        return arguments

    @contextmanager
    def _trimmed(self, model: Any, at: Any) -> Iterator[bool]:
        """Let the output embedding see only the positions `at`; whatever a model does after it is elementwise."""
        head = model.get_output_embeddings() if self._trim else None
        if head is None:
            yield False
            return
        handle = head.register_forward_pre_hook(lambda _, given: (given[0][at[0], at[1]][None], *given[1:]))
        try:
            yield True
        finally:
            handle.remove()

    def _try_out(self) -> None:
        """Three rows of different lengths, cut at different places, must answer as they do whole and alone."""
        import torch

        size = int(self.causal.vocabulary)
        if self.causal.sociable < _LONGEST:
            raise Unsupported(f"its context is shorter than the {_LONGEST} tokens of a trial")
        rows = [[(7 * i * i + 3 * i + k) % size for i in range(n)] for k, n in enumerate((_LONGEST, 14, 9))]
        cuts = (11, 3, 8)
        heads = [row[:cut] for row, cut in zip(rows, cuts, strict=True)]
        tails = [row[cut:] for row, cut in zip(rows, cuts, strict=True)]
        try:
            first = Batch(self.shape, [0] * 3, max(cuts)) if self.root is None else self._rooted(3, max(cuts))
            self.forward(heads, [[]] * 3, first)
            second = first.keep(cuts).take(range(len(rows)), max(map(len, tails)))
            ours = self.forward(tails, [range(len(tail)) for tail in tails], second)
            theirs = torch.cat([self._whole(row)[cut:] for row, cut in zip(rows, cuts, strict=True)])
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, MemoryError) as error:
            if out_of_memory(error):
                raise Unsupported("memory ran out while it was tried") from error
            raise Unsupported(f"it fails with a cache of ours: {type(error).__name__}: {error}") from error
        gap = float((ours - theirs).abs().mean() / theirs.std().clamp(min=1e-6))
        if not gap <= _TOLERANCE[self.causal.dtype]:  # NaN is not
            raise Unsupported(f"with kept keys and values its logits are off by {gap:.1g} of their spread")

    def _rooted(self, rows: int, room: int) -> Batch:
        assert self.root is not None  # noqa: S101  # asked only for a prompt-learning adapter
        batch = Batch(self.shape, [self.root.length] * rows, room)
        batch.fill(0, rows, [self.root])
        return batch

    def _whole(self, row: Sequence[int]) -> Any:
        """Logits of one row in one pass of the model as PEFT runs it, [length, vocabulary]."""
        import torch

        with self.causal.activate() as model:
            ids = torch.tensor([row], device=self.causal.device)
            return model(input_ids=ids, use_cache=False).logits[0, -len(row) :].float()


def _refuse_routed(peft: Any) -> None:
    """An adapter that looks at the whole request would be applied wrongly to a part of it, or not at all.

    The probe cannot tell: it need not hold what such an adapter looks for.
    """
    tuner = getattr(peft, "base_model", None)
    config = getattr(peft, "active_peft_config", None)
    if getattr(config, "alora_invocation_tokens", None):
        raise Unsupported("an activated LoRA sets in at tokens that are looked for in the whole request")
    forward = getattr(type(tuner), "forward", None)
    if hasattr(tuner, "peft_config") and forward is not None and forward.__qualname__ not in _PLAIN_FORWARDS:
        raise Unsupported(f"its adapter runs the model in a way of its own ({forward.__qualname__})")


def _learn(causal: CausalModel, model: Any) -> tuple[Shape, Segment | None]:
    """The shape of the cache, and the keys and values of virtual tokens where an adapter has some."""
    import torch
    from transformers import DynamicCache

    with causal.activate() as peft:
        _refuse_routed(peft)
    if model.config.model_type in _BY_COLUMN:
        raise Unsupported(f"{model.config.model_type} counts the columns of a batch as positions")
    kinds = set(getattr(_text_config(model), "layer_types", None) or ())
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise Unsupported(f"it has layers of the kind {', '.join(sorted(unknown))}")
    cache = DynamicCache()  # without a config every layer keeps all of its tokens, sliding ones too
    try:
        model(input_ids=torch.tensor([[0, 1]], device=causal.device), past_key_values=cache, use_cache=True)
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        shape = Shape(
            tuple((int(k.shape[1]), int(k.shape[-1]), int(v.shape[-1])) for k, v in layers), layers[0][0].dtype,
            causal.device,
        )  # fmt: skip
        if not all(tuple(k.shape[:3]) == (1, h, 2) for (k, _), (h, _, _) in zip(layers, shape.layers, strict=True)):
            raise Unsupported("its cache is not one of keys and values by token")
        return shape, _virtual(causal, model, shape)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        raise Unsupported(f"it has no cache of keys and values: {type(error).__name__}: {error}") from error


def _virtual(causal: CausalModel, model: Any, shape: Shape) -> Segment | None:
    """Virtual tokens are a prefix that every sequence shares: prefix tuning gives its keys and values outright."""
    if not causal.virtual_tokens:
        return None
    with causal.activate() as peft:
        prompt = peft.get_prompt(batch_size=1)
    if hasattr(prompt, "layers"):
        return Segment([(layer.keys[0], layer.values[0]) for layer in prompt.layers], causal.virtual_tokens)
    batch = Batch(shape, [0], causal.virtual_tokens)
    model(inputs_embeds=prompt.to(model.dtype), past_key_values=batch.cache(), use_cache=True)
    return batch.segment(0, 0, causal.virtual_tokens)


def _text_config(model: Any) -> Any:
    return getattr(model.config, "text_config", None) or model.config
