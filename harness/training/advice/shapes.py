"""What a memory estimate needs to know of a model: exact from a transformers config, or guessed from a number of
parameters. No weight is read or downloaded: the model is built on torch's meta device, where tensors have no storage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.plugins import missing_extra

_GUESSED_VOCABULARY = 128_000
_ASPECT = 128  # hidden size over layers, for dense decoders of 1 to 70 billion parameters
_GATED_WIDTH = 3.5  # intermediate over hidden size, as in Llama 3 8B and Mistral 7B
_GROUPED = 4  # heads that share a key and value head, the same
_HEAD = 128


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Counts and sizes. Where `exact` is false they are those of a usual decoder with this many parameters.

    `linear` counts the weights of all linear layers but the output layer, which is what 4 bits cover and LoRA adapts;
    `linear_sides` is the sum of their input and output sizes, `linear_inputs` of their input sizes, `linears` their
    number, `largest_linear` the weights of the largest. `gated` says whether the feed-forward block has a gate (SwiGLU
    and alike), `rms` whether the norms are RMS norms, and `gelu_copies` how many tensors of the intermediate size the
    activation function keeps for the backward pass. `vocabulary` is 0 for an encoder, which puts out no logits.
    """

    name: str
    parameters: int
    linear: int
    linear_sides: int
    linear_inputs: int
    linears: int
    largest_linear: int
    biases: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    context: int | None = None
    gated: bool = True
    rms: bool = True
    gelu_copies: int = 1
    exact: bool = True
    remarks: tuple[str, ...] = ()

    @property
    def decoder(self) -> bool:
        """Whether it puts out text, as opposed to an encoder."""
        return self.vocabulary > 0


