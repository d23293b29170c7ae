"""Wear of a frozen set: every decision that was made on it, counted, because repeated looks adapt to a set

`decisions.jsonl` beside a registry's ledger holds one line a decision about a candidate on one frozen version, chained
as the ledger is. A run that is repeated is one look: the same run and version are noted once.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import RecordError, StorageError, at
from harness.registry import chain

FILE = "decisions.jsonl"


@dataclass(frozen=True, slots=True)
class Look:
    """One decision on one frozen version: `digest` is the suite's, as the manifest has it, `version` its name@version.

    `at` is UTC, ISO 8601; `number` and `previous` are the chain's.
    """

    number: int
    previous: str
    at: str
    version: str
    digest: str
    run: str
    verdict: str


def note_decision(
    folder: Path, manifest: Mapping[str, Any], run: str, verdict: str, *, now: datetime | None = None
) -> list[Look]:
    """Note that a verdict was made on every frozen set of a run, durably; what is noted already is not noted again.

    Args:
        folder: of the registry, or any other that the decisions of one project share.
        manifest: of the run.
        run: the name of its directory.
        verdict: promote, block or hold.
        now: the time; by default that of the clock.

    Returns:
        What was added.

    Raises:
        StorageError: the file cannot be written.
        RecordError: it is damaged.
    """
    path, moment = folder / FILE, (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    added: list[Look] = []
    with _locked(path):
        looks = read_decisions(folder)
        known = {(look.run, look.digest) for look in looks}
        last = chain.digest(asdict(looks[-1])) if looks else chain.GENESIS
        for version, digest in _versions(manifest):
            if (run, digest) not in known:
                look = Look(len(looks) + len(added) + 1, last, moment, version, digest, run, verdict)
                chain.append(path, asdict(look))
                last = chain.digest(asdict(look))
                added.append(look)
    return added


def read_decisions(folder: Path) -> list[Look]:
    """Every decision, oldest first; none where nothing has been noted yet.

    Raises:
        RecordError: a line was changed, added or taken out.
        StorageError: the file cannot be read.
    """
    path = folder / FILE
    try:
        return [Look(**row) for row in chain.read(path)]
    except TypeError as error:
        raise RecordError(f"{at(path)}a line is not a decision: {error}") from error


def looks_at(folder: Path, version: str, digest: str | None = None) -> int:
    """How many runs were decided on `name@version`, asked in one way (`digest`) or in any."""
    found = {look.run for look in read_decisions(folder) if look.version == version and digest in (None, look.digest)}
    return len(found)


def _versions(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name@version, digest) of every suite of a run; a suite without a golden set stands under its own name."""
    for name, said in manifest["suites"].items():
        yield str(said.get("locked", {}).get("set", name)), str(said["digest"])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the writers' lock of the file; it ends with the process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; the decision was not noted") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
