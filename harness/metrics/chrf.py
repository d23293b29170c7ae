"""chrF of one output against its targets, by sacrebleu (Popović 2015; chrF++ with word_order 2), divided by 100.

Bounds 0 to 1 like every metric here, higher is better, chance 0. It compares characters, so it needs no tokeniser and
suits languages that BLEU's tokenisers do not know.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from harness.metrics._options import MetricOptions
from harness.metrics._text import answer_and_targets
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"


class Options(MetricOptions):
    """Options of `chrf`."""

    char_order: int = Field(6, ge=1, le=20, description="longest n-gram of characters")
    word_order: int = Field(0, ge=0, le=4, description="longest n-gram of words; 2 makes it chrF++")
    beta: int = Field(2, ge=1, le=10, description="how many times recall counts as much as precision")
    lowercase: bool = False


class Chrf:
    """See the module."""

    def __init__(self, options: Options) -> None:
        from sacrebleu.metrics import CHRF

        self._chrf = CHRF(**options.model_dump(exclude={"name"}))
        self.spec = MetricSpec(options.named("chrf"))

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """chrF against the best-fitting target; failed without a target, or when one is blank."""
        asked = answer_and_targets(sample, outputs)
        if isinstance(asked, Score):
            return asked
        text, targets = asked
        if not all(t.strip() for t in targets):
            return Score.failed(f"a target of sample {sample.id!r} is blank")
        return Score.of(min(1.0, self._chrf.sentence_score(text, list(targets)).score / 100.0))


def build(options: Options) -> Chrf:
    """The metric; needs sacrebleu."""
    return Chrf(options)
