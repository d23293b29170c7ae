"""What is decided before any judge is asked: two outputs that are the same text, and a rubric's deterministic checks

A judge can be talked into a good word for an answer that is no JSON; a check cannot. So a check that fails gives the worst
level (in a pair, the other side wins), one that is declared to settle the matter gives the best, and only what is left is
put to the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from harness.judging.kinds import _pairs, remarks
from harness.judging.records import Case, Judge, Judgement, PairCase
from harness.judging.rubric import Check, Rubric
from harness.records import Output, Score

Settled = Literal["worst", "best"]


class CheckedJudge:
    """A judge behind the checks of its rubric; see `harness.judging.records.Judge`."""

    def __init__(self, judge: Judge, rubric: Rubric) -> None:
        """Take `judge` over."""
        self._judge, self._rubric = judge, rubric
        self.name, self.fingerprint = judge.name, judge.fingerprint
        self.bounds, self.pairwise = judge.bounds, judge.pairwise

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        """See `Judge.grade`."""
        return _ask_the_rest(cases, self._settled, self._judge.grade)

    def compare(self, pairs: Sequence[PairCase]) -> list[Judgement]:
        """See `Judge.compare`."""
        return _ask_the_rest(pairs, self._settled_pair, self._judge.compare)

    def describe(self) -> dict[str, Any]:
        """See `Judge.describe`."""
        return self._judge.describe()

    def remarks(self) -> Sequence[str]:
        """What the judge has to tell of how it was asked."""
        return remarks(self._judge)

    def close(self) -> None:
        """Close the judge."""
        self._judge.close()

    def _settled(self, case: Case) -> Judgement | None:
        found = _checked(self._rubric, case)
        if found is None or isinstance(found, Judgement):
            return found
        settled, reason = found
        value = self._rubric.bounds[0 if settled == "worst" else 1]
        return Judgement("scored", value, reason, details={"checked": True})

    def _settled_pair(self, pair: PairCase) -> Judgement | None:
        if (pair.first.output, pair.first.answers) == (pair.second.output, pair.second.answers):
            return Judgement("scored", _pairs.TIE, "both outputs are the same text", details={"same": True})
        sides = [_checked(self._rubric, case) for case in (pair.first, pair.second)]
        for side in sides:
            if isinstance(side, Judgement):
                return side
        lost = [side for side in sides if side is not None]
        if not lost:
            return None
        value = _pairs.TIE if len(lost) == 2 else _pairs.SECOND if sides[0] is not None else _pairs.FIRST
        return Judgement("scored", value, "; ".join(dict.fromkeys(said[1] for said in lost if isinstance(said, tuple))),
                         details={"checked": True})  # fmt: skip


def _ask_the_rest(
    asked: Sequence[Any], settle: Callable[[Any], Judgement | None], ask: Callable[[Sequence[Any]], list[Judgement]]
) -> list[Judgement]:
    settled = [settle(item) for item in asked]
    rest = [item for item, found in zip(asked, settled, strict=True) if found is None]
    judged = iter(ask(rest) if rest else [])
    return [next(judged) if found is None else found for found in settled]


def _checked(rubric: Rubric, case: Case) -> tuple[Settled, str] | Judgement | None:
    """What the first check that settles the matter says; a failed judgement where one cannot be made; None: ask."""
    for check in rubric.checks:
        spec = check.metric.spec
        score = spec.checked(check.metric.score(case.sample, [Output(text=case.output)]))
        if score.state == "failed":
            return Judgement("failed", None, f"check {spec.name} cannot be made: {score.reason}", "rejected")
        if score.state == "scored":
            passed = _passes(check, score)
            if not passed and check.section.on_fail == "worst":
                return "worst", f"check {spec.name} failed ({score.value:g}); no judge was asked"
            if passed and check.section.on_pass == "best":
                return "best", f"check {spec.name} passed ({score.value:g}); no judge was asked"
    return None


def _passes(check: Check, score: Score) -> bool:
    spec, needed = check.metric.spec, check.section.at_least
    assert score.value is not None  # it is scored
    if spec.higher_is_better:
        return score.value >= (spec.bounds[1] if needed is None else needed)
    return score.value <= (spec.bounds[0] if needed is None else needed)