def guessed(parameters: int) -> ModelShape:
    """A usual decoder with about this many parameters: the hidden size is 128 times the layers.

    With L layers of hidden size h = 128·L, a block has h²·(2 + 2/4 + 3·3.5) = 13 h² weights (attention with four heads
    to a key, gated feed-forward of 3.5 h; Kaplan 2020 counts 12 h² for the classic block), and the embedding is tied
    below four billion. L is the number that comes closest to `parameters`, which itself is kept.
    """
    layers = min(range(2, 400), key=lambda n: abs(_guessed_parameters(n, parameters) - parameters))
    hidden = _ASPECT * layers
    heads = max(1, hidden // _HEAD)
    keys, width = max(1, heads // _GROUPED), int(_GATED_WIDTH * hidden)
    sides = [(hidden, heads * _HEAD), *[(hidden, keys * _HEAD)] * 2, (heads * _HEAD, hidden)]
    sides += [(hidden, width)] * 2 + [(width, hidden)]
    return ModelShape(
        name=f"a decoder of {parameters:,} parameters",
        parameters=parameters,
        linear=min(parameters, layers * sum(i * o for i, o in sides)),
        linear_sides=layers * sum(i + o for i, o in sides),
        linear_inputs=layers * sum(i for i, _ in sides),
        linears=layers * len(sides),
        largest_linear=max(i * o for i, o in sides),
        biases=0,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=keys,
        head_size=_HEAD,
        intermediate=width,
        vocabulary=_GUESSED_VOCABULARY,
        exact=False,
    )


def _guessed_parameters(layers: int, near: int) -> float:
    hidden = _ASPECT * layers
    embeddings = _GUESSED_VOCABULARY * hidden * (1 if near < 4e9 else 2)
    return layers * hidden**2 * (2 + 2 / _GROUPED + 3 * _GATED_WIDTH) + embeddings


def parse_count(text: str) -> int:
    """`7B`, `0.5b`, `350M` or a plain number as a number of parameters.

    Raises:
        ConfigError: it is none of these, or not positive.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmbt]?)", text.strip().replace(",", "").lower())
    count = int(float(found[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[found[2]]) if found else 0
    if count < 1:
        raise ConfigError(f"{text!r} is no number of parameters; write for example 7B, 350M or 1540000000")
    return count


def read_shape(model: str, revision: str | None = None) -> ModelShape:
    """The shape of the model in a folder or of a hub repository, of which the config alone is read.

    Raises:
        ConfigError: there is no such model, its config is not one that transformers builds, or transformers is not
            installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ConfigError(missing_extra(f"reading the config of {model}", error)) from error
    if model.startswith(("./", "../", "/", "~")) and not Path(model).expanduser().exists():
        raise ConfigError(f"{model}: no such folder; its config cannot be read. --parameters 7B does without it")
    if Path(model).exists() and not (Path(model) / "config.json").is_file():
        raise ConfigError(f"{model}: no config.json is there; give the folder of a model, or --parameters")
    try:
        config = transformers.AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            return _shape(model, config, _skeleton(transformers, config))
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{model}: its config cannot be read: {reason}; --parameters 7B does without it") from error


def _skeleton(transformers: Any, config: Any) -> Any:
    """The model without storage: a decoder with its output layer, or a bare encoder."""
    known = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    text = config.get_text_config()
    names = getattr(config, "architectures", None) or []
    masked = any("MaskedLM" in name or "ForPreTraining" in name for name in names)
    # Most encoders are registered as decoders too, for use with is_decoder.
    if type(text) in known and not masked and not _is_encoder(text):
        return transformers.AutoModelForCausalLM.from_config(text)
    return transformers.AutoModel.from_config(config)


def _is_encoder(config: Any) -> bool:
    """Whether a config that could be either is an encoder's: BERT's kin say `is_decoder`, and say that it is false."""
    bidirectional = ("bert", "electra", "roformer", "mpnet", "xlm-roberta", "camembert", "ernie", "data2vec-text")
    return any(word in config.model_type for word in bidirectional) and not getattr(config, "is_decoder", False)


def _shape(name: str, config: Any, model: Any) -> ModelShape:
    config = config.get_text_config()
    decoder = model.get_output_embeddings() is not None
    sides = list(_linear_sides(model))
    parameters = sum(p.numel() for p in model.parameters())
    heads = int(config.num_attention_heads)
    hidden = int(config.hidden_size)
    remarks = []
    experts = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 3 and "expert" in n)
    if experts:
        remarks.append(f"{experts / parameters:.0%} of the weights are experts, which 4 bits and LoRA may not reach")
    return ModelShape(
        name=name,
        parameters=parameters,
        linear=sum(i * o for i, o in sides),
        linear_sides=sum(i + o for i, o in sides),
        linear_inputs=sum(i for i, _ in sides),
        linears=len(sides),
        largest_linear=max(i * o for i, o in sides),
        biases=sum(p.numel() for n, p in model.named_parameters() if n.endswith("bias")),
        layers=int(config.num_hidden_layers),
        hidden=hidden,
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(getattr(config, "head_dim", None) or hidden // heads),
        intermediate=_intermediate(config, hidden),
        vocabulary=int(config.vocab_size) if decoder else 0,
        context=getattr(config, "max_position_embeddings", None),
        gated=any("gate" in n and "proj" in n for n, _ in model.named_parameters()),
        rms=any("RMSNorm" in type(module).__name__ for module in model.modules()),
        gelu_copies=4 if _activation(config) in ("gelu_new", "gelu_fast", "gelu_python", "quick_gelu") else 1,
        remarks=tuple(remarks),
    )


def _linear_sides(model: Any) -> Iterator[tuple[int, int]]:
    """(input size, output size) of every linear layer but the output layer; GPT-2 calls its own Conv1D."""
    output = model.get_output_embeddings()
    for module in model.modules():
        if module is output:
            continue
        if type(module).__name__ == "Linear":
            yield int(module.in_features), int(module.out_features)
        elif type(module).__name__ == "Conv1D":
            yield int(module.weight.shape[0]), int(module.weight.shape[1])


def _intermediate(config: Any, hidden: int) -> int:
    for name in ("intermediate_size", "n_inner", "ffn_dim", "d_ff"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    return 4 * hidden


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_act", None) or getattr(config, "activation_function", None) or "")


def human_count(parameters: int) -> str:
    """`8.03 B`, `124 M`: three significant digits."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if parameters >= size:
            value = parameters / size
            return f"{value:.{max(0, 2 - int(math.log10(value)))}f}{unit}"
    return str(parameters)
