"""Finds the folders that ship with a project: `goldensets/` and `judges/`.

A checkout comes before what the wheel carries, so that a team's own sets win over the demonstration sets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import harness
from harness.errors import ConfigError

Kind = Literal["goldensets", "judges"]


def find(kind: Kind, explicit: Path | None = None, *, start: Path | None = None) -> Path:
    """The folder that holds `kind`.

    Looked for in this order: `explicit`; `start` and its parents (default: the current directory); the current
    directory and its parents; the checkout that the package was imported from; what the wheel installed.

    Raises:
        ConfigError: `explicit` is no folder, or nothing was found; the message lists where it was looked for.
    """
    if explicit is not None:
        if not explicit.is_dir():
            raise ConfigError(f"{explicit}: no such folder; it should hold the {kind}")
        return explicit.resolve()
    candidates = _candidates(kind, start)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = ", ".join(str(c.parent) for c in candidates)
    raise ConfigError(f"no folder {kind!r} in any of: {looked}; name it explicitly or run inside a project")


def shipped(kind: Kind) -> Path:
    """The folder that came with this package, in its checkout or its wheel, whatever the user has of the same kind."""
    package = Path(harness.__file__).resolve().parent
    return next((p for p in (package.parent / kind, package / "_assets" / kind) if p.is_dir()), package.parent / kind)


def _candidates(kind: Kind, start: Path | None) -> list[Path]:
    package = Path(harness.__file__).resolve().parent
    starts = [start.resolve()] if start is not None else []
    folders = [folder for s in [*starts, Path.cwd()] for folder in (s, *s.parents)]
    places = [folder / kind for folder in folders]
    places += [package.parent / kind, package / "_assets" / kind]
    return list(dict.fromkeys(places))
