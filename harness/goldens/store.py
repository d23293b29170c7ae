"""What is done with whole golden sets: load one, freeze a draft, start the next version."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import plugins
from harness.errors import ConfigError, DataError, LockError, StorageError, at, nearest
from harness.goldens import lock, names
from harness.goldens.card import CARD_NAME, Card, MetricUse, load_card
from harness.goldens.lock import Frozen
from harness.goldens.rows import SAMPLES_NAME, read_samples
from harness.records import Sample, content_hash


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """A golden set as it was frozen. `digest` is a SHA-256 over the hashes of all its files, which `locked` holds."""

    name: str
    version: str
    folder: Path
    card: Card
    samples: tuple[Sample, ...]
    digest: str
    locked: Frozen

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


def load(root: Path, reference: str) -> GoldenSet:
    """The set `name@version`, or the latest frozen version of `name`, after its files were held against the lock.

    Raises:
        LockError: it is not frozen, or not what was frozen.
        ConfigError, DataError: the card or a row is wrong.
    """
    name, version = names.split(reference)
    version = version or lock.latest(root, name)
    reference = f"{name}@{version}"
    lock.verify(root, [reference])
    entry = lock.read_lock(root)[reference]
    folder = root / name / version
    card = load_card(folder)
    samples = read_samples(folder / SAMPLES_NAME, card)
    return GoldenSet(name, version, folder, card, samples, content_hash(dict(entry.files)), entry)


def freeze(root: Path, name: str, version: str) -> Frozen:
    """Check a draft completely and write its hashes into the lock; an unchanged frozen version is left as it is.

    Raises:
        LockError: this version was frozen with other content.
        ConfigError, DataError: no such version, or its card, a metric's options or a row is wrong.
    """
    reference = f"{names.check_name(name)}@{names.check_version(version)}"
    folder = _existing(root, name, version)
    card = load_card(folder)
    samples = read_samples(folder / SAMPLES_NAME, card)
    for use in card.metrics:
        _check_metric(folder / CARD_NAME, use, samples)
    fresh = Frozen(len(samples), lock.hash_files(folder))
    entries = lock.read_lock(root)
    if reference in entries:
        if dict(entries[reference].files) != fresh.files:
            raise LockError("\n".join(lock.problems(root, [reference])))
        return entries[reference]
    lock.write_lock(root, {**entries, reference: fresh})
    return fresh


def new_version(root: Path, name: str, from_version: str | None = None) -> Path:
    """Copy a version (default: the latest in the folder) to the one that follows it, as a draft; returns its folder.

    Raises:
        DataError: there is no such version, or the one that follows exists.
        ConfigError: the version holds no number to count up.
    """
    names.check_name(name)
    if from_version is None:
        from_version = max(_versions(root, name), key=names.in_order, default=None)
        if from_version is None:
            raise DataError(f"{at(root / name)}no version of {name!r} to start from")
    source = _existing(root, name, names.check_version(from_version))
    target = source.with_name(names.successor(from_version))
    if target.exists():
        raise DataError(f"{at(target)}exists already; nothing was copied")
    lock.hash_files(source)  # refuses links, which a copy would follow
    _copy(source, target)
    return target


def _check_metric(card: Path, use: MetricUse, samples: Sequence[Sample]) -> None:
    """What can be known before a model is asked: a frozen set cannot be mended, only followed by another."""
    where = f"{at(card)}metrics.{use.id}"
    plugins.options("metrics", use.id, use.options, where=where)
    module = plugins.load("metrics", use.id)
    if module.__dict__.get("LOADS_CODE", False):
        raise ConfigError(f"{where}: it loads code that the user must name, in the suite's metrics in gate.yaml")
    if module.__dict__.get("SCORES") == "choices":
        without = next((s.id for s in samples if not s.choices), None)
        if without is not None:
            raise DataError(f"{where} needs choices, and sample {without!r} has none")


def _copy(source: Path, target: Path) -> None:
    """Copy under a hidden name first: a copy that stops half-way is never mistaken for a version."""
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        draft = temporary / target.name
        shutil.copytree(source, draft)
        card = draft / CARD_NAME
        card.write_bytes(_with_version(card.read_bytes(), target.name))
        os.rename(draft, target)
    except OSError as error:
        raise StorageError(f"{at(target)}cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _with_version(card: bytes, version: str) -> bytes:
    """The card's text with its version line replaced; comments and order stay."""
    changed, count = re.subn(rb"(?m)^version:[^\r\n]*", f'version: "{version}"'.encode(), card)
    if count != 1:
        raise DataError(f"{CARD_NAME} has {count} lines that begin with 'version:'; expected one")
    return changed


def _versions(root: Path, name: str) -> list[str]:
    folder = root / name
    if not folder.is_dir():
        return []
    return [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _existing(root: Path, name: str, version: str) -> Path:
    folder = root / name / version
    if not folder.is_dir():
        known = _versions(root, name)
        sets = [p.name for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
        hint = nearest(version, known) if known else nearest(name, sets)
        raise DataError(f"{at(folder)}no such version; {hint}")
    return folder
