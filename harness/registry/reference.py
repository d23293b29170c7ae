"""`registry:champion` in a gate.yaml: what is promoted now, as the adapter or model of a subject

`registry:ALIAS` looks into the folder `registry` beside the gate.yaml, `registry:ADDRESS@ALIAS` into any registry. The
alias is followed once, before anything is loaded, and its files are held against its record. Where the registry is
there and nothing has been promoted yet, an adapter or head falls away: the first gate compares with the base itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, HarnessError
from harness.registry import open_registry
from harness.registry.verifying import intact

_PREFIX, _DEFAULT = "registry:", "registry"
_ON_TOP = ("adapter", "head")  # what a model can be without


def resolve(options: Mapping[str, Any], folder: Path, cache: Path, where: str) -> tuple[dict[str, Any], str]:
    """The options of a subject with every reference replaced by a folder, and what the subject is called for it.

    Args:
        options: as gate.yaml has them.
        folder: where relative paths start.
        cache: folder for what has to be downloaded.
        where: the place in gate.yaml, for errors.

    Raises:
        ConfigError: a reference is none, or there is no such registry.
        RecordError: what is promoted is not what its record says.
    """
    resolved, label = dict(options), ""
    for key, value in options.items():
        if not isinstance(value, str) or not value.startswith(_PREFIX):
            continue
        address, alias = _parts(value)
        try:
            found = open_registry(address, folder).fetch(alias, cache / "registry")
        except HarnessError as error:
            raise type(error)(f"{where}: {key}: {error}") from error
        if found is not None:
            identity = intact(found)
            resolved[key], label = str(found), f"{alias} {identity[:8]}"
        elif key in _ON_TOP:
            resolved.pop(key)
            resolved.pop("merge", None)
        else:
            raise ConfigError(f"{where}: {key}: nothing has been promoted to {alias} in {address} yet")
    return resolved, label


def _parts(value: str) -> tuple[str, str]:
    address, separator, alias = value.removeprefix(_PREFIX).rpartition("@")
    return (address or _DEFAULT, alias) if separator else (_DEFAULT, alias)
