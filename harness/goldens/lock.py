"""`LOCK.yaml`: the SHA-256 of every file of every frozen version, and the check that nothing differs from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.config import read_yaml
from harness.errors import ConfigError, DataError, HarnessError, LockError, StorageError, at, nearest
from harness.goldens import names

LOCK_NAME = "LOCK.yaml"
_HEADER = """\
# SHA-256 of every file of every frozen golden set. `harness golden freeze` writes this file and
# `harness golden verify` holds the sets against it. Do not edit it: to change a set, make a new version.
"""
_WAY_OUT = "restore the file (git checkout), or make a new version: harness golden new-version {name}"


@dataclass(frozen=True, slots=True)
class Frozen:
    """One locked version: how many samples it has, and the SHA-256 (hex) of each file by its path in the folder."""

    samples: int
    files: Mapping[str, str]


def read_lock(root: Path) -> dict[str, Frozen]:
    """Entries by `name@version`; none where there is no lock yet.

    Raises:
        LockError: the lock itself is not readable as one.
    """
    path = root / LOCK_NAME
    if not path.exists():
        return {}
    try:
        document, _ = read_yaml(path)
    except ConfigError as error:
        raise LockError(str(error)) from error
    sets = document.get("sets") if isinstance(document, dict) else None
    if not isinstance(sets, dict):
        raise LockError(f"{at(path)}not a lock: expected a mapping 'sets'")
    return {str(reference): _entry(path, str(reference), value) for reference, value in sets.items()}


def write_lock(root: Path, entries: Mapping[str, Frozen]) -> None:
    """Replace the lock in one step: whoever reads it sees the old one or the new one, never a part."""
    document = {
        "sets": {
            reference: {"samples": entry.samples, "files": dict(sorted(entry.files.items()))}
            for reference, entry in sorted(entries.items(), key=lambda item: _place(item[0]))
        }
    }
    text = _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(root / LOCK_NAME, text.encode("utf-8"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside `path`, flush it to disk, and put it in the place of `path`."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise StorageError(f"{at(path)}cannot be written: {error}") from error


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file under `folder`, by its path relative to it.

    Raises:
        DataError: the folder, or something in it, is a link or neither file nor folder: a lock could not hold it.
    """
    for path in (folder.parent, folder, *sorted(folder.rglob("*"))):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DataError(f"{at(path)}is a link or no plain file; a golden set holds plain files only")
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {p.relative_to(folder).as_posix(): _sha256(p) for p in files}


def problems(root: Path, references: Iterable[str] | None = None) -> list[str]:
    """Every difference between the lock and the files, one sentence each; empty when all is as it was frozen.

    `references` are `name@version` or `name` (all its frozen versions); None checks everything that is locked.

    Raises:
        LockError: a named set is not locked, or there is no readable lock.
        DataError, ConfigError: there is no such set, or its name could not be one.
    """
    entries = read_lock(root)
    chosen = _choose(root, entries, references)
    return [problem for reference in chosen for problem in _differences(root, reference, entries[reference])]


def verify(root: Path, references: Iterable[str] | None = None) -> list[str]:
    """The `name@version` of everything that was checked, after all of it proved to be as it was frozen.

    Raises:
        LockError: a file was changed, added or removed; the message names each, both hashes and the way out.
    """
    chosen = None if references is None else list(references)
    found = problems(root, chosen)
    if found:
        raise LockError("\n".join(found))
    return _choose(root, read_lock(root), chosen)


def latest(root: Path, name: str) -> str:
    """The highest frozen version of `name`.

    Raises:
        LockError: none is frozen.
        DataError: there is no such set.
    """
    versions = [v for n, _, v in (r.partition("@") for r in read_lock(root)) if n == name]
    if not versions:
        raise _not_locked(root, name)
    return max(versions, key=names.in_order)


def _choose(root: Path, entries: Mapping[str, Frozen], references: Iterable[str] | None) -> list[str]:
    if references is None:
        return list(entries)
    chosen: list[str] = []
    for reference in references:
        name, version = names.split(reference)
        found = [r for r in entries if (r == reference if version else r.partition("@")[0] == name)]
        if not found:
            raise _not_locked(root, reference)
        chosen += found
    return list(dict.fromkeys(chosen))


def _not_locked(root: Path, reference: str) -> HarnessError:
    """A draft may not be decided on; a set that does not exist is a slip of the pen."""
    name, version = names.split(reference)
    folder = root / name / version if version else root / name
    if folder.is_dir():
        return LockError(f"{at(folder)}{reference} is not frozen: harness golden freeze {reference}")
    known = sorted({r if version else r.partition("@")[0] for r in read_lock(root)})
    return DataError(f"{at(root)}no golden set {reference!r}: {nearest(reference, known)}")


def _differences(root: Path, reference: str, entry: Frozen) -> list[str]:
    name, version = names.split(reference)
    folder = root / name / (version or "")
    way_out = _WAY_OUT.format(name=name)
    if not folder.is_dir():
        return [f"{at(folder)}{reference} is locked, but the folder is missing; {way_out}"]
    try:
        found = hash_files(folder)
    except DataError as error:
        return [str(error)]
    result = [f"{at(folder / f)}locked in {reference}, but missing; {way_out}" for f in entry.files if f not in found]
    result += [f"{at(folder / f)}not part of the frozen {reference}; remove it" for f in found if f not in entry.files]
    for file, expected in entry.files.items():
        actual = found.get(file, expected)
        if actual != expected:
            result.append(f"{at(folder / file)}changed since {reference} was frozen: "
                          f"expected sha256 {expected}, found {actual}; {way_out}")  # fmt: skip
    return result


def _entry(path: Path, reference: str, value: Any) -> Frozen:
    try:
        version = names.split(reference)[1]
        files, samples = value["files"], value["samples"]
        if version is None or not isinstance(samples, int) or not files or not all(map(_is_hash, files.values())):
            raise ValueError("each entry holds samples (a number) and files (path: sha256)")
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(f"{at(path)}entry {reference!r} is damaged: {error}") from error
    return Frozen(samples, {str(k): v for k, v in files.items()})


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _place(reference: str) -> tuple[str, tuple[tuple[int, int, str], ...]]:
    name, _, version = reference.partition("@")
    return name, names.in_order(version)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
