"""Metrics: pure functions with a direction, bounds and a chance level. One module each.

A metric plugin's `build(options)` returns a `Metric`. `SCORES` of the module says what the metric reads: "text" for
the generated text, "choices" for the log-likelihoods of the sample's choices in their order.

Two more constants are there for the metrics that need them. `RUNS_CODE = True`: scoring runs, in the sandbox, what the
model wrote; it must be allowed by name, and suites score its samples in parallel. `LOADS_CODE = True`: building the
metric imports code from outside the package; only the user's own gate.yaml may name it, a golden set's card may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from harness.records import MetricSpec, Output, Sample, Score


class Metric(Protocol):
    """Scores one side of one sample."""

    spec: MetricSpec

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """The score of `outputs` (one for "text", one per choice for "choices"); none of them is a failure.

        What cannot be scored (no target, no number in the target …) is a failed score with the reason; an output
        that is merely wrong is scored.
        """
        ...
