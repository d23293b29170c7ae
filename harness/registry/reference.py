"""`registry:champion` in a gate.yaml: what is promoted now, as the adapter or model of a subject

`registry:ALIAS` looks into the folder `registry` beside the gate.yaml, `registry:ADDRESS@ALIAS` into any registry. The
alias is followed once, before anything is loaded, and its files are held against its record. Where the registry is
there and nothing has been promoted yet, an adapter or head falls away: the first gate compares with the base itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.config import Arm, LoadedConfig, SubjectSection
from harness.errors import ConfigError, HarnessError
from harness.registry import open_registry
from harness.registry.verifying import identity_of, intact

_PREFIX, _DEFAULT = "registry:", "registry"
_ON_TOP = ("adapter", "head", "answered_by")  # what a model can be without


def resolve(loaded: LoadedConfig, arm: Arm) -> tuple[dict[str, Any], str]:
    """The options of a subject with every reference replaced by a folder, and what the subject is called for it.

    Raises:
        ConfigError: a reference is none, or there is no such registry.
        RecordError: what is promoted is not what its record says.
    """
    section: SubjectSection = getattr(loaded.gate, arm)
    resolved, label = section.options, ""
    for key, value in section.options.items():
        if not isinstance(value, str) or not value.startswith(_PREFIX):
            continue
        address, alias = _parts(value)
        if value not in loaded.promoted:
            loaded.promoted[value] = _follow(loaded, f"{loaded.where(arm)}: {key}: ", address, alias)
        found = loaded.promoted[value]
        if found is not None:
            resolved[key], label = str(found), f"{alias} {identity_of(found)[:8]}"
        elif key in _ON_TOP:
            resolved.pop(key)
            resolved.pop("merge", None)
        else:
            raise ConfigError(f"{loaded.where(arm)}: {key}: nothing has been promoted to {alias} in {address} yet")
    return resolved, label


def _follow(loaded: LoadedConfig, where: str, address: str, alias: str) -> Path | None:
    """Where what an alias stands for lies on this machine, held against its record."""
    try:
        found = open_registry(address, loaded.folder).fetch(alias, loaded.folder / loaded.gate.cache / "registry")
        if found is not None:
            intact(found)
    except HarnessError as error:
        raise type(error)(f"{where}{error}") from error
    return found


def _parts(value: str) -> tuple[str, str]:
    address, separator, alias = value.removeprefix(_PREFIX).rpartition("@")
    return (address or _DEFAULT, alias) if separator else (_DEFAULT, alias)
