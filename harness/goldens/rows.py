"""`samples.jsonl`: one JSON object a line, and one clear error for each way in which a line can be wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from harness.errors import DataError, at, nearest
from harness.goldens.card import Card, Parameters
from harness.goldens.pictures import MOST_IN_A_CALL, picture_of
from harness.plugins import explain
from harness.records import Message, Picture, Sample

SAMPLES_NAME = "samples.jsonl"
MAX_LINE_BYTES = 8 * 1024 * 1024
_ROLES = ("system", "user", "assistant", "tool")
_OF_A_MESSAGE = {"role", "content", "tool_calls", "tool_call_id", "pictures"}
_KNOWN = ("id", "prompt", "messages", "target", "choices", "tags", "cluster")


def read_samples(path: Path, card: Card) -> tuple[Sample, ...]:
    """Every sample of a file, in file order.

    Raises:
        DataError: the file is missing, empty, not UTF-8 or not JSON lines, or a row is wrong; with file and line.
    """
    samples: dict[str, Sample] = {}
    first_line: dict[str, int] = {}
    for number, text in _lines(path):
        sample = _Row(path, number, _parse(path, number, text), card).sample()
        if sample.id in samples:
            raise DataError(f"{at(path, number)}id {sample.id!r} was used on line {first_line[sample.id]} already")
        samples[sample.id] = sample
        first_line[sample.id] = number
    if not samples:
        raise DataError(f"{at(path)}the set is empty")
    return tuple(samples.values())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise DataError(f"{at(path)}no such file; the samples of a golden set are read from it")
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise DataError(f"{at(path, number)}line longer than {MAX_LINE_BYTES // 2**20} MiB")
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                raise DataError(f"{at(path, 1)}starts with a byte order mark; save it as UTF-8 without one")
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{at(path, number)}not UTF-8: {error.reason} at byte {error.start}") from error
            if text.strip():
                yield number, text


def _parse(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{at(path, number)}not valid JSON: {error or 'nested too deeply'}") from error
    if not isinstance(row, dict):
        raise DataError(f"{at(path, number)}expected a JSON object, found {type(row).__name__}")
    if _has_surrogate(text, row):
        raise DataError(f"{at(path, number)}holds half of a surrogate pair (\\ud800 … \\udfff), which is no text")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} is given twice")
    return result


def _has_surrogate(text: str, row: dict[str, Any]) -> bool:
    if "\\ud" not in text.lower():  # only an escape can bring one in: the file itself is UTF-8
        return False
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


class _Row:
    """One row on its way to a sample; knows where it stands, for its errors."""

    def __init__(self, path: Path, number: int, row: dict[str, Any], card: Card) -> None:
        self._path, self._number, self._row, self._card = path, number, row, card
        self._id = ""

    def sample(self) -> Sample:
        self._id = self._identifier()
        messages = self._messages()
        choices = self._choices()
        self._check_request()
        return Sample(
            id=self._id,
            prompt=self._prompt(messages),
            targets=self._targets(choices),
            cluster=self._cluster(),
            tags=self._tags(),
            messages=messages,
            choices=choices,
            data={k: v for k, v in self._row.items() if k not in _KNOWN},
        )

    def _fail(self, problem: str) -> NoReturn:
        who = f"sample {self._id!r}: " if self._id else ""
        raise DataError(f"{at(self._path, self._number)}{who}{problem}")

    def _identifier(self) -> str:
        value = self._row.get("id")
        if value is None:
            self._fail("id is missing")
        if isinstance(value, bool) or not isinstance(value, str | int):
            self._fail(f"id must be a string, not {value!r}")
        text = str(value)
        if not text.strip() or not text.isprintable():
            self._fail(f"id {text!r} is empty or holds a character that cannot be printed")
        return text

    def _messages(self) -> tuple[Message, ...]:
        value = self._row.get("messages")
        if value is None:
            return ()
        if "prompt" in self._row:
            self._fail("give prompt or messages, not both")
        if not isinstance(value, list) or not value:
            self._fail("messages must be a list with at least one message")
        return tuple(self._message(i, m) for i, m in enumerate(value))

    def _message(self, index: int, value: Any) -> Message:
        if not isinstance(value, dict) or not {"role", "content"} <= set(value) <= _OF_A_MESSAGE:
            self._fail(
                f"messages[{index}] must hold role and content, and beside them only "
                "tool_calls, tool_call_id or pictures"
            )
        role, content = value["role"], value["content"]
        if role not in _ROLES:
            self._fail(f"messages[{index}].role {role!r}: {nearest(str(role), _ROLES)}")
        calls = self._tool_calls(index, role, value)
        if not isinstance(content, str) or not (content or calls or role == "tool" or value.get("pictures")):
            self._fail(f"messages[{index}].content must be a string that is not empty")
        answers = value.get("tool_call_id", "")
        if not isinstance(answers, str) or (answers and role != "tool"):
            self._fail(f"messages[{index}].tool_call_id must be a string, in a message of role tool")
        return Message(role, content, calls, answers, self._pictures(index, role, value))

    def _pictures(self, index: int, role: str, value: dict[str, Any]) -> tuple[Picture, ...]:
        given = value.get("pictures")
        if given is None:
            return ()
        if role != "user" or not isinstance(given, list) or not 0 < len(given) <= MOST_IN_A_CALL:
            self._fail(f"messages[{index}].pictures must be a list of 1 to {MOST_IN_A_CALL}, in a message of role user")
        found: list[Picture] = []
        for number, named in enumerate(given):
            try:
                found.append(picture_of(self._path.parent, named, value["content"]))
            except ValueError as error:
                self._fail(f"messages[{index}].pictures[{number}] {error}")
        if found != sorted(found, key=lambda picture: picture.at):
            self._fail(f"messages[{index}].pictures must be in the order of their places in the text")
        return tuple(found)

    def _check_request(self) -> None:
        """`tools` and `parameters`, which say how this row is asked, are what a request can hold."""
        try:
            Parameters.model_validate(self._row.get("parameters", {}))
        except ValidationError as error:
            self._fail(f"parameters: {explain(error, Parameters)}")
        tools = self._row.get("tools", [])
        named = isinstance(tools, list) and all(isinstance(t, dict) and _function(t).get("name") for t in tools)
        if not named:
            self._fail("tools must be a list of definitions as OpenAI's API takes them, each with a name")

    def _tool_calls(self, index: int, role: str, value: dict[str, Any]) -> str:
        """The canonical JSON of what a turn asked of tools, in OpenAI's form or as `name` and `arguments` alone."""
        calls = value.get("tool_calls")
        if calls is None:
            return ""
        if role != "assistant" or not isinstance(calls, list) or not calls:
            self._fail(f"messages[{index}].tool_calls must be a list, in a message of role assistant")
        plain = [
            call.get("function", call) | {"id": call.get("id", "")} if isinstance(call, dict) else {} for call in calls
        ]
        if not all(isinstance(call.get("name"), str) and call["name"] and "arguments" in call for call in plain):
            self._fail(f"messages[{index}].tool_calls: each needs a name and arguments")
        kept = [
            {"id": str(call["id"]), "name": call["name"], "arguments": _parsed(call["arguments"])} for call in plain
        ]
        return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def _prompt(self, messages: tuple[Message, ...]) -> str:
        if messages:
            return "\n\n".join(m.content for m in messages)
        value = self._row.get("prompt")
        if value is None:
            self._fail("neither prompt nor messages")
        if not isinstance(value, str) or not value.strip():
            self._fail("prompt must be a string that is not empty")
        return value

    def _choices(self) -> tuple[str, ...]:
        value = self._row.get("choices")
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(c, str) and c.strip() for c in value):
            self._fail("choices must be a list of strings that are not empty")
        if len(value) < 2 or len(set(value)) < len(value):
            self._fail("choices must be at least two, and all different")
        return tuple(value)

    def _targets(self, choices: tuple[str, ...]) -> tuple[str, ...]:
        value = self._row.get("target")
        if value is None:
            return ()
        values = value if isinstance(value, list) else [value]
        if not values:
            self._fail("target is an empty list")
        return tuple(self._choice(v, choices) if choices else self._target(v) for v in values)

    def _target(self, value: Any) -> str:
        if isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False, sort_keys=True)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self._fail(f"target must be a string, a number or an object, not {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            self._fail("target is not a finite number")
        return str(value)

    def _choice(self, value: Any, choices: tuple[str, ...]) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value < len(choices):
                self._fail(f"target {value} is not the index of one of the {len(choices)} choices (0 is the first)")
            return choices[value]
        if not isinstance(value, str):
            self._fail(f"target must be the index or the text of a choice, not {value!r}")
        if value not in choices:
            self._fail(f"target {value!r} is none of the choices; {nearest(value, choices)}")
        return value

    def _tags(self) -> tuple[str, ...]:
        value = self._row.get("tags", [])
        if not isinstance(value, list) or not all(isinstance(t, str) and t for t in value):
            self._fail("tags must be a list of strings that are not empty")
        for tag in value:
            if tag not in self._card.tags:
                self._fail(f"tag {tag!r} is not explained in the card's tags: {nearest(tag, self._card.tags)}")
        return tuple(dict.fromkeys(value))

    def _cluster(self) -> str:
        key = self._card.cluster_key
        if key is not None and key != "cluster" and "cluster" in self._row:
            self._fail(f"the card takes the cluster from {key!r}, and the row gives cluster as well")
        if key is not None and key not in self._row:
            self._fail(f"the card takes the cluster from {key!r}, which is missing")
        value = self._row.get(key or "cluster", "")
        if isinstance(value, bool) or not isinstance(value, str | int):
            self._fail(f"the cluster must be a string, not {value!r}")
        if key is not None and value == "":
            self._fail(f"the cluster {key!r} is empty")
        return str(value)


def _parsed(arguments: Any) -> Any:
    """Arguments of a tool as values; what is no JSON stays the text that the model wrote."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    """What a tool's definition says of its function, whether it stands by itself or under `function`."""
    inner = tool.get("function", tool)
    return inner if isinstance(inner, dict) else {}
