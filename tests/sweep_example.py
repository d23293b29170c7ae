"""A sweep without any model: a recipe on disk, and a trainer whose outcome is a formula of the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.gate import GateResult
from harness.records import Check, Comparison, Verdict
from harness.report._sweep import SweepPage, TrialRow
from harness.training.recipe import LoadedRecipe
from harness.training.run import TrainingResult
from harness.training.stages import WORK
from harness.training.sweeping.section import LoadedSweep, load_sweep

RATE, RANK, SHARE = "stages.0.settings.learning_rate", "scope.rank", "stages.0.data.replay.share"
SETTINGS = [
    {"path": RATE, "low": 1e-5, "high": 1e-2, "log": True},
    {"path": RANK, "choices": [2, 4, 8]},
    {"path": SHARE, "low": 0.05, "high": 0.5},
]

PAGE = SweepPage(
    title="recipe.yaml",
    paths=("scope.rank",),
    trials=[
        TrialRow(0, "feasible", ["4"], 10.0, 0.2, "+10.0 pts", "0.20 of the margin"),
        TrialRow(1, "regressed", ["8"], 40.0, 1.5, "+40.0 pts", "1.50 of the margin"),
        TrialRow(2, "regressed", ["16"], 50.0, 20.0, "+50.0 pts", "20 of the margin"),
        TrialRow(3, "failed", ["32"], remark="<script>alert(1)</script> out of memory"),
    ],
    front=(0, 1, 2),
    chosen=0,
    facts=[("Samples", "support@1: 60 for choosing, 140 for the verdict")],
    settings={"scope.rank": "4"},
    next_step="harness train recipe-swept.yaml",
)


def sweep(folder: Path, *, trials: int = 6, recipe: dict[str, Any] | None = None, **said: Any) -> LoadedSweep:
    """A recipe.yaml and a sweep.yaml in a folder, read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    source = {"path": "rows.jsonl"}
    stage = {
        "name": "tune",
        "data": {"train": [source], "replay": {"sources": [source], "share": 0.1}},
        "settings": {"learning_rate": 1e-3},
        "gate": True,
    }
    document = {
        "base": {"model": "base"},
        "scope": {"rank": 4},
        "stages": [stage],
        "gate": "gate.yaml",
        **(recipe or {}),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"settings": SETTINGS, "trials": trials, **said}), encoding="utf-8")
    return load_sweep(path)


def comparison(label: str, difference: float, **changed: Any) -> Comparison:
    """A guard that was asked 50 samples; with a margin of 0.05 it has regressed where it lost that much."""
    outcome = "regressed" if difference <= -0.05 and "must_improve" not in changed else "pass"
    suite, metric = label.split("/")
    plain = Comparison(
        suite, metric, None, "frozen", outcome, n=50, n_used=50, n_failed=0, baseline_mean=0.5,
        candidate_mean=0.5 + difference, difference=difference, interval=(difference, difference), margin=0.05,
        alpha=0.05, lost=3, won=4, population_interval=(difference - 0.1, difference + 0.1),
    )  # fmt: skip
    return replace(plain, **changed)


class Formula:
    """A trainer: large rates learn more and forget more, replay forgets less. `calls` are the settings it was given."""

    def __init__(self, before: Callable[[int], None] = lambda call: None) -> None:
        self.calls: list[tuple[float, int, float]] = []
        self._before = before

    def __call__(self, recipe: LoadedRecipe, observer: Any) -> TrainingResult:
        stage = recipe.recipe.stages[0]
        rate, share = stage.settings.learning_rate, stage.data.replay.share
        rank = recipe.recipe.scope.options["rank"]
        self.calls.append((rate, rank, share))
        self._before(len(self.calls))
        out = recipe.folder / recipe.recipe.out
        (out / WORK / "tune" / "checkpoint-1").mkdir(parents=True, exist_ok=True)
        learned = min(0.9, 60 * rate * rank / 4)
        return result(out, learned, -max(0.0, learned - share) / 4)


def result(out: Path, learned: float, kept: float, checks: tuple[Check, ...] = (), **worst: Any) -> TrainingResult:
    """A training that came to this."""
    verdict = Verdict(
        "hold", (), (comparison("new/exact", learned, must_improve=0.0), comparison("old-skill/exact", kept, **worst)),
        checks,
    )  # fmt: skip
    return TrainingResult([], {"tune": GateResult("tune", verdict, out / "runs" / "x", ())}, out / "tune")
