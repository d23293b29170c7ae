"""Pre-flight of a PEFT adapter from its files alone: is it safe, made for this base, and does it change anything?

Nothing is loaded, only safetensors headers and, for the last question, raw bytes. What the tensors' shapes say
outranks what names say: a base is renamed and moved all the time, but an adapter of another base does not fit.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import AdapterError
from harness.records import Check, content_hash

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
RECORD = "harness.json"
PICKLED = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})

_HEADER_LIMIT = 100 * 1024 * 1024  # bytes; the format's own limit
_ONE = {"F32": bytes.fromhex("0000803f"), "F16": bytes.fromhex("003c"), "BF16": bytes.fromhex("803f")}
_PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "ia3_l")
_LOADED = ("config.", "adapter_config.", "classifier.", "generation_config.", "tokenizer", "chat_template", "model.")
_PACKED = frozenset({"U8", "I8"})  # quantised base weights, whose stored shape is not the layer's


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a safetensors file: its type, its shape, and where its bytes lie."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Fit:
    """What the shapes say: how many modules fit, and which do not exist in the base or have other dimensions."""

    fitting: int
    absent: tuple[str, ...]
    differing: tuple[str, ...]

    @property
    def contradicts(self) -> bool:
        """Whether the adapter cannot be of this base."""
        return bool(self.absent or self.differing)


def preflight(adapter: Path, base: Path, *, base_name: str) -> list[Check]:
    """The checks "adapter-safetensors", "adapter-for-base" and "adapter-not-empty".

    Args:
        adapter: folder of the adapter.
        base: folder of the base model it is to be put on.
        base_name: what the user called the base (a path or the name of a hub repository).
    """
    try:
        tensors = read_header(adapter / WEIGHTS)
    except AdapterError as error:
        unreadable = "the adapter's weights could not be read"
        return [
            Check("adapter-safetensors", False, _why_unsafe(adapter, str(error))),
            Check("adapter-for-base", False, unreadable),
            Check("adapter-not-empty", False, unreadable),
        ]
    return [
        Check("adapter-safetensors", True, f"{len(tensors)} tensors in {WEIGHTS}; nothing is unpickled"),
        _for_base(adapter, tensors, base, base_name),
        _not_empty(adapter / WEIGHTS, tensors),
    ]


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, without their values.

    Raises:
        AdapterError: no such file, or it is not one.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size <= _HEADER_LIMIT:
                raise AdapterError(f"{path} is not a safetensors file")
            header = json.loads(file.read(size))
            return {
                name: _tensor(entry, 8 + size, path.stat().st_size)
                for name, entry in header.items()
                if name != "__metadata__"
            }
    except FileNotFoundError as error:
        raise AdapterError(f"{path} does not exist") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise AdapterError(f"{path} is not a safetensors file: {error}") from error


def _tensor(entry: Mapping[str, Any], first: int, size: int) -> Tensor:
    """A tensor of a header behind which the bytes begin at `first`, in a file of so many; ValueError where none is."""
    start, stop = (first + int(offset) for offset in entry["data_offsets"])
    if not first <= start <= stop <= size:
        raise ValueError("a tensor lies outside of the file")
    return Tensor(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), start, stop)


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file; remembered in this process while its size and modification time stay the same."""
    stat = path.stat()
    return _file_hash(path.resolve(), stat.st_size, stat.st_mtime_ns)


def weights_hash(base: Path) -> str:
    """One SHA-256 for a model folder's safetensors files: what a training run records of its base."""
    return content_hash({path.name: file_hash(path) for path in sorted(base.glob("*.safetensors"))})


