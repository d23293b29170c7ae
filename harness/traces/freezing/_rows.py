"""A stored call as a row of a golden set: how it was asked, what production answered, and what its tools said"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from harness import plugins
from harness.goldens import Parameters
from harness.goldens.pictures import MOST_IN_A_CALL
from harness.goldens.rows import MAX_LINE_BYTES
from harness.records import Message, Output, Sample
from harness.traces.freezing._album import Album, LeftOut, is_picture
from harness.traces.freezing._feedback import Liking
from harness.traces.records import PARAMETERS, Call, ChatMessage, Part, Tool

Row = dict[str, Any]
_LONGEST_NAME = 200  # characters of a session

_ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_RESTORED = {
    "temperature": "temperature", "top_p": "top_p", "max_tokens": "max_tokens", "stop": "until", "seed": "seed",
    "tool_choice": "tool_choice", "response_format": "response_format",
}  # fmt: skip
"""Parameters of a call that a row can hold, by the row's name of them."""
_HARMLESS = frozenset({"stream", "parallel_tool_calls"})
"""Parameters that are left out because they say how an answer arrives, or what no server is held to."""


@dataclass(frozen=True, slots=True)
class RowOptions:
    """How calls become rows: `greedy` asks without sampling whatever was recorded, `liking` reads feedback."""

    greedy: bool = False
    liking: Liking = field(default_factory=Liking)


def row_of(call: Call, results: Mapping[str, str], tags: Sequence[str], options: RowOptions, album: Album) -> Row:
    """The row of a call; `results` are what its tools said, by `goldens.call_key`.

    Raises:
        LeftOut: it cannot be asked again as it was asked, or not be written down.
    """
    if call.operation != "chat":
        raise LeftOut("a text completion, no conversation")
    messages = [_message(m, album) for m in call.messages if not _silent(m)]
    if not messages or messages[-1]["role"] == "assistant":
        raise LeftOut("does not end in a question")
    if sum(len(m.get("pictures", ())) for m in messages) > MOST_IN_A_CALL:
        raise LeftOut(f"more than {MOST_IN_A_CALL} pictures")
    row: Row = {"id": f"{call.trace_id[:12]}-{call.span_id}", "messages": messages, "cluster": _cluster(call)}
    if call.tools:
        row["tools"] = _tools(call.tools)
    row["parameters"], not_restored = _parameters(call, options.greedy)
    row["recorded"] = _recorded(call, row)
    if results:
        row["results"] = dict(results)
    liked = options.liking.of(call.feedback)
    row |= {} if liked is None else {"liked": liked}
    row |= {"not_restored": not_restored} if not_restored else {}
    row["tags"] = list(tags)
    row["trace"] = {
        "trace_id": call.trace_id, "span_id": call.span_id, "run_id": call.run_id,
        "time": datetime.fromtimestamp(call.time_ns / 1e9, UTC).isoformat(), "dialect": call.dialect,
    }  # fmt: skip
    return row


def _cluster(call: Call) -> str:
    """The session as reports and terminals may show it; one that they may not is named by its hash."""
    name = call.cluster
    if len(name) <= _LONGEST_NAME and name.isprintable() and name.strip():
        return name
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def line_of(row: Row) -> bytes:
    """A row as a line of `samples.jsonl`.

    Raises:
        LeftOut: it is too long, or not valid Unicode.
    """
    try:
        line = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:
        raise LeftOut("not valid Unicode") from None
    except (ValueError, RecursionError):
        raise LeftOut("holds values that JSON has not") from None
    if len(line) > MAX_LINE_BYTES:
        raise LeftOut(f"longer than {MAX_LINE_BYTES // 2**20} MiB")
    return line


def asked_last(row: Row) -> str:
    """What the user said last, or the last message where no user spoke."""
    said = [m["content"] for m in row["messages"] if m["role"] == "user"]
    return str(said[-1] if said else row["messages"][-1]["content"])


def pictures_of(row: Row) -> list[str]:
    """The files of the pictures that a row shows, in their order."""
    return [picture["file"] for message in row["messages"] for picture in message.get("pictures", ())]


def sample_of(row: Row) -> Sample:
    """As much of the row's sample as contamination is checked by."""
    said = row["messages"]
    messages = tuple(Message(m["role"], m["content"]) for m in said)
    return Sample(row["id"], "\n\n".join(m["content"] for m in said), messages=messages)


# ---------------------------------------------------------------- how it was asked


def _silent(message: ChatMessage) -> bool:
    """A turn that held nothing but thoughts, which no model is shown again."""
    thought = message.parts and all(p.kind == "reasoning" for p in message.parts)
    return bool(thought) and message.role == "assistant" and not message.tool_calls


