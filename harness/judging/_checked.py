"""What is decided before any judge is asked: two outputs that are the same text, and a rubric's deterministic checks"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from harness.judging import checks
from harness.judging.kinds import remarks
from harness.judging.records import Case, Judge, Judgement, PairCase
from harness.judging.rubric import Rubric

Asked = TypeVar("Asked")


class CheckedJudge:
    """A judge that is asked only what is left to ask; see `harness.judging.records.Judge`."""

    def __init__(self, judge: Judge, rubric: Rubric) -> None:
        """Take `judge` over: `close` closes it."""
        self._judge, self._rubric = judge, rubric
        self.name, self.fingerprint = judge.name, judge.fingerprint
        self.bounds, self.pairwise = judge.bounds, judge.pairwise

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        """See `Judge.grade`."""
        return _ask_the_rest(cases, lambda case: checks.unasked(self._rubric, case), self._judge.grade)

    def compare(self, pairs: Sequence[PairCase]) -> list[Judgement]:
        """See `Judge.compare`."""
        return _ask_the_rest(pairs, self._unasked_pair, self._judge.compare)

    def describe(self) -> dict[str, Any]:
        """See `Judge.describe`."""
        return self._judge.describe()

    def remarks(self) -> Sequence[str]:
        """See `harness.judging.kinds.remarks`."""
        return remarks(self._judge)

    def close(self) -> None:
        """Close the judge."""
        self._judge.close()

    def _unasked_pair(self, pair: PairCase) -> Judgement | None:
        if (pair.first.output, pair.first.answers) == (pair.second.output, pair.second.answers):
            return Judgement("scored", 0.0, "both outputs are the same text", details={"same": True})
        return checks.unasked_pair(self._rubric, pair)


def _ask_the_rest(
    asked: Sequence[Asked],
    unasked: Callable[[Asked], Judgement | None],
    ask: Callable[[Sequence[Asked]], list[Judgement]],
) -> list[Judgement]:
    found = [unasked(item) for item in asked]
    rest = [item for item, judgement in zip(asked, found, strict=True) if judgement is None]
    judged = iter(ask(rest) if rest else [])
    return [next(judged) if judgement is None else judgement for judgement in found]
