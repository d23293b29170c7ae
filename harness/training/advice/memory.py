"""What a training needs of memory, by parts, from the shape of the model alone.

Bytes, of the device that trains. Counts and byte sizes are exact; the activations follow the method of Korthikanti
2022 (list what each operation keeps for its backward pass) for the operations that transformers runs today. Measured on
the CPU, on small models of five families (tests/test_advice_memory.py): the activations agree with the tensors that
autograd keeps to 7 %, mostly to 1 % (GPT-NeoX, which splits a fused product: 12 %), and the sum agrees with the peak of
all tensors in a whole step, optimiser included, to 5 %. The memory of the process was up to 1 GiB above that, see
`_PROCESS`. What only a GPU has (context, allocator) is an assumption, and is stated as one.

Symbols: h hidden size, i intermediate size, a heads, k key and value heads, d size of a head, s tokens of a row,
V vocabulary, e bytes of an activation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.training.advice.shapes import ModelShape

Optimizer = Literal["adamw", "adamw-8bit"]
Device = Literal["cuda", "mps", "cpu"]

GIB = 2**30
_FLOAT = 4  # bytes
_QUANTISED_BITS = 4 + 8 / 64 + 32 / (64 * 256)  # 0.127 bit for scales, quantised themselves: Dettmers 2023, section 3
_BLOCK = 256  # elements that share a float32 scale in an 8-bit optimiser: Dettmers 2021
_LOGITS = 12  # bytes a logit: the logits with their log-probabilities and gradient, the latter two in float32
_CONTEXT = int(0.8 * GIB)  # of CUDA or Metal, with its libraries: an assumption
_PROCESS = int(
    1.6 * GIB
)  # on a CPU: 0.53 GiB of imports, and what the C library's allocator kept after freeing, ≤ 1 GiB
_SLACK = 0.05  # of the rest: what the allocator rounds up and cannot reuse; an assumption
_FROZEN = ("features", "head")  # scopes through whose base nothing is propagated back
_CLASSES = 8  # outputs of a classification head whose size is not known; it weighs nothing either way


@dataclass(frozen=True, slots=True)
class Load:
    """How it is trained: `rows` of `length` tokens on the device at a time. `rank` matters to lora and qlora.

    `factor` is the number of sequences that the objective makes of one row, `copies` the number of further models of
    full size that it keeps (DPO's reference under full training). Where batches do not accumulate, gradients take
    the room that activations leave. `autocast` computes in 16 bits where all weights are trained, which are held in 32;
    without it, as a recipe's `dtype: float32` has it, such a training computes in 32 bits.
    """

    scope: str
    rows: int
    length: int
    rank: int = 16
    optimizer: Optimizer = "adamw"
    checkpointing: bool = False
    fused_attention: bool = True
    device: Device = "cuda"
    head: Literal["language", "classes"] = "language"
    factor: int = 1
    copies: int = 0
    accumulates: bool = True
    autocast: bool = False

    @property
    def tokens(self) -> int:
        """Tokens on the device at a time."""
        return self.rows * self.factor * self.length

    @property
    def activation(self) -> int:
        """e: 16 bits on a GPU unless the weights are in 32 and autocast is off; 32 on a CPU."""
        return _FLOAT if self.device == "cpu" or (self.scope == "full" and not self.autocast) else 2


@dataclass(frozen=True, slots=True)
class Part:
    """One summand, in bytes, with how it comes about and the source of that."""

    name: str
    bytes: int
    how: str
    source: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """All summands, and the number of parameters that are trained."""

    parts: tuple[Part, ...]
    trainable: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(part.bytes for part in self.parts)


def estimate(shape: ModelShape, load: Load) -> Estimate:
    """The memory that training `shape` under `load` needs at its peak."""
    trained = trainable(shape, load)
    moving = (*_activations(shape, load), _peak(shape, load, trained))
    room = 0 if load.accumulates else sum(part.bytes for part in moving)
    held = (_weights(shape, load, trained), _gradients(trained, room), _states(trained, load))
    parts = [part for part in (*held, *moving) if part.bytes]
    return Estimate((*parts, _overhead(parts, load)), trained)


def trainable(shape: ModelShape, load: Load) -> int:
    """Parameters that are trained: exact for full, bitfit, lora and qlora on all linear layers."""
    head = 0 if load.head == "language" else shape.hidden * _CLASSES
    counts = {
        "full": shape.parameters,
        "lora": load.rank * shape.linear_sides,
        "qlora": load.rank * shape.linear_sides,
        "bitfit": shape.biases,
        "additive_bias": shape.linear_sides - shape.linear_inputs,
    }
    return counts.get(load.scope, 0) + head


def _weights(shape: ModelShape, load: Load, trained: int) -> Part:
    added = 0 if load.scope in ("full", "bitfit") else _FLOAT * trained
    if load.scope == "qlora":
        rest = shape.parameters - shape.linear
        size = int(shape.linear * _QUANTISED_BITS / 8) + load.activation * rest
        how = f"{shape.linear:,} weights at {_QUANTISED_BITS:.3f} bits, the other {rest:,} in {8 * load.activation}"
        return Part("weights", size + added, how, "Dettmers 2023")
    each = _FLOAT if load.scope == "full" or load.device == "cpu" else 2
    size = shape.parameters * each * (1 + load.copies)
    of = "parameters" if not load.copies else f"parameters, {1 + load.copies} times (a reference model)"
    how = f"{shape.parameters:,} {of}, {each} bytes each"
    if _mixed(load):  # autocast keeps its copies from the first layer's forward pass to the last one's backward pass
        size += 2 * (shape.linear + shape.vocabulary * shape.hidden)
        how += ", and copies in 16 bits of those that multiply"
    return Part("weights", size + added, how, "Rajbhandari 2019")


def _gradients(trained: int, room: int) -> Part:
    how = f"{trained:,} trained parameters, 4 bytes each"
    if room:
        how += ", as far as they do not fit where activations were"
    return Part("gradients", max(0, _FLOAT * trained - room), how, "Rajbhandari 2019")


def _states(trained: int, load: Load) -> Part:
    if load.optimizer == "adamw-8bit":
        size = 2 * (trained + _FLOAT * trained // _BLOCK)
        return Part("optimiser", size, "AdamW's two moments in 8 bits, with a scale for each 256", "Dettmers 2021")
    return Part("optimiser", 2 * _FLOAT * trained, "AdamW's two moments in float32", "Rajbhandari 2019")


def _activations(shape: ModelShape, load: Load) -> tuple[Part, ...]:
    if load.scope in _FROZEN:
        return ()
    output = load.activation * shape.hidden if load.scope == "full" else 0
    ends = (_norm(shape, load) + output) * load.tokens
    if not load.checkpointing:
        size = shape.layers * layer_bytes(shape, load) * load.tokens + ends
        how = f"what {shape.layers} layers keep for the backward pass of {load.tokens:,} tokens"
        return (Part("activations", size, how, "Korthikanti 2022"),)
    size = shape.layers * _residual(load) * shape.hidden * load.tokens + ends
    how = f"inputs of {shape.layers} layers for {load.tokens:,} tokens; the rest is computed again"
    return (Part("activations", size, how, "Chen 2016"),)


def _peak(shape: ModelShape, load: Load, trained: int) -> Part:
    """What comes on top of all that is kept, for a moment: the largest of these, because no two are there at once."""
    language = load.head == "language" and shape.vocabulary
    logits = _LOGITS * load.tokens * shape.vocabulary if language else 0
    inside = 3 * load.activation * load.tokens * shape.intermediate  # gradients inside one feed-forward block
    if load.scope in _FROZEN or load.checkpointing:
        inside += layer_bytes(shape, load) * load.tokens
    if load.scope == "qlora":
        inside += load.activation * shape.largest_linear
    step = _FLOAT * trained if load.device == "cuda" else 0
    choices = (
        (logits, f"logits: {load.tokens:,} tokens × {shape.vocabulary:,} × {_LOGITS} bytes", "Wijmans 2024"),
        (inside, "one layer's backward pass", "Chen 2016" if load.checkpointing else "Korthikanti 2022"),
        (step, "temporaries of an optimiser step over all parameters at once", "no source"),
    )
    size, how, source = max(choices, key=lambda choice: choice[0])
    return Part("peak", size, how, source)


def _overhead(parts: list[Part], load: Load) -> Part:
    fixed, what = (
        (_PROCESS, "the process, and what its allocator keeps")
        if load.device == "cpu"
        else (_CONTEXT, "context and libraries (assumed)")
    )
    slack = int(_SLACK * sum(part.bytes for part in parts))
    return Part("overhead", fixed + slack, f"{what}, and {_SLACK:.0%} that the allocator cannot reuse", "no source")


def layer_bytes(shape: ModelShape, load: Load) -> int:
    """Bytes a token that one layer keeps for its backward pass."""
    return 2 * _norm(shape, load) + _inputs(shape, load) + _attention(shape, load) + _feed_forward(shape, load)


def _mixed(load: Load) -> bool:
    """Whether weights in float32 meet activations in 16 bits, so that the residual stream is in float32."""
    return load.scope == "full" and load.activation < _FLOAT


def _residual(load: Load) -> int:
    return _FLOAT if _mixed(load) else load.activation


def _norm(shape: ModelShape, load: Load) -> int:
    """An RMS norm keeps its input in float32, and what it multiplies by a trained weight; a layer norm its input."""
    if not shape.rms:
        return _residual(load) * shape.hidden
    return (_FLOAT + (_residual(load) if load.scope == "full" else 0)) * shape.hidden


def _inputs(shape: ModelShape, load: Load) -> int:
    """Inputs of linear layers whose weights, or whose adapters, are trained.

    In one precision, layers that read the same tensor share it. Where it is cast for each of them, each keeps its own:
    all but what attention and feed-forward hand on, which are in 16 bits already, or every one, for adapters.
    """
    each, attended = shape.linear_inputs // shape.layers, shape.heads * shape.head_size
    shared = load.activation * (2 * shape.hidden + shape.intermediate)
    if load.scope == "full":
        return load.activation * (each - attended) if _mixed(load) else shared
    if load.scope in ("lora", "qlora"):
        ranks = load.rank * load.activation * shape.linears // shape.layers
        cast = load.activation if load.device == "cuda" else _FLOAT  # without autocast, adapters compute in float32
        return ranks + (cast * each if load.activation < _FLOAT else shared)
    return 0


def _attention(shape: ModelShape, load: Load) -> int:
    """Queries, keys, values and the result; the attention matrix only where the kernel is not fused (Dao 2022)."""
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    if load.fused_attention:
        return load.activation * (2 * queries + 2 * keys) + _FLOAT * shape.heads
    scores = _FLOAT + (load.activation if load.activation < _FLOAT else 0)
    return load.activation * 4 * queries + scores * shape.heads * load.length


def _feed_forward(shape: ModelShape, load: Load) -> int:
    """A gate keeps its input, its result and what it multiplies; without one, the activation function its input."""
    return load.activation * shape.intermediate * (3 if shape.gated else shape.gelu_copies)
