"""How text is made comparable before two strings are held against each other.

The full normalisation is that of the SQuAD 1.1 evaluation script (Rajpurkar et al. 2016): lower case, no ASCII
punctuation, no English articles, single spaces, in this order. It is made for English short answers: "-5" becomes "5"
and "3.5" becomes "35", so numbers belong to the `numeric` metric.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from pydantic import Field, model_validator

from harness.metrics._options import MetricOptions
from harness.records import Output, Sample, Score

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextOptions(MetricOptions):
    """Which differences do not count."""

    strict: bool = Field(False, description="every character counts; none of the others may be set")
    ignore_case: bool = True
    ignore_punctuation: bool = True
    ignore_articles: bool = Field(True, description="the words a, an and the")
    ignore_whitespace: bool = Field(True, description="amount and kind of white space, and that at the ends")

    @model_validator(mode="after")
    def _strict_alone(self) -> TextOptions:
        others = sorted(f for f in self.model_fields_set if f.startswith("ignore_") and self.__dict__[f])
        if self.strict and others:
            raise ValueError(f"strict means that every character counts; leave out {', '.join(others)}")
        return self

    def normalised(self, text: str) -> str:
        """`text` without the differences that do not count."""
        if self.strict:
            return text
        if self.ignore_case:
            text = text.lower()
        if self.ignore_punctuation:
            text = text.translate(_NO_PUNCTUATION)
        if self.ignore_articles:
            text = _ARTICLES.sub(" ", text)
        return " ".join(text.split()) if self.ignore_whitespace else text


def answer(outputs: Sequence[Output]) -> str | Score:
    """The one generated text, or the failed score that says why there is none."""
    said = outputs[0].spoken if len(outputs) == 1 else None
    return Score.failed(f"expected one generated text, found {len(outputs)} outputs") if said is None else said


def references(sample: Sample) -> tuple[str, ...] | Score:
    """The sample's targets, or the failed score that says that there are none."""
    if not sample.targets:
        return Score.failed(f"sample {sample.id!r} has no target")
    return sample.targets


def answer_and_targets(sample: Sample, outputs: Sequence[Output]) -> tuple[str, tuple[str, ...]] | Score:
    """Both of the above, or the first failed score."""
    text, targets = answer(outputs), references(sample)
    if isinstance(text, Score):
        return text
    return targets if isinstance(targets, Score) else (text, targets)


def nothing_left(sample: Sample) -> Score:
    """The failed score for a target that normalisation leaves empty: any empty answer would match it."""
    return Score.failed(f"a target of sample {sample.id!r} is empty after normalisation; use strict")
