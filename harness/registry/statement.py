"""What is signed: an in-toto Statement (v1) whose predicate is a test result (in-toto.io/attestation/test-result/v0.1)

Subjects are the digests of every file of the adapter, of the base that it was evaluated on, of the lock of the golden
sets, and of every suite. The predicate names the tests that passed and those that did not, and, under `harness`, an
extension that other readers ignore: the verdict, the guards, who overrode it, the digests of the evidence, versions.
Nothing in it is a clock or a path, so that the same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from harness.errors import RecordError
from harness.records import Comparison, Decision, Verdict, content_hash

STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
FORMAT = 1
LOCK, EVIDENCE, VERDICT = "LOCK.yaml", "evidence.parquet", "verdict.json"
PAPERS = (LOCK, EVIDENCE, VERDICT)
"""What goes with the adapter beside the record, by the names of its files."""

_RESULTS: Mapping[Decision, str] = {"promote": "PASSED", "hold": "WARNED", "block": "FAILED"}
_BASE, _SUITE, _SETS = "base/", "suites/", "goldensets/"


class Material(TypedDict):
    """What a statement is made of, all of it found out anew from the run: digests are SHA-256 (hex) by file name."""

    run: str
    manifest: Mapping[str, Any]
    verdict: Verdict
    gate: Mapping[str, str]
    files: Mapping[str, str]
    papers: Mapping[str, bytes]
    stored: Mapping[str, str]
    override: Mapping[str, str] | None


def make_statement(given: Material) -> dict[str, Any]:
    """The statement about one run."""
    manifest, verdict = given["manifest"], given["verdict"]
    papers = {name: sha256(content) for name, content in given["papers"].items()}
    base = manifest["candidate"].get("weights") or {} if manifest["candidate"]["artifact"]["kind"] != "model" else {}
    suites = {name: said["digest"] for name, said in manifest["suites"].items()}
    subjects = {
        **given["files"],
        **{_BASE + name: digest for name, digest in base.items()},
        _SETS + LOCK: papers[LOCK],
        **{_SUITE + name: digest for name, digest in suites.items()},
    }
    required = [c for c in verdict.comparisons if c.required or c.veto]
    return {
        "_type": STATEMENT,
        "subject": [_resource(name, digest) for name, digest in subjects.items()],
        "predicateType": TEST_RESULT,
        "predicate": {
            "result": _RESULTS[verdict.verdict],
            "configuration": [_resource(f"gate.yaml#{key}", digest) for key, digest in sorted(given["gate"].items())],
            "passedTests": _labels(required, "pass") + [f"pre-flight/{c.name}" for c in verdict.checks if c.passed],
            "warnedTests": _labels(required, "undecided"),
            "failedTests": [
                *_labels(required, "regressed"),
                *(f"pre-flight/{c.name}" for c in verdict.checks if not c.passed),
            ],
            "harness": _claim(given, papers),
        },
    }


def _claim(given: Material, papers: Mapping[str, str]) -> dict[str, Any]:
    manifest, verdict = given["manifest"], given["verdict"]
    return {
        "format": FORMAT,
        "version": manifest["harness"],
        "libraries": manifest["libraries"],
        "run": given["run"],
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "override": given["override"],
        "artifact": manifest["candidate"]["artifact"]["kind"],
        "adapter": content_hash(dict(given["files"])),
        "files": sorted(given["files"]),
        "candidate": _named(manifest["candidate"]),
        "baseline": _named(manifest["baseline"]),
        "policy": manifest["policy"],
        "guards": manifest["guards"],
        "papers": papers,
        "evidence": dict(given["stored"]),
    }


def parse_statement(payload: Any, where: str) -> tuple[dict[str, str], dict[str, Any]]:
    """(digest by subject, our claim) of a statement whose signature has been checked.

    Raises:
        RecordError: it is not a statement that this version understands.
    """
    try:
        if payload["_type"] != STATEMENT or payload["predicateType"] != TEST_RESULT:
            raise ValueError(f"a {str(payload['predicateType'])[:80]!r}, not a test result")
        subjects = {str(s["name"]): str(s["digest"]["sha256"]) for s in payload["subject"]}
        predicate = payload["predicate"]
        claim: dict[str, Any] = predicate["harness"]
        if claim["format"] != FORMAT:
            raise ValueError(f"format {claim['format']!r}, where this version of Harness reads {FORMAT}")
        if predicate["result"] != _RESULTS[claim["verdict"]]:
            raise ValueError("its result and its verdict contradict each other")
        if any(name not in subjects or not is_plain(name) for name in claim["files"]):
            raise ValueError("a file is no subject of it")
        if set(claim["papers"]) != set(PAPERS) or claim["papers"][LOCK] != subjects[_SETS + LOCK]:
            raise ValueError("the digests of what goes with it are not complete")
        gate = {str(c["name"]).removeprefix("gate.yaml#"): c["digest"]["sha256"] for c in predicate["configuration"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{where}not a record of a promotion: {error}") from error
    return subjects, {**claim, "gate": gate}


def lock_of(manifest: Mapping[str, Any]) -> bytes:
    """The part of LOCK.yaml that a run rests on: the entries of the golden sets that it asked."""
    import yaml

    sets = {
        said["locked"]["set"]: {"samples": said["locked"]["samples"], "files": said["locked"]["files"]}
        for said in manifest["suites"].values()
        if "locked" in said
    }
    text = yaml.safe_dump({"sets": sets}, sort_keys=True, allow_unicode=True, width=120)
    return f"# The golden sets that this promotion rests on, as they were frozen.\n{text}".encode()


def is_plain(name: str) -> bool:
    """Whether a name is that of a file in a folder, and leads nowhere else."""
    return bool(name) and "/" not in name and "\\" not in name and "\0" not in name and not name.startswith(".")


def sha256(content: bytes) -> str:
    """SHA-256 (hex)."""
    return hashlib.sha256(content).hexdigest()


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}


def _labels(comparisons: Sequence[Comparison], outcome: Literal["pass", "regressed", "undecided"]) -> list[str]:
    return [c.label for c in comparisons if c.outcome == outcome]


def _named(subject: Mapping[str, Any]) -> dict[str, Any]:
    return {key: subject.get(key) for key in ("name", "kind", "fingerprint")}