def folder_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a training left in a folder, by name, without its record of them."""
    return {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != RECORD}


def promotable(folder: Path, kind: str) -> dict[str, Any]:
    """What a run's manifest says of the folder that a promotion would carry on: its kind and every file's SHA-256.

    `kind` is `adapter`, `head` or `model`. Left out are hidden files, folders (a trainer's checkpoints), README.md,
    which a registry writes anew, and pickled files, which are never promoted.
    """
    files = {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.is_file() and _goes_on(path)}
    return {"kind": kind, "folder": str(folder), "files": files}


def _goes_on(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != "README.md" and path.suffix not in PICKLED


def as_recorded(folder: Path) -> Check | None:
    """Whether a folder's files are those that its training left, or None where it has no record of them."""
    recorded = _json(folder / RECORD).get("files")
    if not isinstance(recorded, dict):
        return None
    found = folder_digests(folder)
    differing = sorted(name for name in recorded if found.get(name) != recorded[name])
    added = sorted(name for name in found.keys() - recorded.keys() if _is_loaded(name))
    if added:
        return Check("as-trained", False, f"{', '.join(added)} was put there after the training, see {RECORD}")
    if differing:
        detail = f"{RECORD} records other contents of {', '.join(differing)}: changed or lost since the training"
        return Check("as-trained", False, detail)
    return Check("as-trained", True, f"{len(recorded)} files are as the training left them, see {RECORD}")


def _is_loaded(name: str) -> bool:
    """Whether a loader may read a file of this name; notes and licences may lie beside an adapter."""
    return name.endswith((".safetensors", ".jinja", ".py")) or name.startswith(_LOADED)


def fit(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Fit:
    """Compare an adapter's tensors with a base's, module by module."""
    ends = _by_module(base)
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, part = _split(name)
        if part is not None:
            modules.setdefault(module, {})[part] = tensor
    absent, fitting = [], 0
    differing = _other_copies(tensors, ends)
    for module, parts in sorted(modules.items()):
        weight = _find(module, ends)
        if weight is None:
            absent.append(module)
        elif weight.dtype in _PACKED or len(weight.shape) != 2 or _fits(parts, weight.shape):
            fitting += 1
        else:
            differing.append(f"{module} {list(weight.shape)}")
    return Fit(fitting, tuple(absent), tuple(differing))


def _other_copies(tensors: Mapping[str, Tensor], ends: Mapping[str, Tensor]) -> list[str]:
    """Whole weights in the adapter (a trained embedding, say) whose shape is not that of the base's."""
    found = []
    for name, tensor in sorted(tensors.items()):
        module, part = _split(name.removesuffix(".weight"))
        weight = _find(module, ends) if part is None and name.endswith(".weight") else None
        if weight is not None and weight.dtype not in _PACKED and weight.shape != tensor.shape:
            found.append(f"{module} {list(weight.shape)}")
    return found


# ---------------------------------------------------------------- made for this base


def _for_base(adapter: Path, tensors: Mapping[str, Tensor], base: Path, base_name: str) -> Check:
    name = "adapter-for-base"
    config, recorded = _json(adapter / CONFIG), _json(adapter / RECORD).get("base_weights_sha256")
    if recorded is not None and recorded != weights_hash(base):
        return Check(name, False, f"{RECORD} records other base weights than those of {base_name}")
    said = str(config.get("base_model_name_or_path") or "")
    named = _same_model(said, base, base_name)
    shapes = fit(tensors, _base_tensors(base))
    if shapes.contradicts:
        return Check(name, False, _misfit(shapes, said, base_name))
    problem = _prompt_problem(config, base)
    if problem:
        return Check(name, False, problem)
    if recorded is not None:
        return Check(name, True, f"{RECORD} records exactly these base weights")
    if named:
        return Check(name, True, f"made for {said}; {shapes.fitting} modules fit {base_name}")
    if shapes.fitting:
        detail = f"says it was made for {said or 'an unnamed base'}, but all {shapes.fitting} modules fit {base_name}"
        return Check(name, True, detail)
    return Check(
        name, False, f"says it was made for {said or 'an unnamed base'}, not {base_name}, and its shapes prove nothing"
    )


def _misfit(shapes: Fit, said: str, base_name: str) -> str:
    parts = []
    if shapes.absent:
        parts.append(f"{len(shapes.absent)} target modules do not exist in {base_name} (first: {shapes.absent[0]})")
    if shapes.differing:
        parts.append(f"{len(shapes.differing)} have other dimensions there (first: {shapes.differing[0]})")
    return f"{'; '.join(parts)}; it says it was made for {said or 'an unnamed base'}"


def _same_model(said: str, base: Path, base_name: str) -> bool:
    """Whether the base that the adapter names is this one, by name, by folder or by path."""
    if not said:
        return False
    if said in (base_name, str(base)) or Path(said).expanduser().resolve() == base.resolve():
        return True
    last = PurePosixPath(said.replace("\\", "/")).name
    return bool(last) and last in (base.name, PurePosixPath(base_name).name)


def _base_tensors(base: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted(base.glob("*.safetensors")):
        tensors |= read_header(path)
    return tensors


def _by_module(base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Base weights under every suffix of their module's name, since savers add and drop leading prefixes."""
    ends: dict[str, Tensor] = {}
    for name, tensor in base.items():
        path = name.removesuffix(".weight").split(".")
        for start in range(len(path)):
            ends.setdefault(".".join(path[start:]), tensor)
    return ends


def _split(name: str) -> tuple[str, str | None]:
    """(module, part) of an adapter tensor's name; part is None where the tensor belongs to no single module."""
    module = name.removeprefix("base_model.model.")
    for part in _PARTS:
        head, found, _ = module.partition(f".{part}")
        if found:
            return head, part
    return module, None


def _find(module: str, ends: Mapping[str, Tensor]) -> Tensor | None:
    path = module.split(".")
    # The layer's number must stay in the name, or `q_proj` of any layer would do.
    last = next((i for i, part in enumerate(path) if part.isdigit()), len(path) - 1)
    suffixes = (".".join(path[start:]) for start in range(last + 1))
    return next((ends[suffix] for suffix in suffixes if suffix in ends), None)


def _fits(parts: Mapping[str, Tensor], weight: tuple[int, ...]) -> bool:
    """Whether a module's adapter parts fit a weight; GPT-2 stores its weights transposed, so either way round."""
    return any(_fits_as(parts, out, into) for out, into in (weight, weight[::-1]))


def _fits_as(parts: Mapping[str, Tensor], out: int, into: int) -> bool:
    expected = {
        "lora_A": (1, into), "lora_B": (0, out), "lora_embedding_A": (1, out), "lora_embedding_B": (0, into),
    }  # fmt: skip
    for part, tensor in parts.items():
        if part in expected:
            axis, size = expected[part]
            if axis >= len(tensor.shape) or tensor.shape[axis] != size:
                return False
        elif max(tensor.shape, default=0) not in (out, into):  # one number per row or column
            return False
    return True


def _prompt_problem(config: Mapping[str, Any], base: Path) -> str | None:
    """Why a prompt-learning adapter, which has no target modules, is of another base; None where it may be of this."""
    if config.get("num_virtual_tokens") is None:
        return None
    model = _json(base / "config.json")
    model = model.get("text_config") or model
    for said, names in (("token_dim", ("hidden_size", "n_embd")), ("num_layers", ("num_hidden_layers", "n_layer"))):
        actual = next((model[n] for n in names if n in model), None)
        # Prefix tuning counts in keys and values, so with grouped attention its width is smaller.
        grouped = said == "token_dim" and config.get("peft_type") == "PREFIX_TUNING"
        if config.get(said) is not None and actual is not None and config[said] != actual and not grouped:
            return f"its {said} is {config[said]}, the base has {actual}"
    return None


# ---------------------------------------------------------------- changes something


def _not_empty(path: Path, tensors: Mapping[str, Tensor]) -> Check:
    name = "adapter-not-empty"
    if not tensors:
        return Check(name, False, "the adapter holds no tensor")
    kinds = {part for part in (_split(tensor)[1] for tensor in tensors) if part}
    others = [tensor for tensor in tensors if _split(tensor)[1] is None]
    if others or not kinds:
        return Check(name, True, f"{len(tensors)} tensors; whether they act shows when the model is asked")
    gains = [t for n, t in tensors.items() if _split(n)[1] in ("lora_B", "lora_embedding_B")]
    if gains and "lora_magnitude_vector" not in kinds and _all(path, gains, {}):
        return Check(name, False, "every lora_B is zero, as it is before the first training step: it changes nothing")
    scales = [t for n, t in tensors.items() if _split(n)[1] == "ia3_l"]
    if scales and not gains and _all(path, scales, _ONE):
        return Check(name, False, "every IA3 scale is one, as it is before the first training step: it changes nothing")
    return Check(name, True, f"{len(tensors)} tensors, not all at their initial value")


def _all(path: Path, tensors: Sequence[Tensor], value: Mapping[str, bytes]) -> bool:
    """Whether every element of the tensors is the given value of its type, by its bytes; zero where none is given."""
    with path.open("rb") as file:
        for tensor in tensors:
            file.seek(tensor.start)
            raw = file.read(tensor.stop - tensor.start)
            pattern = value.get(tensor.dtype, b"\0")
            if raw != pattern * (len(raw) // len(pattern)):
                return False
    return True


# ---------------------------------------------------------------- files


def _why_unsafe(adapter: Path, problem: str) -> str:
    pickled = sorted(p.name for p in adapter.glob("adapter_model.*") if p.suffix in PICKLED)
    if not pickled:
        return problem
    return (
        f"the weights ({', '.join(pickled)}) are pickled, and unpickling runs whatever code is in them; convert them "
        "where you trust them: PeftModel.from_pretrained, then save_pretrained to a new folder"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    return loaded if isinstance(loaded, dict) else {}


@functools.lru_cache(maxsize=4096)
def _file_hash(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
