"""Multiple choice: whether the choice that the model finds most likely is a right one.

Bounds 0 to 1, higher is better; guessing earns one over the number of choices, which the suite works out from its
samples. Log-likelihoods (nats) are compared as they are, or per character, byte or token of the choice: `none` is
lm-eval's `acc`, `characters` its `acc_norm`, `bytes` its `acc_bytes`. Of equal ones the first choice wins, as with
numpy's argmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from harness.metrics._options import MetricOptions
from harness.metrics._text import references
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "choices"


class Options(MetricOptions):
    """Options of `multiple_choice`."""

    normalise: Literal["none", "characters", "bytes", "tokens"] = Field(
        "none", description="divide each log-likelihood by the length of its choice"
    )


class MultipleChoice:
    """See the module."""

    def __init__(self, options: Options) -> None:
        self._normalise = options.normalise
        self.spec = MetricSpec(options.named("multiple_choice"))

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """1 when the most likely choice is among the targets, else 0; failed when a likelihood is missing."""
        targets = references(sample)
        if isinstance(targets, Score):
            return targets
        if len(sample.choices) < 2 or len(outputs) != len(sample.choices):
            return Score.failed(f"expected a likelihood for each of the {len(sample.choices)} choices (at least two)")
        if not set(targets) <= set(sample.choices):
            return Score.failed(f"a target of sample {sample.id!r} is none of its choices")
        values = [self._value(c, o) for c, o in zip(sample.choices, outputs, strict=True)]
        known = [v for v in values if v is not None]
        if len(known) < len(values):
            return Score.failed("a choice has no log-likelihood, or no length to divide it by")
        return Score.of(sample.choices[known.index(max(known))] in targets)

    def _value(self, choice: str, output: Output) -> float | None:
        length = {
            "none": 1, "characters": len(choice), "bytes": len(choice.encode("utf-8", "surrogatepass")),
            "tokens": output.tokens,
        }[self._normalise]  # fmt: skip
        return output.logprob / length if output.logprob is not None and length > 0 else None


def build(options: Options) -> MultipleChoice:
    """The metric."""
    return MultipleChoice(options)
