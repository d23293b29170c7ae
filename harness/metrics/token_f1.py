"""Token F1: harmonic mean of the precision and recall of the output's words against the best-fitting target.

Bounds 0 to 1, higher is better, chance 0. As in the SQuAD 1.1 evaluation script (Rajpurkar et al. 2016): words are
what white space separates after normalisation, and repeated words count as often as they occur.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.metrics._text import TextOptions, answer_and_targets, nothing_left
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"


class Options(TextOptions):
    """Options of `token_f1`."""


def f1(given: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of two bags of words, 0 to 1; 0 when they share none."""
    shared = (Counter(given) & Counter(expected)).total()
    return 2 * shared / (len(given) + len(expected)) if shared else 0.0


class TokenF1:
    """See the module."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.spec = MetricSpec(options.named("token_f1"))

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """The best F1 over all targets; failed without a target, or when one holds no word."""
        asked = answer_and_targets(sample, outputs)
        if isinstance(asked, Score):
            return asked
        text, targets = asked
        given = self._options.normalised(text).split()
        expected = [self._options.normalised(t).split() for t in targets]
        if not all(expected):
            return nothing_left(sample)
        return Score.of(max(f1(given, words) for words in expected))


def build(options: Options) -> TokenF1:
    """The metric."""
    return TokenF1(options)
