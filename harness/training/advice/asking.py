"""The questions behind a situation: as flags of the command line, and as a short dialogue for those not given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from harness.errors import ConfigError, DataError, at, nearest
from harness.training.advice.machine import Machine, detect, parse_bytes
from harness.training.advice.memory import Device
from harness.training.advice.shapes import ModelShape, guessed, human_count, parse_count, read_shape
from harness.training.advice.situation import Feedback, Need, Priority, Prompting, Serving, Situation, Task

Answers = Mapping[str, Any]


def _always(_: Answers) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to know. `default` is None where it must be said; `applies` looks at the answers before it."""

    key: str
    text: str
    default: Any = None
    choices: tuple[str, ...] = ()
    applies: Callable[[Answers], bool] = _always

    @property
    def flag(self) -> str:
        """The option of the command line that answers it."""
        return f"--{self.key}"

    def parse(self, text: str) -> Any:
        """The answer in `text`; raises ConfigError for anything that is none."""
        if self.choices:
            return _choice(text, self.choices, self.flag)
        if isinstance(self.default, bool):
            return _choice(text, ("yes", "no"), self.flag) == "yes"
        if self.key == "model":
            return _named(text, self.flag)
        return _count(text, self.flag)


def _generates(answers: Answers) -> bool:
    return answers.get("task") == "generation"