def _message(message: ChatMessage, album: Album) -> Row:
    role = _ROLES.get(message.role)
    if role is None:
        raise LeftOut("a role that no chat template has")
    content, pictures = "", []
    for part in message.parts:
        if is_picture(part):
            if role != "user":
                raise LeftOut("a picture that no user sent")
            pictures.append({"file": album.add(part), "at": len(content)})
        elif part.kind != "reasoning":
            content += _text(part)
    made: Row = {"role": role, "content": content, **({"pictures": pictures} if pictures else {})}
    if message.tool_calls:
        if role != "assistant":
            raise LeftOut("tools called by somebody else than the model")
        if not all(call.name for call in message.tool_calls):
            raise LeftOut("a call of a tool without a name")
        made["tool_calls"] = [
            {"id": c.id, "name": c.name, "arguments": parsed(c.arguments)} for c in message.tool_calls
        ]
    if role == "tool" and message.tool_call_id:
        made["tool_call_id"] = message.tool_call_id
    if not content and not pictures and not message.tool_calls and role != "tool":
        raise LeftOut("an empty message")
    return made


def _text(part: Part) -> str:
    """The text of a part. Sounds, films and files are left out, and no reference to them is ever followed."""
    if part.kind == "text":
        return part.text
    raise LeftOut("parts of a kind that is not known" if part.kind == "other" else f"{part.kind} in a message")


def parsed(arguments: str) -> Any:
    """Arguments of a tool as values; what is no JSON stays the text that the model wrote."""
    try:
        read = json.loads(arguments)
        json.dumps(read, allow_nan=False)
    except (ValueError, RecursionError):
        return arguments
    return read


def _tools(tools: Sequence[Tool]) -> list[Row]:
    if len({tool.name for tool in tools}) < len(tools):
        raise LeftOut("two tools of one name")
    if not all(tool.name for tool in tools):
        raise LeftOut("a tool without a name")
    return [{"type": "function", "function": _function(tool)} for tool in tools]


def _function(tool: Tool) -> Row:
    more = {"description": tool.description} if tool.description else {}
    strict = {} if tool.strict is None else {"strict": tool.strict}
    return {"name": tool.name, **more, "parameters": dict(tool.parameters) or {"type": "object"}, **strict}


def _parameters(call: Call, greedy: bool) -> tuple[Row, list[str]]:
    """The parameters that a row holds, and the names of those that were set, or may have been, and are not restored."""
    given = {name: getattr(call.parameters, name) for name in PARAMETERS}
    restored: Row = {}
    missing = {loss.field for loss in call.lost if loss.field in PARAMETERS} | set(call.parameters.other)
    missing -= _HARMLESS if call.tools else _HARMLESS | {"tool_choice"}
    for name, value in given.items():
        without_tools = name == "tool_choice" and not call.tools  # a server refuses one without the other
        if value in (None, ()) or name in _HARMLESS or (name == "choices" and value == 1) or without_tools:
            continue
        key = _RESTORED.get(name)
        value = [text for text in value if text] if name == "stop" else value
        if key is not None and _fits(key, value):
            restored[key] = value
        else:
            missing.add(name)
    if greedy:
        restored = {**{k: v for k, v in restored.items() if k not in ("top_p", "seed")}, "temperature": 0.0}
        missing -= {"temperature", "top_p", "seed", "top_k"}
    return restored, sorted(missing)


def _fits(key: str, value: Any) -> bool:
    try:
        Parameters.model_validate({key: value})
    except ValidationError:
        return False
    return True


# ---------------------------------------------------------------- what came of it


def _recorded(call: Call, row: Row) -> Row:
    """The answer of production, as far as it was recorded; a call that failed there has its error instead."""
    made: Row = {"model": call.model_answered or call.model_asked}
    if call.error is not None:
        made["error"] = call.error.type
    elif call.outputs and not any(loss.field == "outputs" for loss in call.lost):
        made["text"] = call.outputs[0].text
        made |= {"finish": call.finish_reasons[0]} if call.finish_reasons else {}
        calls = [{"name": c.name, "arguments": parsed(c.arguments)} for c in call.outputs[0].tool_calls]
        if row.get("tools") and _well_made(calls, row):
            made["tool_calls"] = calls
    numbers = {"seconds": call.latency, "input_tokens": call.input_tokens, "output_tokens": call.output_tokens}
    return made | {name: number for name, number in numbers.items() if number is not None}


def _well_made(calls: Sequence[Row], row: Row) -> bool:
    """Whether recorded calls fit the tools that were offered: others are no measure of anybody's."""
    if not calls:
        return True
    module = plugins.load("metrics", "tool_calls")
    metric = module.build(module.Options(mode="valid"))
    written = "\n".join(f"<tool_call>{json.dumps(call, allow_nan=False)}</tool_call>" for call in calls)
    score = metric.score(Sample(row["id"], "", data={"tools": row["tools"]}), [Output(text=written)])
    return bool(score.value == 1.0)
