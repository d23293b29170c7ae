"""What a rubric's prompt may show of a case: fields by name, and where a sample has them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.errors import DataError
from harness.judging.records import Case
from harness.records import Message, Output, Sample

FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""How a field is spelled; it is also a title in the question, so nothing else may be in it."""

OUTPUTS: Mapping[str, tuple[str, ...]] = {"pointwise": ("output",), "pairwise": ("output_a", "output_b")}
"""The fields that hold what is judged, by mode; a prompt has to show them all."""

JUDGED = "answer"
"""What a question calls an output; therefore no field may be called so."""

_MAX_PARTS = 64
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def _reference(sample: Sample) -> Any:
    return sample.data.get("reference") or list(sample.targets)


_FROM_SAMPLE: Mapping[str, Callable[[Sample], Any]] = {
    "prompt": lambda sample: sample.prompt,
    "conversation": lambda sample: sample.messages or sample.prompt,
    "reference": _reference,
    "choices": lambda sample: list(sample.choices),
    "answers": lambda sample: True,  # a matter of the case: there may be no earlier answer, which is then said
}
WELL_KNOWN = (*_FROM_SAMPLE, "context", "tools", "calls")
"""Fields with a meaning of their own; any other is a key of the sample's `data`."""


def value(sample: Sample, field: str) -> Any:
    """What the sample has under `field`; None where it has nothing, or nothing in it."""
    found = _FROM_SAMPLE[field](sample) if field in _FROM_SAMPLE else sample.data.get(field)
    empty = found is None or (field != "calls" and found in ("", [], (), {}))  # no call expected is something expected
    return None if empty else found


def place(field: str) -> str:
    """Where a sample keeps `field`, for an error."""
    places = {"prompt": "its prompt", "choices": "its choices", "reference": "its data or its targets"}
    return places.get(field, f"{field!r} of its data")


def texts(case: Case, field: str, *, answers: bool = True) -> list[tuple[str, str]]:
    """(title, text) of everything that stands under `field`, in order; empty where there is nothing.

    A conversation is one text a turn, with the case's earlier answers (unless `answers` is false) behind the turns that
    they answered; a list of texts is one text an item; anything else that is no text is canonical JSON.

    Raises:
        DataError: the conversation has no place for the earlier answers, or a value is no JSON.
    """
    if field == "conversation":
        parts = _conversation(case, case.answers if answers else ())
    elif field == "answers":
        parts = [(f"earlier answer {i}", text) for i, text in enumerate(case.answers, 1)]
    else:
        parts = _of_value(case.sample, field)
    if len(parts) > _MAX_PARTS:
        return [(field, canonical(parts))]
    return parts


def canonical(value: Any) -> str:
    """`value` as JSON with sorted keys and every character as itself."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _of_value(sample: Sample, field: str) -> list[tuple[str, str]]:
    found = value(sample, field)
    if found is None:
        return []
    if isinstance(found, str):
        return [(field, found)]
    if isinstance(found, Sequence) and found and all(isinstance(item, str) for item in found):
        return [(f"{field} {i}" if len(found) > 1 else field, item) for i, item in enumerate(found, 1)]
    try:
        return [(field, canonical(found))]
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"sample {sample.id!r}: {field} cannot be shown as JSON: {error}") from error


def turns(case: Case, answers: Sequence[str]) -> list[tuple[str, str]]:
    """(role, content) of a conversation up to what the output answers, with earlier `answers` where they were given.

    Raises:
        DataError: the conversation has no place for them.
    """
    found = [(m.role, _said(m)) for m in case.sample.messages] or [("user", case.sample.prompt)]
    # The last turn is the one that the output answers; an earlier turn of the user that nobody answers is open.
    open_turns = [i for i, (a, b) in enumerate(itertools.pairwise(found)) if a[0] == b[0] == "user"]
    if answers and len(answers) != len(open_turns):
        raise DataError(
            f"sample {case.sample.id!r}: {len(answers)} earlier answers, but {len(open_turns)} turns of the user wait "
            "for one"
        )
    for index, answer in reversed(list(zip(open_turns, answers, strict=bool(answers)))):
        found.insert(index + 1, ("assistant", answer))
    return found


def _said(message: Message) -> str:
    """What a turn said, with the tools that it called: a judge has to see why a result of one comes next."""
    if not message.tool_calls:
        return message.content
    return Output(text=message.content, tool_calls=message.tool_calls).spoken or ""


def _conversation(case: Case, answers: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"turn {i} {_role(role)}", content) for i, (role, content) in enumerate(turns(case, answers), 1)]


def _role(role: str) -> str:
    """A role as part of a title, where nothing that came from outside may stand as it is."""
    return role if role in _ROLES else "other"
