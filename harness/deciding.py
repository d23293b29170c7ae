"""The verdict on a stored run, made again from its evidence, its labels and the reasons that its journal ends with

Needs no model, no judge and no report: whoever wants to know what a run says asks here, and not its `verdict.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import policy, runs
from harness.labelled import with_labels
from harness.records import Check, Guard, Verdict


def decide_again(path: Path) -> tuple[dict[str, Any], Verdict]:
    """The manifest of a finished run, and the verdict on its stored evidence and labels; `verdict.json` is not asked.

    Raises:
        StorageError: a file of the run is missing or damaged.
        DataError: a label is of no pair of the run.
    """
    manifest: dict[str, Any] = runs.read_json(path / runs.MANIFEST)
    ended = runs.read_facts(path).get(runs.ENDED) or {}
    if not ended:  # a run of a version that did not write this down
        ended = {"checks": runs.read_json(path / runs.VERDICT)["checks"], "stopped": manifest.get("no_verdict", ())}
    guards = [Guard(**guard) for guard in manifest["guards"]]
    checks = [Check(**check) for check in ended["checks"]]
    evidence = with_labels(runs.read_evidence(path / runs.EVIDENCE), path)
    return manifest, policy.decide(evidence, guards, checks, stopped=ended["stopped"])
