"""The page of all verbs, written from the typer apps: what `--help` says, on one page"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import typer
from typer.models import ArgumentInfo, OptionInfo

_HEAD = """# Command line

Written from the code when this site is built. `harness VERB --help` says the same in a terminal, and `--json` prints
one JSON document on stdout in place of text.

| exit code | meaning |
| --- | --- |
| 0 | **promote**; of other verbs: done |
| 1 | **block**: a required guard was shown to have regressed |
| 2 | usage or configuration |
| 3 | **hold**: the evidence does not allow a verdict |
| 4 | infrastructure: repeat the command to go on |
"""


class Verb(NamedTuple):
    """One command: its words after `harness`, the function behind it, and its help where that is not the docstring."""

    words: tuple[str, ...]
    function: Callable[..., Any]
    help: str | None = None


class Parameter(NamedTuple):
    """One argument or option of a verb."""

    names: tuple[str, ...]
    is_argument: bool
    annotation: Any
    default: Any
    help: str

    @property
    def is_flag(self) -> bool:
        """Whether it takes no value."""
        return self.annotation is bool

    @property
    def repeats(self) -> bool:
        """Whether it may be given more than once."""
        return typing.get_origin(self.annotation) in (list, tuple)


def page(app: typer.Typer) -> str:
    """The whole page in Markdown."""
    return "\n".join([_HEAD, *(_section(verb) for verb in sorted(verbs(app)))])


def verbs(app: typer.Typer, before: tuple[str, ...] = ()) -> Iterator[Verb]:
    """Every command of an app and of the apps in it, but for hidden ones."""
    for command in app.registered_commands:
        if command.callback is not None and not command.hidden:
            name = command.name or command.callback.__name__.replace("_", "-")
            yield Verb((*before, name), command.callback, command.help)
    for group in app.registered_groups:
        if group.typer_instance is not None and not group.hidden:
            yield from verbs(group.typer_instance, (*before, str(group.name)))


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """Arguments and options, in the order in which the function takes them."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, given in inspect.signature(function).parameters.items():
        annotation, *notes = typing.get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
        info = next((note for note in notes if isinstance(note, ArgumentInfo | OptionInfo)), None)
        if info is None or not info.hidden:
            found.append(_parameter(name, info, _without_none(annotation), given.default))
    return found


def _parameter(name: str, info: ArgumentInfo | OptionInfo | None, annotation: Any, default: Any) -> Parameter:
    is_argument = isinstance(info, ArgumentInfo) or (info is None and default is inspect.Parameter.empty)
    names = (_declared(info) if info else ()) or _implied(name.replace("_", "-"), is_argument, annotation is bool)
    return Parameter(names, is_argument, annotation, default, (info.help or "") if info else "")


def _declared(info: ArgumentInfo | OptionInfo) -> tuple[str, ...]:
    """Names given by hand; in `Annotated[…, Option("--json")]` typer takes the first for a default until it parses."""
    first = (info.default,) if isinstance(info.default, str) else ()
    both = [name.strip() for declared in (*first, *(info.param_decls or ())) for name in declared.split("/")]
    return tuple(name for name in both if name)


def _implied(name: str, is_argument: bool, is_flag: bool) -> tuple[str, ...]:
    """What typer calls a parameter that was given no name."""
    if is_argument:
        return (name.upper(),)
    return (f"--{name}", f"--no-{name}") if is_flag else (f"--{name}",)


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (annotation,) = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    return annotation


def _section(verb: Verb) -> str:
    given = parameters(verb.function)
    text = inspect.cleandoc(verb.help or verb.function.__doc__ or "")
    lines = [f"## harness {' '.join(verb.words)}", "", text, "", "```text", _usage(verb, given), "```", ""]
    if given:
        lines += ["| | value | default | |", "| --- | --- | --- | --- |", *map(_row, given), ""]
    return "\n".join(lines)


def _usage(verb: Verb, given: list[Parameter]) -> str:
    words = ["harness", *verb.words]
    for parameter in given:
        needed = parameter.default is inspect.Parameter.empty
        if parameter.is_argument:
            shown = parameter.names[0] + ("…" if parameter.repeats else "")
            words.append(shown if needed else f"[{shown}]")
        elif needed:
            words.append(f"{parameter.names[0]} {_value(parameter.annotation).upper()}")
    return " ".join([*words, "[OPTIONS]"] if any(not p.is_argument for p in given) else words)


def _row(parameter: Parameter) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.names)
    value = "" if parameter.is_flag else _value(parameter.annotation).replace("|", "\\|")
    help_ = " ".join(parameter.help.split()).replace("|", "\\|").replace("<", "&lt;")
    return f"| {names} | {value} | {_default(parameter.default)} | {help_} |"


def _value(annotation: Any) -> str:
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) in (list, tuple) and inner:
        return _value(inner[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    return {"str": "text", "int": "integer", "float": "number", "Path": "path"}.get(annotation.__name__, "value")


def _default(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "needed"
    if default is None or default is False or default == "":
        return ""
    return f"`{default.value if isinstance(default, Enum) else default}`"
