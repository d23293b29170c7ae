"""The run directory: what was compared, what was seen, what was decided. Append-only while the run goes on.

`journal.jsonl` gets one line a chunk, fsynced; a line cut off by a crash is dropped on opening, and the chunk is
asked again from the output cache. The directory's name ends in a hash of the manifest, so the same command finds its
own run and goes on with it, and a run of anything else cannot be mistaken for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.drift import AnswerDrift
from harness.errors import StorageError
from harness.records import Evidence, MetricSpec, Output, PairedScore, Score, content_hash

MANIFEST, JOURNAL, EVIDENCE, VERDICT = "manifest.json", "journal.jsonl", "evidence.parquet", "verdict.json"
SEAL = "seal.json"
ENDED = "ended"
"""The fact with which a journal ends: every pre-flight check, why the run stopped other than by being decided, and
which sections of a gate.yaml demanded it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished sample of the journal: both subjects' outputs and the scores by metric (baseline, candidate).

    `prompt`, `target` and `tags` are there for the reader, so that a report can be made without the suite. `drift`
    holds one record for each request that both subjects answered greedily, token by token; their tokens themselves
    stay in the output cache. `details` says by metric how a judge came to its scores. `cluster` is the sample's.
    """

    suite: str
    sample_id: str
    prompt: str
    target: str
    tags: tuple[str, ...]
    baseline: tuple[Output, ...]
    candidate: tuple[Output, ...]
    scores: Mapping[str, tuple[Score, Score]]
    drift: tuple[AnswerDrift, ...] = ()
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cluster: str = ""


class RunDirectory:
    """One run's files. Opening it creates the directory, or resumes it when the manifest is the same.

    Raises:
        StorageError: it cannot be written, or the journal is damaged elsewhere than at its end.
    """

    def __init__(self, root: Path, name: str, manifest: Mapping[str, Any]) -> None:
        """Open `root/<name>-<hash of manifest>`."""
        self.path = root / f"{name}-{content_hash(manifest)[:12]}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.resumed = (self.path / JOURNAL).exists()
            write_json(self.path / MANIFEST, manifest)
            self._entries, self._facts = self._replay()
            self._journal = open(self.path / JOURNAL, "a", encoding="utf-8")  # noqa: SIM115 - held for the run
        except OSError as error:
            raise _broken(self.path, error) from error

    @property
    def entries(self) -> list[Entry]:
        """Every finished sample, in the order of the journal."""
        return self._entries

    def fact(self, name: str) -> Any | None:
        """What `note_fact` stored under `name`, now or before a crash."""
        return self._facts.get(name)

    def note_fact(self, name: str, value: Any) -> None:
        """Store a JSON value that must not be found out twice (a pre-flight result)."""
        self._append({"type": "fact", "name": name, "value": value})
        self._facts[name] = value

    def append(self, entries: Sequence[Entry]) -> None:
        """Store finished samples durably before returning."""
        if entries:
            self._append({"type": "chunk", "entries": [_entry_to_json(e) for e in entries]})
            self._entries.extend(entries)

    def close(self) -> None:
        """Close the journal; everything appended is already durable."""
        self._journal.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        try:
            self._journal.write(line + "\n")
            self._journal.flush()
            os.fsync(self._journal.fileno())
        except OSError as error:
            raise _broken(self.path, error) from error

    def _replay(self) -> tuple[list[Entry], dict[str, Any]]:
        entries: list[Entry] = []
        facts: dict[str, Any] = {}
        for record in _complete_records(self.path / JOURNAL, mend=True):
            if record["type"] == "fact":
                facts[record["name"]] = record["value"]
            else:
                entries.extend(_entry_from_json(e) for e in record["entries"])
        return entries, facts


def read_entries(run: Path) -> list[Entry]:
    """Every finished sample of a stored run, in the order of its journal."""
    records = _complete_records(run / JOURNAL)
    return [_entry_from_json(e) for record in records if record["type"] == "chunk" for e in record["entries"]]


def read_facts(run: Path) -> dict[str, Any]:
    """What a stored run noted with `RunDirectory.note_fact`, the latest of each name."""
    records = _complete_records(run / JOURNAL)
    return {record["name"]: record["value"] for record in records if record["type"] == "fact"}


def write_seal(run: Path) -> None:
    """Write down the SHA-256 of everything that a finished run rests on, so that a later change to it shows.

    Labels are left out, because people may go on giving them.
    """
    write_json(run / SEAL, {name: _sha256(run / name) for name in (MANIFEST, JOURNAL, EVIDENCE, VERDICT)})


def unsealed(run: Path) -> list[str]:
    """The names of files of a finished run that are not what its seal says; empty when all are.

    Raises:
        StorageError: there is no seal, because the run has not finished, or it is damaged.
    """
    seal = read_json(run / SEAL)
    expected = (MANIFEST, JOURNAL, EVIDENCE, VERDICT)
    if not isinstance(seal, dict) or set(seal) != set(expected):
        raise StorageError(f"{run / SEAL}: not the seal of a run; repeat the gate's command, which writes it anew")
    return [name for name in expected if not (run / name).is_file() or _sha256(run / name) != seal[name]]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _broken(path, error) from error


def read_json(path: Path) -> Any:
    """Parse a JSON file of a run.

    Raises:
        StorageError: it is not there or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: {error}. Is {path.parent} a run directory that finished?") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON readably and atomically: a reader sees the old file or the whole new one."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file atomically and durably.

    Raises:
        StorageError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _broken(path, error) from error


