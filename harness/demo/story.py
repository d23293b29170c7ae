"""The story that `harness demo` tells: the same new skill learned twice, once carelessly and once with care.

Nothing here knows the ending. Both adapters are trained for real, written as any user's would be, and gated through
the same gate.yaml that a user would write; it stands in the output folder afterwards, to be read and run again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import assets
from harness.config import load_gate
from harness.demo.gates import write_gate
from harness.demo.training import Style, train_adapter
from harness.gate import GateResult, run_gate
from harness.progress import Observer

EXPECTED: dict[Style, str] = {"careless": "block", "careful": "promote"}


@dataclass(frozen=True, slots=True)
class Chapter:
    """One adapter: how long it took to train and to gate (seconds), and what the gate said."""

    style: Style
    result: GateResult
    training_seconds: float
    gate_seconds: float

    @property
    def title(self) -> str:
        """Headline of the chapter."""
        return f"The {self.style} adapter"

    @property
    def held(self) -> bool:
        """Whether the gate saw through it."""
        return self.result.verdict.verdict == EXPECTED[self.style]

    def row(self) -> tuple[str, ...]:
        """One line of the closing table."""
        whole = [c for c in self.result.verdict.comparisons if c.required and c.difference is not None]
        new = next((c for c in whole if c.must_improve is not None), None)
        worst = min((c for c in whole if c.must_improve is None), key=lambda c: c.difference or 0.0, default=None)
        return (
            self.style,
            self.result.verdict.verdict.upper(),
            EXPECTED[self.style].upper(),
            "–" if new is None else f"{new.baseline_mean:.0%} → {new.candidate_mean:.0%}",
            "–" if worst is None else f"{worst.suite} {worst.baseline_mean:.0%} → {worst.candidate_mean:.0%}",
            f"{self.training_seconds:.0f} s",
            f"{self.gate_seconds:.0f} s",
        )


@dataclass(frozen=True, slots=True)
class Story:
    """Both chapters, in the order told."""

    chapters: tuple[Chapter, ...]

    @property
    def held(self) -> bool:
        """Whether the careless adapter was blocked and the careful one promoted."""
        return all(chapter.held for chapter in self.chapters)

    def as_json(self) -> dict[str, Any]:
        """The document that `harness demo --json` prints."""
        return {
            "held": self.held,
            "chapters": [
                {
                    "style": c.style,
                    "expected": EXPECTED[c.style],
                    "run": str(c.result.path),
                    "training_seconds": round(c.training_seconds, 1),
                    "gate_seconds": round(c.gate_seconds, 1),
                    **c.result.verdict.as_json(),
                }
                for c in self.chapters
            ],
        }


def tell(out: Path, seed: int, observer: Observer, styles: Sequence[Style] = ("careless", "careful")) -> Story:
    """Train and gate one adapter a style under `out`; what is there from an earlier telling is trained anew.

    Sets the number of torch's threads for the process to one.
    """
    import torch

    # A model this small gains nothing from a second thread, and loses a lot to it where another process wants the core.
    torch.set_num_threads(1)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    return Story(tuple(_chapter(style, out, seed, observer) for style in styles))


def _chapter(style: Style, out: Path, seed: int, observer: Observer) -> Chapter:
    def tell_step(step: int, steps: int, loss: float) -> None:
        observer.stage(f"training the {style} adapter: step {step} of {steps}, loss {loss:.3f}")

    observer.stage(f"training the {style} adapter")
    training = train_adapter(style, out / f"{style}-{seed}", seed=seed, on_step=tell_step)
    began = time.monotonic()
    path = out / f"gate-{style}-{seed}.yaml"
    write_gate(path, training.adapter, training.data, goldensets=assets.shipped("goldensets"))
    result = run_gate(load_gate(path), observer)
    return Chapter(style, result, training.seconds, time.monotonic() - began)
