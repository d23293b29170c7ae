"""One training and its gate, measured: what was learned, what was forgotten, how both went, and what it took."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import Part
from harness.demo.answers import accuracy
from harness.demo.frozen import GOLDEN_SKILLS, golden_questions
from harness.demo.skills import NEW_SKILL, OLD_SKILLS
from harness.progress import Silent
from harness.training.recipe import load_recipe
from harness.training.run import train

PROBES = 20  # golden questions of a skill at each point of a curve
POINTS = 10  # of a curve
TARGET = f"demo-{NEW_SKILL.name}"


class Clock(Silent):
    """Wall and processor seconds between the stage `training` and what comes after it: every callback is in them."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self._began: tuple[float, float] | None = None

    def stage(self, text: str) -> None:
        """A stage began; one that was running is over."""
        now = time.perf_counter(), time.process_time()
        if self._began is not None:
            self.seconds, self.cpu_seconds = now[0] - self._began[0], now[1] - self._began[1]
        self._began = now if text.endswith(": training") else None


def run_trial(recipe: Path, part: Part, *, curve: bool = False) -> dict[str, Any]:
    """Train a recipe and gate it on the samples of `part`; with `curve`, also look at it on the way.

    Returns the difference of every suite (score points, up is better) with how many samples it is of, the outcome of
    the training, its seconds, and the curve: points of step, and accuracy by skill.
    """
    shutil.rmtree(recipe.parent / "adapters", ignore_errors=True)  # a trial that was broken off is made anew
    loaded, clock = load_recipe(recipe), Clock()
    steps = loaded.recipe.stages[0].settings.max_steps or 0
    watcher = _watcher(max(1, steps // POINTS)) if curve else None
    result = train(loaded, clock, part, [] if watcher is None else [watcher])
    if result.verdict is None:
        raise SystemExit(f"{recipe}: nothing was gated: {result.stopped or result.ungated}")
    whole = [c for c in result.verdict.verdict.comparisons if c.required]
    outcome = dict(result.stages[0].outcome)
    if outcome.get("kept_step") == 0:  # the guard went back to the start: the base itself, of which a gate asks nothing
        whole = [replace(c, difference=0.0, reason="") for c in whole]
    if broken := [f"{c.label}: {c.reason or 'no difference'}" for c in whole if c.reason or c.difference is None]:
        raise SystemExit(f"{recipe}: not everything was measured: {'; '.join(broken)}")
    return {
        "differences": {c.suite.partition("@")[0]: c.difference for c in whole},
        "samples": {c.suite.partition("@")[0]: c.n_used for c in whole},
        "verdict": result.verdict.verdict.verdict,
        "outcome": outcome,
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "curve": [] if watcher is None else watcher.points,
    }


def gain(trial: Mapping[str, Any]) -> float:
    """What the new skill gained, in score points (0 to 1)."""
    return float(trial["differences"][TARGET])


def loss(trial: Mapping[str, Any]) -> float:
    """What the old skill lost that lost most; 0 where none lost anything."""
    return max(0.0, *(-float(d) for suite, d in trial["differences"].items() if suite != TARGET))


def mean_loss(trial: Mapping[str, Any]) -> float:
    """What the old skills lost on average; below 0 they got better."""
    old = [-float(d) for suite, d in trial["differences"].items() if suite != TARGET]
    return sum(old) / len(old)


def _watcher(every: int) -> Any:
    """A callback that asks some golden questions every so many steps, and leaves the training as it found it."""
    import torch
    from transformers import TrainerCallback

    asked = {skill.name: golden_questions(skill, PROBES) for skill in (*OLD_SKILLS, *GOLDEN_SKILLS)}

    class Watcher(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by the type checker
        def __init__(self) -> None:
            self.points: list[dict[str, Any]] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step % every:
                return
            model, tokenizer = given["model"], given["processing_class"]
            model.eval()
            with torch.random.fork_rng():
                scores = {name: accuracy(model, tokenizer, questions) for name, questions in asked.items()}
            model.train()
            self.points.append({"step": int(state.global_step), "scores": scores})

    return Watcher()
