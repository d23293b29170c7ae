"""Under which key a CI server keeps the output cache, so that the baseline is asked once for many candidates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__, assets
from harness.config import LoadedConfig, load_gate
from harness.errors import ConfigError
from harness.goldens.lock import LOCK_NAME
from harness.records import content_hash


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """Which folder is kept, and under which key (SHA-256, hex)."""

    path: Path
    key: str


def cache_entry(config: Path) -> CacheEntry:
    """The output cache of a gate.yaml.

    Its key is a hash of what the baseline is asked: the file without its candidate, and the locks of its golden sets.
    Outputs are stored by content, so an older entry is never wrong, only less complete.

    Raises:
        ConfigError: the file cannot be read.
    """
    loaded = load_gate(config)
    asked = loaded.gate.model_dump(mode="json", include={"baseline", "suites"})
    locks = [hashlib.sha256(path.read_bytes()).hexdigest() for path in _locks(loaded)]
    key = content_hash({"harness": __version__, "asked": asked, "locks": locks})
    return CacheEntry(loaded.folder / loaded.gate.cache, key)


def _locks(loaded: LoadedConfig) -> list[Path]:
    roots = {_root(loaded, section.options) for section in loaded.gate.suites if "set" in section.options}
    return sorted(root / LOCK_NAME for root in roots if root is not None and (root / LOCK_NAME).is_file())


def _root(loaded: LoadedConfig, options: dict[str, Any]) -> Path | None:
    """The folder of a suite's golden set; None where there is none, which the gate will say better."""
    given = options.get("root")
    try:
        return assets.find("goldensets", loaded.folder / str(given) if given else None, start=loaded.folder)
    except ConfigError:
        return None
