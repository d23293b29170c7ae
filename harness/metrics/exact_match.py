"""Exact match: whether the output equals one of the targets, up to the differences that do not count.

Bounds 0 to 1, higher is better, chance 0. Default normalisation: SQuAD 1.1. With `strict: true` it is lm-eval's
`exact_match` without options.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics._text import TextOptions, answer_and_targets, nothing_left
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"


class Options(TextOptions):
    """Options of `exact_match`."""


class ExactMatch:
    """See the module."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.spec = MetricSpec(options.named("exact_match"))

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """1 for a match with any target, else 0; failed without a target."""
        asked = answer_and_targets(sample, outputs)
        if isinstance(asked, Score):
            return asked
        text, targets = asked
        expected = {self._options.normalised(t) for t in targets}
        if "" in expected and not self._options.strict:
            return nothing_left(sample)
        return Score.of(self._options.normalised(text) in expected)


def build(options: Options) -> ExactMatch:
    """The metric."""
    return ExactMatch(options)
