"""Stored runs without a model: journals, evidence and verdicts as a gate leaves them, many and quickly."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import policy, runs
from harness.records import Check, Evidence, Guard, MetricSpec, Output, PairedScore, Score, content_hash

METRIC = MetricSpec("exact_match")
GUARDS = (
    Guard("golden/support@1", "exact_match", must_improve=0.02),
    Guard("golden/tools@1", "exact_match", margin=0.05),
)
START = 1_767_225_600  # 2026-01-01, UTC


def run_entries(suite: str, n: int, *, gain: float, churn: float, seed: int, said: str = "") -> list[runs.Entry]:
    """n samples of a suite: the baseline knows 60 %; `churn` of the answers turn, on balance by `gain`."""
    known = random.Random(f"{suite} baseline")
    turns = random.Random(f"{suite} {seed}")
    entries = []
    for i in range(n):
        before = known.random() < 0.6
        lose, win = (churn - gain) / 2 / 0.6, (churn + gain) / 2 / 0.4
        after = before != (turns.random() < (lose if before else win))
        about = known.choice(("refunds", "parcels", "cards"))
        texts = [f"answer {i} is {'right' if right else 'wrong'}{said}" for right in (before, after)]
        entries.append(
            runs.Entry(
                suite=suite,
                sample_id=f"{suite.split('/')[1]}-{i:05}",
                prompt=f"Question {i} of {suite}: a customer asks about {about}{said}",
                target=f"answer {i}",
                tags=("even" if i % 2 == 0 else "odd",),
                baseline=(Output(text=texts[0]),),
                candidate=(Output(text=texts[1]),),
                scores={"exact_match": (Score.of(before), Score.of(after))},
            )
        )
    return entries


def make_run(
    root: Path, name: str, *, n: int = 120, gain: float = 0.0, churn: float = 0.1, seed: int = 0, day: int = 0,
    baseline: str = "base", guards: Sequence[Guard] = GUARDS, checks: Sequence[Check] = (), said: str = "",
) -> Path:  # fmt: skip
    """A finished run directory whose candidate gained on the first suite and lost half as much on the others."""
    suites = list(dict.fromkeys(guard.suite for guard in guards))
    manifest: dict[str, Any] = {
        "harness": "test",
        "baseline": {"name": baseline, "fingerprint": content_hash(baseline)},
        "candidate": {"name": name, "fingerprint": content_hash([name, seed])},
        "suites": {s: {"digest": content_hash(s), "samples": n, "locked": {"set": s.split("/")[1]}} for s in suites},
        "guards": [asdict(guard) for guard in guards],
        "policy": {},
        "command": "harness gate gate.yaml",
    }
    run = runs.RunDirectory(root, name.lower(), manifest)
    evidence = []
    for place, suite in enumerate(suites):
        entries = run_entries(suite, n, gain=gain if place == 0 else -gain / 2, churn=churn, seed=seed, said=said)
        run.append(entries)
        pairs = tuple(PairedScore(e.sample_id, "", e.tags, *e.scores["exact_match"]) for e in entries)
        evidence.append(Evidence(suite, METRIC, pairs))
    run.note_fact(runs.ENDED, {"checks": [asdict(check) for check in checks], "stopped": [], "gate": {}})
    run.close()
    runs.write_evidence(run.path / runs.EVIDENCE, evidence)
    verdict = policy.decide(evidence, guards, checks)
    runs.write_json(run.path / runs.VERDICT, verdict.as_json())
    moment = START + day * 86_400
    os.utime(run.path / runs.JOURNAL, (moment, moment))
    return run.path
