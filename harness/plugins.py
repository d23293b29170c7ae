"""One mechanism for every kind of plugin: an id is the name of a module.

`harness.<kind>.<id>` is looked up first, then the entry points of group `harness.<kind>`. A plugin module holds two
names: `Options`, a pydantic model that forbids unknown keys, and `build(options, …)`, which returns the thing. What
`build` takes besides is the kind's own contract, written in the kind's package docstring and held by
`tests/contracts`. Modules whose name starts with an underscore are not plugins.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.errors import ConfigError, PluginError, nearest

_EXTRA_OF = {
    "torch": "eval", "transformers": "eval", "peft": "eval", "lm_eval": "eval", "datasets": "eval",
    "evaluate": "eval", "sacrebleu": "eval", "rouge_score": "eval", "jsonschema": "eval", "referencing": "eval",
    "regex": "eval", "safetensors": "eval", "trl": "train", "accelerate": "train", "sklearn": "train",
    "datasketch": "train", "optuna": "train",
    "bitsandbytes": "qlora", "litellm": "judge", "opentelemetry": "traces", "google": "traces",
    "zstandard": "traces", "starlette": "traces", "uvicorn": "traces", "duckdb": "traces", "fsspec": "traces",
    "grpc": "traces-grpc", "presidio_analyzer": "presidio", "aiohttp": "judge", "fi": "future-agi",
    "mlflow": "mlflow", "huggingface_hub": "hub", "wandb": "wandb",
    "sigstore": "sigstore",
}  # fmt: skip


def names(kind: str) -> list[str]:
    """Ids of all plugins of a kind, sorted; nothing is imported but the kind's package."""
    package = importlib.import_module(f"harness.{kind}")
    ours = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}
    return sorted(ours | {e.name for e in _entry_points(kind)})


def load(kind: str, identifier: str) -> ModuleType:
    """The module behind `identifier`.

    Raises:
        PluginError: no such plugin (the nearest is named), it does not import, or it is not a plugin.
    """
    if identifier not in names(kind):
        raise PluginError(f"no {kind} plugin {identifier!r}: {nearest(identifier, names(kind))}")
    try:
        module = _import(kind, identifier)
    except ImportError as error:
        raise PluginError(missing_extra(f"{kind} plugin {identifier!r}", error)) from error
    for required in ("Options", "build"):
        if not hasattr(module, required):
            raise PluginError(f"{kind} plugin {identifier!r} ({module.__name__}) defines no {required}")
    return module


def all_of(kind: str) -> tuple[Any, ...]:
    """Every plugin of a kind, in the order of their names, made with its options at their defaults.

    Raises:
        PluginError: one of them does not import or is no plugin.
    """
    modules = [load(kind, name) for name in names(kind)]
    return tuple(module.build(module.Options()) for module in modules)


def options(
    kind: str, identifier: str, values: Mapping[str, Any], *, where: str, folder: Path | None = None
) -> BaseModel:
    """`values` validated by the plugin's own `Options`; errors are prefixed with `where`, the user's own path.

    With `folder`, where relative paths start, a plugin's validators also look whether the files are there: they find
    it as `folder` in pydantic's validation context.
    """
    try:
        model: type[BaseModel] = load(kind, identifier).Options
    except PluginError as error:
        raise PluginError(f"{where}: {error}") from error
    try:
        return model.model_validate(dict(values), context=None if folder is None else {"folder": folder})
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, model)}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first validation error in one sentence; an unknown key is answered with the nearest known one."""
    # An unknown key comes first: where one is misspelled the right one is missing too, and that is not the news.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        return f"unknown key {key!r}: {nearest(name, model.model_fields)}"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    prefix = f"{key}: " if key else ""
    return prefix + str(first["msg"]).removeprefix("Value error, ")


def missing_extra(what: str, error: ImportError) -> str:
    """A message naming the extra whose installation mends `error`."""
    root = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(root)
    if extra is None:
        return f"{what} does not import: {error}"
    return f"{what} needs {root}, which is not installed: pip install 'promotion-harness[{extra}]'"


@functools.cache  # reads the metadata of every installed package
def _entry_points(kind: str) -> list[EntryPoint]:
    return list(entry_points(group=f"harness.{kind}"))


def _import(kind: str, identifier: str) -> ModuleType:
    if importlib.util.find_spec(f"harness.{kind}.{identifier}") is not None:
        return importlib.import_module(f"harness.{kind}.{identifier}")
    point = next(e for e in _entry_points(kind) if e.name == identifier)
    loaded = point.load()
    if not isinstance(loaded, ModuleType):
        raise PluginError(f"entry point {point.name!r} of group harness.{kind} is not a module")
    return loaded
