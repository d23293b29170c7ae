"""The format of a source, told by its columns and stated, and its rows in the normal form.

Foreign formats that are common are converted: a question and its answer under whatever names become a conversation of
two turns where the model has a chat template, and prompt and completion as texts where it has none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

from harness.errors import DataError
from harness.training.data import normal
from harness.training.data.normal import EmptyRow, RowError
from harness.training.data.reading import Origin
from harness.training.objectives import RowKind

Values = Mapping[str, Any]
_HH_TURN = "\n\nAssistant:"  # how HH-RLHF ends a prompt inside `chosen` and `rejected`


@dataclass(frozen=True, slots=True)
class Shape:
    """A set of columns and how a row of them becomes one of `kind`; `foreign` ones are told to the reader."""

    name: str
    kind: RowKind
    needs: frozenset[str]
    convert: Callable[[Values, bool], dict[str, Any]]
    optional: frozenset[str] = frozenset()
    foreign: bool = False

    @property
    def columns(self) -> str:
        """The needed columns in words."""
        return ", ".join(sorted(self.needs))


@functools.lru_cache(maxsize=1024)
def detect(columns: frozenset[str], accepted: frozenset[RowKind]) -> Shape | None:
    """The first known shape that `columns` hold, among those that can be `accepted` if one of them can."""
    fitting = [shape for shape in SHAPES if shape.needs <= columns]
    return next((s for s in fitting if s.kind in accepted), fitting[0] if fitting else None)


class Normaliser:
    """Turns the rows of one source into the normal form; all have to be of the format of the first.

    `chat` says whether the model has a chat template. After the first row `shape` and `conversational` are known;
    `unused` collects the columns that no row kept.
    """

    def __init__(self, accepted: frozenset[RowKind], chat: bool) -> None:
        self._accepted, self._chat = accepted, chat
        self._first: Origin | None = None
        self.shape: Shape | None = None
        self.conversational: bool | None = None
        self.unused: set[str] = set()

    def row(self, origin: Origin, values: Values) -> dict[str, Any]:
        """One row in the normal form.

        Raises:
            EmptyRow: there is nothing in a column that it needs.
            DataError: another format than the first row's, a column is missing, or a value has the wrong type.
        """
        shape = self._shape(origin, values)
        try:
            row = shape.convert(values, self._chat)
        except RowError as error:
            raise DataError(f"{origin}: {error}") from error
        if shape.kind != "prompt":
            self.unused.update(values.keys() - shape.needs - shape.optional)
        self._check_form(origin, row)
        return row

    def _shape(self, origin: Origin, values: Values) -> Shape:
        if self.shape is None:
            self.shape = self._detect(origin, values)
            self._first = origin
        elif detect(frozenset(values), self._accepted) is not self.shape:
            self._refuse_mixture(origin, values)
        return self.shape

    def _detect(self, origin: Origin, values: Values) -> Shape:
        shape = detect(frozenset(values), self._accepted)
        if shape is None:
            raise DataError(
                f"{origin}: no known format has the columns {_listed(values)}; rename them with `columns`, such as "
                f"{{prompt: {next(iter(values), 'question')}}}, or write one of: {_wanted(self._accepted)}"
            )
        if shape.kind not in self._accepted:
            raise DataError(
                f"{origin}: these are {shape.kind} rows ({shape.columns}), and this objective learns from "
                f"{' or '.join(sorted(self._accepted))} rows; rename columns with `columns`, or write one of: "
                f"{_wanted(self._accepted)}"
            )
        return shape

    def _refuse_mixture(self, origin: Origin, values: Values) -> NoReturn:
        assert self.shape is not None  # noqa: S101 - only called once it is known
        missing = ", ".join(sorted(self.shape.needs - values.keys()))
        other = detect(frozenset(values), self._accepted)
        if other is None or other.needs < self.shape.needs:
            raise DataError(
                f"{origin}: column {missing} is missing; {self._first} is of format {self.shape.name} and has it; "
                f"this row has {_listed(values)}"
            )
        raise DataError(
            f"mixed formats: {origin} is of format {other.name} ({other.columns}) and {self._first} of format "
            f"{self.shape.name} ({self.shape.columns}); give each format a source of its own"
        )

    def _check_form(self, origin: Origin, row: Values) -> None:
        found = conversational(row)
        if self.conversational is None:
            self.conversational, self._first = found, origin
        elif found != self.conversational:
            forms = {True: "lists of messages", False: "texts"}
            raise DataError(
                f"mixed formats: {origin} has {forms[found]} where {self._first} has {forms[not found]}; "
                "give each form a source of its own, and write both alike where a stage trains on both"
            )


def conversational(row: Values) -> bool:
    """Whether a normal row holds messages (True) or texts."""
    return isinstance(row.get("prompt", row.get("messages")), list)


def as_messages(row: Values) -> dict[str, Any]:
    """A conversational completion row as one conversation: the same text, with nothing said of where it is split."""
    return {"messages": [*row["prompt"], *row["completion"]]}


# ---------------------------------------------------------------- native rows


def _text(values: Values, _: bool) -> dict[str, Any]:
    return {"text": normal.text(values["text"], "text")}


def _messages(values: Values, _: bool) -> dict[str, Any]:
    return {"messages": normal.answered(normal.turns(values["messages"], "messages"), "messages")}


def _completion(values: Values, _: bool) -> dict[str, Any]:
    prompt = normal.text_or_turns(values["prompt"], "prompt")
    completion = normal.text_or_turns(values["completion"], "completion")
    if isinstance(prompt, list) != isinstance(completion, list):
        raise RowError("one of prompt and completion is a text and the other a list of messages; write both alike")
    if isinstance(completion, list):
        normal.answered(completion, "completion")
    return {"prompt": prompt, "completion": completion}


def _labelled(values: Values, chat: bool) -> dict[str, Any]:
    return {**_completion(values, chat), "label": normal.flag(values["label"], "label")}


def _prompt(values: Values, _: bool) -> dict[str, Any]:
    return {**values, "prompt": normal.text_or_turns(values["prompt"], "prompt")}


def _class(values: Values, _: bool) -> dict[str, Any]:
    return {"text": normal.text(values["text"], "text"), "label": normal.class_name(values["label"], "label")}


def _preference(values: Values, _: bool) -> dict[str, Any]:
    chosen = normal.text_or_turns(values["chosen"], "chosen")
    rejected = normal.text_or_turns(values["rejected"], "rejected")
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise RowError("one of chosen and rejected is a text and the other a list of messages; write both alike")
    given = values.get("prompt")
    prompt = None if given is None else normal.text_or_turns(given, "prompt")
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _preferred_turns(prompt, chosen, rejected)
    if isinstance(prompt, list):
        raise RowError("prompt is a list of messages, and chosen and rejected are texts; write all three alike")
    return _preferred_texts(prompt, str(chosen), str(rejected))


def _preferred_turns(prompt: str | normal.Turns | None, chosen: normal.Turns, rejected: normal.Turns) -> dict[str, Any]:
    """Answers that repeat the prompt, as many data sets have them, lose it."""
    said = normal.shared_turns(chosen, rejected)
    if chosen == rejected:  # the last turns are equal: what comes before them is the prompt
        said = max(0, len(chosen) - 1)
    if prompt is None and not said:
        raise RowError("there is no prompt, and chosen and rejected do not begin with the same message")
    asked = [normal.as_turn("user", prompt)] if isinstance(prompt, str) else prompt
    if said and (asked is None or normal.shared_turns(chosen[:said], asked) == len(asked) or asked == chosen[1:said]):
        asked, chosen, rejected = chosen[:said], chosen[said:], rejected[said:]
    if not chosen or not rejected:
        raise RowError("one of chosen and rejected is only the beginning of the other; take the row out")
    normal.answered(chosen, "chosen")
    normal.answered(rejected, "rejected")
    return {"prompt": asked, "chosen": chosen, "rejected": rejected}


def _preferred_texts(prompt: str | None, chosen: str, rejected: str) -> dict[str, Any]:
    if prompt is not None:
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    end = chosen.rfind(_HH_TURN) + len(_HH_TURN)
    if end < len(_HH_TURN) or chosen[:end] != rejected[:end]:
        raise RowError("column prompt is missing, and chosen and rejected do not begin with the same dialogue")
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}


# ---------------------------------------------------------------- foreign rows


def _sharegpt(values: Values, _: bool) -> dict[str, Any]:
    said = normal.turns(values["conversations"], "conversations")
    return {"messages": normal.answered([*_system(values, "system"), *said], "conversations")}


def _sharegpt_preference(values: Values, _: bool) -> dict[str, Any]:
    said = [*_system(values, "system"), *normal.turns(values["conversations"], "conversations")]
    answers = {}
    for name in ("chosen", "rejected"):
        value = values[name]
        answers[name] = normal.turns(value if isinstance(value, list) else [value], name)
    return {"prompt": said, **answers}


def _asked(question: str, answers: Mapping[str, str], context: str, system: str) -> Callable[..., dict[str, Any]]:
    """A converter of rows of a question and its answers (our column → theirs), with context and system turn if any."""

    def convert(values: Values, chat: bool) -> dict[str, Any]:
        said = normal.text(values[question], question)
        given = normal.optional_text(values.get(context), context) if context else ""
        said = f"{said}\n\n{given}" if given else said
        found = {ours: normal.text(values[theirs], theirs) for ours, theirs in answers.items()}
        before = _system(values, system)
        if not chat:
            said = f"{before[0]['content']}\n\n{said}" if before else said
            return {"prompt": said, **found}
        turns = {ours: [normal.as_turn("assistant", answer)] for ours, answer in found.items()}
        return {"prompt": [*before, normal.as_turn("user", said)], **turns}

    return convert


def _system(values: Values, column: str) -> normal.Turns:
    said = normal.optional_text(values.get(column), column) if column else ""
    return [normal.as_turn("system", said)] if said else []


def _pair(name: str, question: str, answer: str, *, context: str = "", system: str = "") -> Shape:
    convert = _asked(question, {"completion": answer}, context, system)
    return _foreign(name, "completion", (question, answer), convert, (context, system))


def _foreign(
    name: str, kind: RowKind, needs: Iterable[str], convert: Callable[..., dict[str, Any]], optional: Iterable[str]
) -> Shape:
    return Shape(name, kind, frozenset(needs), convert, frozenset(optional) - {""}, foreign=True)


_BOTH = {"chosen": "chosen", "rejected": "rejected"}
SHAPES: tuple[Shape, ...] = (
    _foreign("ShareGPT with preferences", "preference", ("conversations", "chosen", "rejected"), _sharegpt_preference,
             ("system",)),
    Shape("preference", "preference", frozenset({"prompt", "chosen", "rejected"}), _preference),
    _foreign("question with preferences", "preference", ("question", "chosen", "rejected"),
             _asked("question", _BOTH, "", "system"), ("system",)),
    Shape("preference without prompt", "preference", frozenset({"chosen", "rejected"}), _preference,
          frozenset({"prompt"}), foreign=True),
    Shape("labelled", "labelled", frozenset({"prompt", "completion", "label"}), _labelled),
    Shape("completion", "completion", frozenset({"prompt", "completion"}), _completion),
    Shape("messages", "messages", frozenset({"messages"}), _messages),
    _foreign("ShareGPT", "messages", ("conversations",), _sharegpt, ("system",)),
    _pair("Alpaca", "instruction", "output", context="input", system="system"),
    _pair("instruction and response", "instruction", "response", context="context", system="system"),
    _pair("question and answer", "question", "answer", context="context", system="system_prompt"),
    _pair("question and response", "question", "response", system="system_prompt"),
    _pair("prompt and response", "prompt", "response", system="system_prompt"),
    _pair("query and response", "query", "response"),
    _pair("query and answer", "query", "answer"),
    _pair("input and output", "input", "output"),
    _pair("input and target", "input", "target"),
    _pair("inputs and targets", "inputs", "targets"),
    _pair("source and target", "source", "target"),
    Shape("class", "class", frozenset({"text", "label"}), _class),
    Shape("text", "text", frozenset({"text"}), _text),
    Shape("prompt", "prompt", frozenset({"prompt"}), _prompt),
)  # fmt: skip


def _listed(values: Values) -> str:
    return ", ".join(values) or "none at all"


def _wanted(accepted: Collection[RowKind]) -> str:
    native = {s.kind: s.columns for s in SHAPES if not s.foreign}
    return "; ".join(f"{kind} ({native[kind]})" for kind in get_args(RowKind) if kind in accepted)


__all__ = ["SHAPES", "EmptyRow", "Normaliser", "Shape", "as_messages", "conversational", "detect"]
