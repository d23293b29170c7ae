"""Contains: whether the output holds a target (or all of them) somewhere in it.

Bounds 0 to 1, higher is better. Chance is declared 0, but a long enough output contains anything: use it with a
`max_tokens` that suits the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from harness.metrics._options import MetricOptions
from harness.metrics._text import answer_and_targets
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"


class Options(MetricOptions):
    """Options of `contains`."""

    mode: Literal["any", "all"] = Field("any", description="whether one target is enough or all must be there")
    ignore_case: bool = True
    whole_words: bool = Field(True, description="'art' is not found in 'start'")


class Contains:
    """See the module."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.spec = MetricSpec(options.named("contains"))

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """1 when the targets are in the output, else 0; failed without a target, or when one is blank."""
        asked = answer_and_targets(sample, outputs)
        if isinstance(asked, Score):
            return asked
        text, targets = asked
        if not all(t.strip() for t in targets):
            return Score.failed(f"a target of sample {sample.id!r} is blank, and every output contains that")
        found = [self._holds(text, target) for target in targets]
        return Score.of(all(found) if self._options.mode == "all" else any(found))

    def _holds(self, text: str, target: str) -> bool:
        words = " ".join(target.split())
        if self._options.ignore_case:
            text, words = text.casefold(), words.casefold()
        text = " ".join(text.split())
        if not self._options.whole_words:
            return words in text
        # \b would need a word character beside it, and a target may begin or end with a sign.
        return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def build(options: Options) -> Contains:
    """The metric."""
    return Contains(options)