QUESTIONS: tuple[Question, ...] = (
    Question("model", "Which model? A folder, the name of a hub repository, or a size such as 7B"),
    Question("task", "What does it put out: text, or one of some classes?", choices=get_args(Task)),
    Question(
        "need",
        "What is missing: a behaviour, a format, facts (knowledge), being preferred, or a lower cost per request?",
        choices=get_args(Need),
    ),
    Question(
        "prompting",
        "Prompting (and retrieval): untried, measured and leaves a gap, or measured and enough?",
        choices=get_args(Prompting),
    ),
    Question("rows", "How many rows with the wanted answer are there?"),
    Question("prompts", "How many further prompts, without an answer?", 0, applies=_generates),
    Question(
        "changing",
        "Do these facts change more often than you would train?",
        False,
        applies=lambda a: a.get("need") == "knowledge",
    ),
    Question(
        "feedback",
        "Have answers been judged: in pairs of a better and a worse one, singly (labels), or not (none)?",
        "none",
        get_args(Feedback),
        _generates,
    ),
    Question(
        "judgements", "How many judgements?", 0, applies=lambda a: a.get("feedback", "none") != "none" and _generates(a)
    ),
    Question("verifiable", "Can a program tell a right answer from a wrong one?", False, applies=_generates),
    Question("teacher", "May a stronger model write answers, or judge them?", False, applies=_generates),
    Question("serving", "Served as: one model, many adapters on one base, or lowest-latency?", "one",
             get_args(Serving)),
    Question("keep", "Must skills that the model has be kept?", True),
    Question("priority", "What comes first: balanced, the best quality, or the smallest change?", "balanced",
             get_args(Priority)),
    Question("length", "Tokens of a long row?", 1024),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settled:
    """A situation, with what was assumed for it in sentences; `model` is what was named, None for a mere size."""

    now: Situation
    assumed: tuple[str, ...]
    model: str | None


def settle(given: Answers, ask: Callable[[str], str] | None) -> Settled:
    """The situation from answers by key, None where not given.

    Where an answer that must be said is missing, every question that applies and was not answered is put by `ask`
    (which returns what was typed); the machine is looked at unless `memory` is given.

    Raises:
        ConfigError: an answer is wrong, or one is missing and nobody can be asked.
    """
    answers = {key: value for key, value in given.items() if value is not None}
    if "rows" not in answers and answers.get("data"):
        answers["rows"] = count_rows(Path(answers["data"]))
    missing = [q.flag for q in QUESTIONS if q.default is None and q.key not in answers and not _known(q, answers)]
    if missing and ask is None:
        raise ConfigError(
            f"missing: {', '.join(missing)} (in a terminal, without --json, harness advise asks for them)"
        )
    assumed = _complete(answers, ask if missing else None)
    model, shape = _model(answers)
    machine = _machine(answers.get("memory"), answers.get("device"))
    if given.get("length") is None and shape.context is not None:  # what was not said is no more than the model reads
        answers["length"] = min(answers["length"], shape.context)
        assumed = [f"--length {answers['length']}" if a.startswith("--length") else a for a in assumed]
    known = {q.key: answers[q.key] for q in QUESTIONS if q.key != "model"}
    return Settled(Situation(shape=shape, machine=machine, **known), tuple(assumed), model)


def _known(question: Question, answers: Answers) -> bool:
    return question.key == "model" and "parameters" in answers


def _complete(answers: dict[str, Any], ask: Callable[[str], str] | None) -> list[str]:
    """Fill in every answer; what was neither given nor asked is told, where it mattered."""
    assumed = []
    for question in QUESTIONS:
        if _known(question, answers):
            continue
        if question.key in answers:
            if isinstance(answers[question.key], str):
                answers[question.key] = question.parse(answers[question.key])
        elif ask is not None and question.applies(answers):
            answers[question.key] = _put(question, ask)
        else:
            answers[question.key] = question.default
            if question.applies(answers):
                assumed.append(_as_flag(question))
    return assumed


def _put(question: Question, ask: Callable[[str], str]) -> Any:
    """Ask until there is an answer; an empty one is the default."""
    choices = f" ({'/'.join(question.choices)})" if question.choices else ""
    default = "" if question.default is None else f" [{_written(question)}]"
    said = ""
    while True:
        typed = ask(f"{said}{question.text}{choices}{default} ").strip()
        if not typed and question.default is not None:
            return question.default
        try:
            return question.parse(typed)
        except ConfigError as error:
            said = f"{error}\n"


def _as_flag(question: Question) -> str:
    if isinstance(question.default, bool):
        return question.flag if question.default else f"--no-{question.key}"
    return f"{question.flag} {question.default}"


def _written(question: Question) -> str:
    if isinstance(question.default, bool):
        return "yes" if question.default else "no"
    return str(question.default)


def _model(answers: Answers) -> tuple[str | None, ModelShape]:
    """What was named, and its shape; a name that is no folder and looks like a size is a size."""
    named: str | None = answers.get("model")
    if answers.get("parameters") is not None:
        return named, guessed(parse_count(str(answers["parameters"])))
    if named is None:
        raise ConfigError("missing: --model")
    if not Path(named).exists() and "/" not in named:
        try:
            return None, guessed(parse_count(named))
        except ConfigError:
            pass  # not a size: a hub repository without an owner, such as gpt2
    return named, read_shape(named, answers.get("revision"))


def _machine(memory: str | None, device: Any) -> Machine:
    if memory is None:
        if device is not None:
            raise ConfigError("--device says what --memory is of; give both, or neither to look at this machine")
        return detect()
    size = parse_bytes(memory)
    if device is not None and device not in get_args(Device):
        raise ConfigError(f"--device {device!r}: {nearest(device, get_args(Device))}")
    return Machine("as said", device or "cuda", size)


def count_rows(path: Path) -> int:
    """Rows of a .jsonl or .parquet file.

    Raises:
        DataError: no such file, or of another kind.
    """
    if not path.is_file():
        raise DataError(f"{at(path)}no such file")
    if path.suffix == ".jsonl":
        with path.open("rb") as stream:
            return sum(1 for line in stream if line.strip())
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(path).num_rows)
    raise DataError(f"{at(path)}rows of a {path.suffix or 'nameless'} file are not counted here; say --rows")


def _named(text: str, flag: str) -> str:
    if not text.strip():
        raise ConfigError(f"{flag}: nothing was named")
    return text.strip()


def _choice(text: str, choices: tuple[str, ...], flag: str) -> str:
    """One of `choices`, or the only one that begins with `text`."""
    typed = text.strip().lower()
    found = [c for c in choices if c == typed] or [c for c in choices if typed and c.startswith(typed)]
    if len(found) != 1:
        raise ConfigError(f"{flag} {text!r}: {nearest(typed, choices)}")
    return found[0]


def _count(text: str, flag: str) -> int:
    if text.strip() == "0":
        return 0
    try:
        return parse_count(text)
    except ConfigError:
        raise ConfigError(f"{flag} {text!r}: expected a number such as 5000 or 5k") from None


def describe(shape: ModelShape) -> str:
    """The model in a line."""
    kind = "decoder" if shape.decoder else "encoder"
    size = f"a {kind} of {human_count(shape.parameters)} parameters"
    return f"{shape.name}: {size}, {shape.layers} layers of {shape.hidden:,}" if shape.exact else size
