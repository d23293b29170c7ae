"""Numeric: whether the number in the output equals the number in a target, within a tolerance.

Bounds 0 to 1, higher is better, chance 0. The number is the first one after the last `####` (the answer mark of
GSM8K, Cobbe et al. 2021), or, where there is no mark, the last number of the text. Thousands may be separated by
commas in groups of three; a currency sign may stand before or after the minus; the typographic minus is one. A hyphen
directly after a letter, digit or bracket is no minus. Fractions are read as two numbers. An output without a number is
a wrong answer; a target without one is a failed score.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from pydantic import Field

from harness.metrics._options import MetricOptions
from harness.metrics._text import answer_and_targets
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"

_MARK = "####"
_CURRENCY = "[$€£¥]?"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]])[-−+]\s?)?{_CURRENCY}(?P<inner>(?<=[$€£¥])[-−])?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<![\w.])\.\d+)"
    r"(?P<exponent>[eE][-+]?\d{1,3}(?![\w]))?",
    re.ASCII,
)


class Options(MetricOptions):
    """Options of `numeric`. The larger of the two tolerances counts; with neither the numbers must be equal."""

    absolute: float = Field(0.0, ge=0, allow_inf_nan=False, description="largest difference that still counts as equal")
    relative: float = Field(0.0, ge=0, lt=1, description="the same, as a share of the target")


def number_in(text: str) -> Decimal | None:
    """The number that `text` gives as its answer, by the rule of the module; None when it holds none."""
    _, mark, after = text.rpartition(_MARK)
    found = list(_NUMBER.finditer(after if mark else text))
    if not found:
        return None
    match = found[0] if mark else found[-1]
    sign = (match["sign"] or "").strip() or match["inner"] or ""
    digits = match["digits"].replace(",", "") + (match["exponent"] or "")
    return Decimal(("-" if sign in ("-", "−") else "") + digits)


class Numeric:
    """See the module."""

    def __init__(self, options: Options) -> None:
        self._absolute, self._relative = Decimal(repr(options.absolute)), Decimal(repr(options.relative))
        self.spec = MetricSpec(options.named("numeric"))

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """1 when the output's number is a target's, else 0; failed without a target that holds a number."""
        asked = answer_and_targets(sample, outputs)
        if isinstance(asked, Score):
            return asked
        text, targets = asked
        expected = [number_in(t) for t in targets]
        given = number_in(text)
        if None in expected:
            return Score.failed(f"a target of sample {sample.id!r} holds no number")
        return Score.of(given is not None and any(self._equal(given, e) for e in expected if e is not None))

    def _equal(self, given: Decimal, expected: Decimal) -> bool:
        return given == expected or abs(given - expected) <= max(self._absolute, self._relative * abs(expected))


def build(options: Options) -> Numeric:
    """The metric."""
    return Numeric(options)
