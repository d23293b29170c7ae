"""Regular expression: whether the output matches a pattern, or what a group of the pattern extracts is a target.

Bounds 0 to 1, higher is better, chance 0. The pattern comes from a card and the text from a model, and together they
can make a backtracking matcher run for ever: matching stops after `timeout_s`, and the score is then failed, because
nothing was found out. Syntax is that of the `regex` package, a superset of Python's `re`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from harness.errors import ConfigError
from harness.metrics._options import MetricOptions
from harness.metrics._patterns import compile_bounded
from harness.metrics._text import answer, references
from harness.records import MetricSpec, Output, Sample, Score

SCORES = "text"


class Options(MetricOptions):
    """Options of `regex`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"pattern": r"\d+"}]})

    pattern: str = Field(min_length=1)
    mode: Literal["search", "fullmatch"] = Field("search", description="anywhere, or the whole output")
    group: int | str | None = Field(None, description="compare what this group holds with the targets")
    last: bool = Field(False, description="with search: the last match instead of the first")
    ignore_case: bool = False
    timeout_s: float = Field(1.0, gt=0, le=60, description="seconds after which one match is given up")

    @field_validator("group", mode="before")
    @classmethod
    def _no_bool(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("a group is a number or a name")
        return value


class Regex:
    """See the module."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.spec = MetricSpec(options.named("regex"))
        self._pattern = compile_bounded(options.pattern, ignore_case=options.ignore_case)
        if options.group is not None and options.group not in self._groups():
            raise ConfigError(f"regex: {options.pattern!r} has no group {options.group!r}")

    def score(self, sample: Sample, outputs: Sequence[Output]) -> Score:
        """1 for a match (with `group`: for an extracted target), else 0; failed when matching takes too long."""
        text = answer(outputs)
        if isinstance(text, Score):
            return text
        targets = references(sample) if self._options.group is not None else ()
        if isinstance(targets, Score):
            return targets
        try:
            match = self._match(text)
        except TimeoutError:
            return Score.failed(f"matching took longer than {self._options.timeout_s:g} s; simplify the pattern")
        if match is None or self._options.group is None:
            return Score.of(match is not None)
        found = match.group(self._options.group)
        return Score.of(found is not None and found.strip() in {t.strip() for t in targets})

    def _match(self, text: str) -> Any:
        limit = self._options.timeout_s
        if self._options.mode == "fullmatch":
            return self._pattern.fullmatch(text, timeout=limit)
        if not self._options.last:
            return self._pattern.search(text, timeout=limit)
        match = None
        for match in self._pattern.finditer(text, timeout=limit):  # noqa: B007 - the last one is wanted
            pass
        return match

    def _groups(self) -> set[int | str]:
        return {*range(self._pattern.groups + 1), *self._pattern.groupindex}


def build(options: Options) -> Regex:
    """The metric.

    Raises:
        ConfigError: the pattern is none, or has no such group.
    """
    return Regex(options)
