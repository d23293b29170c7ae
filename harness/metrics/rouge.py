"""ROUGE F-measure of one output against the best-fitting target (Lin 2004), by Google's rouge_score.

Bounds 0 to 1, higher is better, chance 0. rouge_score keeps the letters a to z and digits only: for text in another
script there is nothing to compare, and the score is failed rather than 0; use chrf there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from harness.metrics._options import MetricOptions
from harness.metrics._text import answer_and_targets
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"


class Options(MetricOptions):
    """Options of `rouge`; the metric is called what `type` says unless it is given a name."""

    type: Literal["rouge1", "rouge2", "rougeL"] = Field("rougeL", description="words, pairs of words, longest sequence")
    stemmer: bool = Field(False, description="compare stems of English words (Porter)")


class Rouge:
    """See the module."""

    def __init__(self, options: Options) -> None:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        self._type = options.type
        self._tokenizer = DefaultTokenizer(options.stemmer)
        self._scorer = RougeScorer([options.type], tokenizer=self._tokenizer)
        self.spec = MetricSpec(options.named(options.type))

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """The best F-measure over all targets; failed when a target is missing or too short to be compared."""
        asked = answer_and_targets(sample, outputs)
        if isinstance(asked, Score):
            return asked
        text, targets = asked
        needed = 2 if self._type == "rouge2" else 1
        if any(len(self._tokenizer.tokenize(t)) < needed for t in targets):
            return Score.failed(f"a target of sample {sample.id!r} has fewer than {needed} words for ROUGE")
        return Score.of(max(self._scorer.score(t, text)[self._type].fmeasure for t in targets))


def build(options: Options) -> Rouge:
    """The metric; needs rouge_score."""
    return Rouge(options)
