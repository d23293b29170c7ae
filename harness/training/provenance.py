"""How an adapter was made, in one file beside it: what a reader needs to judge it, and to make it once more.

The record names its own adapter's files by hash, so that the gate's pre-flight notices one that was changed after it
was trained, and the base's weights by hash, so that it notices another base (`harness.adapters`).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness import __version__, runs
from harness.adapters import RECORD, folder_digests
from harness.errors import DataError
from harness.training.scopes import Share

FORMAT = 1
_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Point:
    """A loss at an optimiser step; `kind` is train or validation. None: it was not a finite number."""

    step: int
    kind: str
    loss: float | None


@dataclass(frozen=True, slots=True)
class Record:
    """One training stage.

    `key` identifies the training: base, rows, settings, seed and the stages before. `base` is how the base was called,
    `base_weights_sha256` what it was. `lineage` are the stages before this one with their keys. `data` is the report of
    its rows (hashes, counts, realised shares). `baseline` maps suite/metric to the base's mean score before anything
    was trained, and `frozen` every suite to its digest. `outcome` says how the training ended: steps, why it stopped,
    which step was kept.
    """

    stage: str
    key: str
    base: str
    base_weights_sha256: str
    scope: Mapping[str, Any]
    objective: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: int
    share: Share
    data: Mapping[str, Any]
    losses: Sequence[Point]
    outcome: Mapping[str, Any]
    recipe: Mapping[str, Any]
    recipe_sha256: str
    baseline: Mapping[str, float] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)
    lineage: Sequence[Mapping[str, str]] = ()
    machine: Mapping[str, str] = field(default_factory=dict)
    git: Mapping[str, Any] = field(default_factory=dict)


def write_record(folder: Path, record: Record) -> None:
    """Write the record beside the files that it is about, which must all be there already.

    Raises:
        StorageError: the folder cannot be written.
    """
    document = {
        "format": FORMAT,
        "harness": __version__,
        "libraries": versions(),
        **asdict(record),
        "files": folder_digests(folder),
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False, default=str)
    runs.write_text(folder / RECORD, text + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """The record in a folder; empty where there is none.

    Raises:
        DataError: it cannot be read.
    """
    try:
        loaded = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / RECORD} cannot be read: {error}") from error
    return loaded if isinstance(loaded, dict) else {}


def versions() -> dict[str, str]:
    """Versions of the libraries that can change what a training comes to."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, Any]:
    """The commit that `folder` is at, and whether something in it differs from that; empty outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  # no shell, fixed arguments
            ["git", "-C", str(folder), *arguments],  # noqa: S607  # whichever git the user has
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
