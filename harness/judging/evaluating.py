"""One output, one judge, one call: `harness.judging.evaluate`, for a notebook or a script"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UsageError, nearest
from harness.judging import _fields
from harness.judging.building import JudgeSection, build_judge
from harness.judging.kinds import JudgeContext
from harness.judging.records import Case, Judge, Judgement, JudgementState, PairCase, Usage
from harness.judging.rubric import Rubric, load_rubric, require
from harness.records import Message, Sample
from harness.served import FailureKind
from harness.served.client import Budget


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a judge said of one output, or of one against another.

    `value` is there exactly when `state` is `scored`: a level of the rubric's scale, `bounds` its ends; for a pair 1
    where `output` is better, −1 where `against` is, 0 for a tie or where the two orders disagree. `reason` holds the
    judge's own words, which are untrusted, or why there is no value. `cost` is in US dollars; None where no price is
    known.
    """

    judge: str
    state: JudgementState
    value: float | None
    reason: str
    failure: FailureKind | None
    bounds: tuple[float, float]
    usage: Usage = field(default_factory=Usage)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> float | None:
        """US dollars that were spent on it."""
        return self.usage.cost

    def __bool__(self) -> bool:
        """Refused: a failed evaluation is neither true nor false, and a low level is not false."""
        raise TypeError("an evaluation has no truth value; look at its state and its value")


def evaluate(
    judge: str,
    *,
    output: str,
    against: str | None = None,
    prompt: str | None = None,
    messages: Sequence[Mapping[str, str]] = (),
    answers: Sequence[str] = (),
    reference: str | Sequence[str] | None = None,
    model: str | None = None,
    api_base: str | None = None,
    kind: str = "served",
    options: Mapping[str, Any] | None = None,
    judges: Path | str | None = None,
    store: Path | str | None = None,
    budget: Budget | None = None,
    **fields: Any,
) -> Evaluation:
    """Let a judge grade an output, or compare it with another where the judge is pairwise.

        evaluate("faithfulness", output="…", context="…", model="openai/NAME", api_base="http://127.0.0.1:8000/v1")
        evaluate("preference", output="…", against="…", prompt="…", model="openai/NAME")

    Also works where an event loop is running, as in a notebook, and then blocks it until the judge has answered.

    Args:
        judge: name of a rubric: `judges/<name>.yaml` of the project around the current folder, or one that ships with
            the package.
        output: what is judged.
        against: what it is compared with, for a pairwise judge only.
        prompt: what the output answers.
        messages: the conversation instead, each with role and content; its last turn is the one that `output` answers.
        answers: earlier answers in it, oldest first, where its turns are the user's alone.
        reference: one right answer, or several.
        model: litellm's name of the judging model, or a folder or hub name for the kinds that load one.
        api_base: URL of a server that speaks OpenAI's API.
        kind: kind of judge; see `harness.judging.kinds`.
        options: further options of that kind: `api_key_env`, `timeout`, `retries`, `prices` …
        judges: folder of rubrics, instead of the one that is found.
        store: file that remembers replies, so that the same question is not paid for twice.
        budget: what may be spent; may be shared by several calls.
        fields: what else the rubric shows: `context`, `tools`, `calls` …, by name.

    Raises:
        ConfigError: no such judge (the nearest is named), a wrong option, or the variable of a key is not set.
        DataError: a field that the rubric shows was not given.
        UsageError: a field that the rubric does not know, or `against` missing or out of place.
        PluginError: a library is not installed; the message names the extra.
    """
    rubric = load_rubric(judge, None if judges is None else Path(judges))
    _fit(rubric, against, fields)
    sample = _sample(prompt, messages, reference, fields)
    require(rubric, [sample])
    given = {"model": model, "api_base": api_base}
    section = JudgeSection(kind=kind, **{**{k: v for k, v in given.items() if v is not None}, **(options or {})})
    context = JudgeContext(Path.cwd(), None if store is None else Path(store), budget)
    cases = [Case(sample, text, tuple(answers)) for text in ([output] if against is None else [against, output])]

    built = build_judge(section, rubric, context, f"judge {judge!r}")
    try:
        return _evaluation(judge, built, _asked(built, cases))
    finally:
        built.close()


def _fit(rubric: Rubric, against: str | None, fields: Mapping[str, Any]) -> None:
    if rubric.pairwise and against is None:
        raise UsageError(f"judge {rubric.name!r} compares two outputs: give the other one as against=…")
    if not rubric.pairwise and against is not None:
        raise UsageError(f"judge {rubric.name!r} grades one output and compares none; leave against out")
    known = {*rubric.file.sees, *_fields.WELL_KNOWN}
    for name in fields:
        if name not in known:
            raise UsageError(f"judge {rubric.name!r} shows no field {name!r}: {nearest(name, known)}")


def _sample(
    prompt: str | None,
    messages: Sequence[Mapping[str, str]],
    reference: str | Sequence[str] | None,
    fields: Mapping[str, Any],
) -> Sample:
    targets = () if reference is None else (reference,) if isinstance(reference, str) else tuple(reference)
    try:
        turns = tuple(Message(m["role"], m["content"]) for m in messages)
    except (KeyError, TypeError) as error:
        raise UsageError("messages: each is a mapping with role and content") from error
    # Whoever gave a conversation has given the prompt as well: its last turn.
    asked = prompt if prompt is not None else turns[-1].content if turns else ""
    return Sample("the one given", asked, targets, messages=turns, data=dict(fields))


def _asked(judge: Judge, cases: Sequence[Case]) -> Judgement:
    if judge.pairwise:
        return judge.compare([PairCase(cases[0], cases[1])])[0]
    return judge.grade(cases)[0]


def _evaluation(name: str, judge: Judge, said: Judgement) -> Evaluation:
    return Evaluation(
        name, said.state, said.value, said.reason, said.failure, judge.bounds, said.usage, dict(said.details)
    )
