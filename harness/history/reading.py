"""From a run directory to what the history remembers of it; a run whose files are the same is not read twice"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import __version__, labelled, runs, wear
from harness.config import slug
from harness.deciding import decide_again
from harness.errors import HarnessError, StorageError
from harness.records import Check, Comparison, Decision, content_hash

CACHE = ".harness-history"
_FORMAT = 1  # of the cache; another number makes every record anew
_FILES = (runs.MANIFEST, runs.JOURNAL, runs.EVIDENCE, runs.VERDICT)


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a run: what it is called, and a hash of what it is."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Run:
    """One decided run. `comparisons` holds whole suites and whatever decides; `suites` maps a suite to its digest.

    `versions` maps it to the name@version of its golden set, or its own name; `looks` to which look at it this was, as
    the run knew. Of a `withheld` run neither numbers nor samples are shown.

    `when` is when its last evidence was written, UTC in ISO 8601: a manifest holds no clock, so that it says the same
    of the same run, and copies that do not keep the times of files lose it. `key` names the run within one history.
    """

    key: str
    path: Path
    when: str
    verdict: Decision
    reasons: tuple[str, ...]
    candidate: Arm
    baseline: Arm
    suites: Mapping[str, str]
    comparisons: tuple[Comparison, ...]
    checks: tuple[Check, ...]
    part: str
    withheld: bool
    versions: Mapping[str, str]
    looks: Mapping[str, int]
    stamp: str

    @property
    def required(self) -> list[Comparison]:
        """The guards that decide."""
        return [c for c in self.comparisons if c.required or c.blocks]


@dataclass(frozen=True, slots=True)
class Unread:
    """A run directory that could not be read, and why."""

    path: Path
    reason: str


def find_runs(places: Sequence[Path]) -> list[Path]:
    """The run directories at or below the given folders, each once, sorted by path.

    Raises:
        StorageError: a place is no folder, or there is no finished run in any.
    """
    found: set[Path] = set()
    for place in places:
        if not place.is_dir():
            raise StorageError(f"{place}: no such folder; name run directories, or a folder that holds them")
        inside = (p.parent for p in place.rglob(runs.VERDICT))
        found |= {p.resolve() for p in inside if (p / runs.MANIFEST).is_file()}
    if not found:
        raise StorageError(f"{', '.join(map(str, places))}: no finished run here; a run has a {runs.VERDICT}")
    return sorted(found)


def read_runs(paths: Sequence[Path], out: Path) -> tuple[list[Run], list[Unread]]:
    """Every run, the newest first, and those that could not be read; what is known from before is taken from `out`."""
    (out / CACHE).mkdir(parents=True, exist_ok=True)
    read: list[Run] = []
    unread: list[Unread] = []
    for key, path in _keys(paths):
        try:
            read.append(_read(key, path, out / CACHE / f"{key}.json"))
        except (HarnessError, KeyError, TypeError, ValueError) as error:
            unread.append(Unread(path, str(error) or type(error).__name__))
    return sorted(read, key=lambda run: (run.when, run.key), reverse=True), unread


def _keys(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """A short name for each run that can be a file name and part of an address; two of the same name are numbered."""
    taken: set[str] = set()
    for path in paths:
        name = slug(path.name).replace(".", "-")[:80]
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        key = name if name not in taken else next(n for n in numbered if n not in taken)
        taken.add(key)
        yield key, path


def _read(key: str, path: Path, cache: Path) -> Run:
    """The run from the cache, or decided anew where any of its files is another than then."""
    sizes, known = _sizes(path), _cached(cache)
    stamp = known["stamp"] if known.get("sizes") == sizes else _stamp(path, sizes)
    if known.get("stamp") == stamp:
        record = known["record"]
    else:
        record, known = _decided(path), {}
    if known.get("sizes") != sizes:
        kept = {"stamp": stamp, "sizes": sizes, "record": record}
        # Not fsynced, because what a crash leaves half written is no JSON, and is made anew.
        cache.write_text(json.dumps(kept, ensure_ascii=True, separators=(",", ":")), "ascii")
    return _run(key, path, stamp, record)


def _cached(cache: Path) -> dict[str, Any]:
    try:
        known = json.loads(cache.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _sizes(path: Path) -> list[list[Any]]:
    """Name, size and time of change of each file: where these are as they were, the content is not hashed again."""
    said = []
    for file in _files(path):
        try:
            found = os.stat(file)
        except OSError as error:
            raise StorageError(f"{file}: {error.strerror}. Is {path} a run that finished?") from error
        said.append([file.relative_to(path).as_posix(), found.st_size, found.st_mtime_ns])
    return said


def _files(path: Path) -> list[Path]:
    labels = sorted((path / labelled.FOLDER).glob("*.json*"))
    return [*(path / name for name in _FILES), *labels]


def _stamp(path: Path, sizes: Sequence[Sequence[Any]]) -> str:
    """One hash of everything that the record is made of, this program's version among it."""
    digests = {}
    for name, *_ in sizes:
        with (path / name).open("rb") as stream:
            digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return content_hash({"format": _FORMAT, "harness": __version__, "files": digests})


def _decided(path: Path) -> dict[str, Any]:
    """What is remembered of a run, as JSON."""
    manifest, verdict = decide_again(path)
    facts = runs.read_facts(path).get(wear.FACT) or {}
    if "rungs" in facts:
        verdict = wear.withheld(verdict, facts["rungs"])
    shown = [c for c in verdict.comparisons if c.slice is None or c.required or c.blocks]
    return {
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "candidate": _arm(manifest["candidate"]),
        "baseline": _arm(manifest["baseline"]),
        "suites": {name: str(said.get("digest", "")) for name, said in manifest["suites"].items()},
        "comparisons": [asdict(c) for c in shown],
        "checks": [asdict(c) for c in verdict.checks],
        "part": str(manifest.get("part", "verdict")),
        "withheld": "rungs" in facts,
        "versions": {name: str(said.get("locked", {}).get("set", name)) for name, said in manifest["suites"].items()},
        "looks": {one["suite"]: one["number"] for one in facts.get("looks", ())},
    }


def _arm(said: Mapping[str, Any]) -> list[str]:
    return [str(said.get("name", "")), str(said.get("fingerprint") or content_hash(said))]


def _run(key: str, path: Path, stamp: str, record: Mapping[str, Any]) -> Run:
    return Run(
        key=key,
        path=path,
        when=_when(path),
        verdict=record["verdict"],
        reasons=tuple(record["reasons"]),
        candidate=Arm(*record["candidate"]),
        baseline=Arm(*record["baseline"]),
        suites=record["suites"],
        comparisons=tuple(Comparison.from_json(c) for c in record["comparisons"]),
        checks=tuple(Check(**c) for c in record["checks"]),
        part=record["part"],
        withheld=record["withheld"],
        versions=record["versions"],
        looks=record["looks"],
        stamp=stamp,
    )


def _when(path: Path) -> str:
    changed = (path / runs.JOURNAL).stat().st_mtime
    return datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")
