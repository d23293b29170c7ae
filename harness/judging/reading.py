"""Reading what a judge replied: exactly one JSON object with an allowed verdict, or no judgement.

The rule. The reply, white space at its ends aside, is one JSON object, alone or in one Markdown code fence, with the
rubric's key, at most a `reason` beside it, no key twice, and under the key one of the rubric's verdicts: a whole number
written as one (`4`, not `4.0`, `"4"`, `"4/5"` or `true`), `"A"`, `"B"` or `"tie"`, or `"cannot tell"` where the rubric
lets the judge abstain. Before it may stand what a reasoning model thinks aloud, ended by a single `</think>`. Any other
text around the object makes the reply unreadable, because prose may quote a verdict that the judged text asked for. So
does a reply that was cut off, whatever it holds. An unreadable reply is worth one repair, and is never a score.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from harness.judging._blocks import visible
from harness.judging.records import JudgementState
from harness.judging.rubric import CANNOT_TELL, SIDES, Rubric
from harness.records import Message
from harness.served import FailureKind, Question

_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n(.*)\r?\n[ \t]*```", re.DOTALL)
_THOUGHT_ENDS = "</think>"
_MAX_REPLY = 200_000
_MAX_REASON = 4_000
_MAX_SHOWN = 4_000


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply says. There is a value exactly when the state is `scored`, and a problem exactly when it `failed`.

    `value` is a level of the scale; for a pair −1 where the output shown as A is better, 1 where B is, 0 for a tie.
    `reason` holds the judge's own words, which are untrusted; `problem` says what was wrong, and quotes nothing.
    """

    state: JudgementState
    value: float | None = None
    reason: str = ""
    problem: str = ""
    failure: FailureKind | None = None


class _Unreadable(Exception):
    """The reply is not of the form that was asked for."""


def read(rubric: Rubric, text: str, *, truncated: bool = False) -> Reading:
    """What the reply `text` says by `rubric`; no text makes this raise."""
    if truncated:
        return Reading("failed", problem="the reply was cut off by the limit on tokens", failure="truncated")
    if not text.strip():
        return Reading("failed", problem="the reply is empty", failure="empty")
    try:
        said = _object(text)
        verdict = _verdict(rubric, said)
        reason = _reason(said)
    except _Unreadable as problem:
        return Reading("failed", problem=str(problem), failure="unreadable")
    if verdict == CANNOT_TELL:
        return Reading("abstained", reason=reason or "the judge cannot tell")
    value = (-1.0, 1.0, 0.0)[SIDES.index(verdict)] if isinstance(verdict, str) else float(verdict)
    return Reading("scored", value, reason)


def repair_question(question: Question, reply_text: str, problem: str) -> Question:
    """`question` once more, with the unreadable reply and what was wrong with it; asks for the JSON object alone."""
    shown = visible(reply_text[:_MAX_SHOWN]).strip() or "(nothing)"
    asked = (
        f"That cannot be read: {problem}. Keep your judgement, and write it once more as one JSON object with nothing "
        f"around it, by this JSON schema:\n{json.dumps(question.schema, ensure_ascii=False)}"
    )
    return replace(question, messages=(*question.messages, Message("assistant", shown), Message("user", asked)))


def _object(text: str) -> dict[str, Any]:
    if len(text) > _MAX_REPLY:
        raise _Unreadable(f"the reply is longer than {_MAX_REPLY:,} characters")
    thoughts = text.count(_THOUGHT_ENDS)
    if thoughts > 1:
        raise _Unreadable(f"the reply holds {_THOUGHT_ENDS} more than once")
    answer = text.rpartition(_THOUGHT_ENDS)[2].strip()
    fenced = _FENCE.fullmatch(answer)
    try:
        said = json.loads(fenced[1] if fenced else answer, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _Unreadable(str(error) if isinstance(error, _Twice) else _why_no_json(answer)) from None
    if not isinstance(said, dict):
        raise _Unreadable("the reply is JSON, but no object")
    return said


def _why_no_json(answer: str) -> str:
    if "{" in answer and "}" in answer and not (answer.startswith("{") and answer.endswith("}")):
        return "there is text around the JSON object"
    return "the reply is not one JSON object"


class _Twice(ValueError):
    """A key is given twice."""


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) < len(pairs):
        raise _Twice("a key is given twice")
    return said


def _verdict(rubric: Rubric, said: dict[str, Any]) -> int | str:
    if rubric.key not in said:
        raise _Unreadable(f'the key "{rubric.key}" is missing')
    if said.keys() - {rubric.key, "reason"}:
        raise _Unreadable(f'there are keys besides "reason" and "{rubric.key}"')
    verdict = said[rubric.key]
    for allowed in rubric.verdicts:
        if type(verdict) is type(allowed) and verdict == allowed:
            return allowed
    raise _Unreadable(f'"{rubric.key}" is none of {", ".join(json.dumps(v) for v in rubric.verdicts)}')


def _reason(said: dict[str, Any]) -> str:
    reason = said.get("reason", "")
    if not isinstance(reason, str):
        raise _Unreadable('"reason" is no text')
    return visible(reason[:_MAX_REASON]).strip()
