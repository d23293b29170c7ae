"""Deterministic checks of a rubric, made before a judge is asked: what they decide, nobody is asked about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from harness.judging.records import Case, Judgement, PairCase
from harness.judging.rubric import Check, Rubric
from harness.records import Output, Score

Result = Literal["passed", "failed"] | None


def unasked(rubric: Rubric, case: Case) -> Judgement | None:
    """The judgement that the checks of a pointwise rubric give by themselves; None where the judge has to be asked.

    The first check that decides does. A check that could not be made makes the judgement a failure: without it, a judge
    would be asked about outputs that are not for it to judge.
    """
    for check, score in _scored(rubric, case):
        if score.state == "failed":
            return _not_made(check, score)
        result = _result(check, score)
        if result == "failed" and check.section.if_failed == "worst":
            return _decided(rubric.bounds[0], f"not asked: {_says(check, score)}", check)
        if result == "passed" and check.section.if_passed == "best":
            return _decided(rubric.bounds[1], f"not asked: {_says(check, score)}", check)
    return None


def unasked_pair(rubric: Rubric, pair: PairCase) -> Judgement | None:
    """The same for a pairwise rubric: an output that fails a check loses to one that passes, and ties with its like."""
    for first, second in zip(_scored(rubric, pair.first), _scored(rubric, pair.second), strict=True):
        check = first[0]
        for _, score in (first, second):
            if score.state == "failed":
                return _not_made(check, score)
        lost = [check.section.if_failed == "worst" and _result(*side) == "failed" for side in (first, second)]
        if any(lost):
            said = "; ".join(_says(*side) for side, failed in zip((first, second), lost, strict=True) if failed)
            return _decided(float(lost[0]) - float(lost[1]), f"not asked: {said}", check)
    return None


def _scored(rubric: Rubric, case: Case) -> Iterator[tuple[Check, Score]]:
    for check in rubric.checks:
        score = check.metric.score(case.sample, [Output(text=case.output)])
        yield check, check.metric.spec.checked(score)


def _result(check: Check, score: Score) -> Result:
    """What a score means; None where the metric abstained."""
    if score.value is None:
        return None
    spec = check.metric.spec
    best = spec.bounds[1] if spec.higher_is_better else spec.bounds[0]
    threshold = best if check.section.threshold is None else check.section.threshold
    passed = score.value >= threshold if spec.higher_is_better else score.value <= threshold
    return "passed" if passed else "failed"


def _says(check: Check, score: Score) -> str:
    return f"check {check.metric.spec.name} {_result(check, score)} with {score.value:g}"


def _decided(value: float, reason: str, check: Check) -> Judgement:
    return Judgement("scored", value, reason, details={"check": check.metric.spec.name})


def _not_made(check: Check, score: Score) -> Judgement:
    name = check.metric.spec.name
    reason = f"check {name} could not be made: {score.reason}"
    return Judgement("failed", None, reason, "unreadable", details={"check": name})