def write_evidence(path: Path, evidence: Sequence[Evidence]) -> None:
    """Write all evidence as one Parquet table, a row a (suite, metric, sample), the unasked ones with null states."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_evidence_row(e, position, pair) for e in evidence for position, pair in enumerate(e.pairs)]
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=_evidence_schema()), path)
    except OSError as error:
        raise _broken(path, error) from error


def read_evidence(path: Path) -> list[Evidence]:
    """The evidence that `write_evidence` stored; enough to decide again without any model."""
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["suite"], row["metric"]), []).append(row)
    return [_evidence_from_rows(group) for group in grouped.values()]


def _evidence_schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    sides = [(f"{arm}_{f}", number if f == "value" else text) for arm in ("baseline", "candidate") for f in _SCORE]
    metric = [("higher_is_better", pa.bool_()), ("low", number), ("high", number), ("chance", number)]
    keys = [("suite", text), ("metric", text), ("position", pa.int64()), ("sample_id", text), ("cluster", text)]
    return pa.schema([*keys, ("cluster_size", pa.int64()), ("tags", pa.list_(text)), *metric, *sides])


_SCORE = ("state", "value", "reason")


def _evidence_row(evidence: Evidence, position: int, pair: PairedScore) -> dict[str, Any]:
    metric = evidence.metric
    row: dict[str, Any] = {
        "suite": evidence.suite,
        "metric": metric.name,
        "position": position,
        "sample_id": pair.sample_id,
        "cluster": pair.cluster,
        "cluster_size": evidence.sizes.get(pair.cluster),
        "tags": list(pair.tags),
        "higher_is_better": metric.higher_is_better,
        "low": metric.bounds[0],
        "high": metric.bounds[1],
        "chance": metric.chance,
    }
    for arm, score in (("baseline", pair.baseline), ("candidate", pair.candidate)):
        row |= {f"{arm}_{f}": None if score is None else getattr(score, f) for f in _SCORE}
    return row


def _evidence_from_rows(rows: list[dict[str, Any]]) -> Evidence:
    first = rows[0]
    metric = MetricSpec(first["metric"], first["higher_is_better"], (first["low"], first["high"]), first["chance"])
    ordered = sorted(rows, key=lambda row: int(row["position"]))
    pairs = tuple(
        PairedScore(r["sample_id"], r["cluster"], tuple(r["tags"]), _side(r, "baseline"), _side(r, "candidate"))
        for r in ordered
    )
    # A file of a version that did not write sizes has no such column.
    sizes = {r["cluster"]: int(r["cluster_size"]) for r in rows if r.get("cluster_size") is not None}
    return Evidence(first["suite"], metric, pairs, sizes=sizes)


def _side(row: Mapping[str, Any], arm: str) -> Score | None:
    state = row[f"{arm}_state"]
    return None if state is None else Score(state, row[f"{arm}_value"], row[f"{arm}_reason"])


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "suite": entry.suite,
        "sample": entry.sample_id,
        "prompt": entry.prompt,
        "target": entry.target,
        "tags": list(entry.tags),
        "baseline": [o.as_json() for o in entry.baseline],
        "candidate": [o.as_json() for o in entry.candidate],
        "scores": {m: [_score_to_json(s) for s in pair] for m, pair in entry.scores.items()},
        **({"drift": [asdict(d) for d in entry.drift]} if entry.drift else {}),
        **({"details": {m: dict(d) for m, d in entry.details.items()}} if entry.details else {}),
        **({"cluster": entry.cluster} if entry.cluster else {}),
    }


def _score_to_json(score: Score) -> dict[str, Any]:
    return {"state": score.state, "value": score.value, "reason": score.reason}


def _entry_from_json(record: Mapping[str, Any]) -> Entry:
    return Entry(
        record["suite"],
        record["sample"],
        record["prompt"],
        record["target"],
        tuple(record["tags"]),
        tuple(Output.from_json(o) for o in record["baseline"]),
        tuple(Output.from_json(o) for o in record["candidate"]),
        {m: (Score(**b), Score(**c)) for m, (b, c) in record["scores"].items()},
        tuple(AnswerDrift(**d) for d in record.get("drift", ())),
        record.get("details", {}),
        record.get("cluster", ""),
    )


def _complete_records(path: Path, *, mend: bool = False) -> Iterator[dict[str, Any]]:
    """Parsed lines of a journal without a last line that has no newline, which was being written in a crash.

    `mend` also cuts that line off, so that the next one can be appended.
    """
    if not path.exists():
        return
    with open(path, "r+b" if mend else "rb") as stream:
        for number, line in enumerate(iter(stream.readline, b""), start=1):
            if not line.endswith(b"\n"):
                if mend:
                    stream.truncate(stream.tell() - len(line))
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise StorageError(
                    f"{path}:{number}: the journal is damaged ({error}); move the run directory away and repeat "
                    "the command: the output cache still holds the answers."
                ) from error


def _broken(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"{path}: {error}. What was finished before is kept; free space or choose another folder with --out, then "
        "repeat the command."
    )
