"""BLEU of one output against its targets, by sacrebleu (Post 2018), with effective order, divided by 100.

Bounds 0 to 1 like every metric here, so that one margin means the same everywhere; higher is better, chance 0. This is
the mean of sentence scores, which differs from the corpus score of a paper. Zero counts are smoothed exponentially
(sacrebleu's default).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.metrics._options import MetricOptions
from harness.metrics._text import answer_and_targets
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"


class Options(MetricOptions):
    """Options of `bleu`; tokenisers as sacrebleu names them."""

    tokenize: Literal["13a", "intl", "char", "zh", "none"] = "13a"
    lowercase: bool = False


class Bleu:
    """See the module."""

    def __init__(self, options: Options) -> None:
        from sacrebleu.metrics import BLEU

        self._bleu = BLEU(tokenize=options.tokenize, lowercase=options.lowercase, effective_order=True)
        self.spec = MetricSpec(options.named("bleu"))

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """Sentence BLEU against all targets together; failed without a target, or when one is blank."""
        asked = answer_and_targets(sample, outputs)
        if isinstance(asked, Score):
            return asked
        text, targets = asked
        if not all(t.strip() for t in targets):
            return Score.failed(f"a target of sample {sample.id!r} is blank")
        value = self._bleu.sentence_score(text, list(targets)).score
        return Score.of(min(1.0, value / 100.0))  # sacrebleu's own rounding passes 100 by some 1e-14


def build(options: Options) -> Bleu:
    """The metric; needs sacrebleu."""
    return Bleu(options)
