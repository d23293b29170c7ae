"""A question as the body of a request in OpenAI's API, and what a body that came back says. Nothing in it is trusted"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import Message, Picture
from harness.served import Question
from harness.served._failures import Problem, Used, of_status
from harness.served._tools import canonical, tool_calls

_WHOLE = frozenset({None, "stop", "eos", "eos_token", "end_turn", "stop_sequence"})
_CUT = frozenset({"length", "max_tokens"})
_CALLED = frozenset({"tool_calls", "tool_use", "function_call"})


@dataclass(frozen=True, slots=True)
class Said:
    """An answer. `used` is None where the server counts no tokens; `tool_calls` is canonical JSON, or empty."""

    text: str
    truncated: bool
    used: Used | None
    tool_calls: str = ""
    finish: str = ""


def parameters(question: Question, *, schema: bool) -> dict[str, Any]:
    """What a question asks for besides its messages; every setting is sent, so that none is the server's choice."""
    body: dict[str, Any] = {
        "max_tokens": question.max_tokens,
        "temperature": question.temperature,
        "top_p": question.top_p,
        "seed": question.seed,
    }
    if question.until:
        body["stop"] = list(question.until)
    if schema and question.schema is not None:
        made = {"name": "answer", "schema": dict(question.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": made}
    for name in ("tools", "tool_choice", "response_format"):
        if given := getattr(question, name):
            body[name] = json.loads(given)
    return body


def content(question: Question) -> dict[str, Any]:
    """The messages of a question, or the text of one that is `raw`.

    Raises:
        Problem: a picture is not there, or is not the one that was asked for.
    """
    if not question.raw:
        return {"messages": [_turn(m) for m in question.messages]}
    (message,) = question.messages
    return {"prompt": message.content}


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": _parts(message) if message.pictures else message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": _spelled(call)}}
            for call in json.loads(message.tool_calls)
        ]
        turn["content"] = message.content or None
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _parts(message: Message) -> list[dict[str, Any]]:
    """Text and pictures in their order. Pictures go as data, so that no server ever fetches anything."""
    parts: list[dict[str, Any]] = []
    begin = 0
    for picture in message.pictures:
        parts += [_text_part(message.content[begin : picture.at]), _picture_part(picture)]
        begin = picture.at
    parts.append(_text_part(message.content[begin:]))
    return [part for part in parts if part.get("text") != ""]


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _picture_part(picture: Picture) -> dict[str, Any]:
    try:
        held = Path(picture.file).read_bytes()
    except OSError as error:
        raise Problem("rejected", f"a picture cannot be read: {error}") from None
    if hashlib.sha256(held).hexdigest() != picture.sha256:
        raise Problem("rejected", f"{picture.file}: the picture is not the one that was frozen")
    data = base64.b64encode(held).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:{picture.mime_type};base64,{data}"}}


def _spelled(call: Mapping[str, Any]) -> str:
    """Arguments as the API wants them, which is JSON in a string."""
    arguments = call["arguments"]
    return arguments if isinstance(arguments, str) else canonical(arguments)


def read(payload: object, *, tools: bool = False) -> Said:
    """The answer in the body of a 200; calls of tools count as an answer where the question offered `tools`.

    Raises:
        Problem: there is none, of kind `empty`, `filtered`, `server` or `unreadable`.
    """
    if not isinstance(payload, dict):
        raise Problem("unreadable", f"the server answered with a JSON {type(payload).__name__}, not with a completion")
    if "choices" not in payload and payload.get("error"):
        raise _error_in_200(payload)
    used = _used(payload.get("usage"))
    choices = payload.get("choices")
    if not isinstance(choices, list):
        raise Problem("unreadable", "the server's answer is no completion: it has no list of choices", used=used)
    if not choices:
        raise Problem("empty", "the server answered with no choice", used=used)
    return _answer(choices[0], used, tools)


def _answer(choice: object, used: Used | None, tools: bool) -> Said:
    if not isinstance(choice, dict):
        raise Problem("unreadable", "the server's first choice is no object", used=used)
    ended = choice.get("finish_reason")
    message = choice.get("message", choice)  # a raw completion has its text in the choice itself
    if not isinstance(message, dict) or not (ended is None or isinstance(ended, str)):
        raise Problem("unreadable", "the server's first choice has no message or a strange finish_reason", used=used)
    if ended == "content_filter" or message.get("refusal"):
        raise Problem("filtered", f"the server withheld the answer: {message.get('refusal') or ended}", used=used)
    text = _joined(message.get("content", message.get("text")))
    if text is None:
        raise Problem("unreadable", "the content of the server's answer is no text", used=used)
    calls = tool_calls(message) if tools else ""
    if calls is None:
        raise Problem("unreadable", "the server's answer calls tools in a way that cannot be read", used=used)
    if not text.strip() and not calls:
        why = "; its tokens ran out first, raise max_tokens" if ended in _CUT else ""
        raise Problem("empty", f"the server answered with no text (finish_reason {ended}){why}", used=used)
    if ended not in (_WHOLE | _CUT | _CALLED if calls else _WHOLE | _CUT):
        raise Problem("unreadable", f"the answer ended with finish_reason {ended}", used=used)
    try:
        f"{text}{calls}".encode()
    except UnicodeEncodeError:  # half a surrogate pair, which no file and no terminal takes
        raise Problem("unreadable", "the server's answer is not valid Unicode", used=used) from None
    return Said(text, ended in _CUT, used, calls, ended or "")


def _joined(said: object) -> str | None:
    """The text of a message: itself, or its text parts one after the other; "" for nothing, None for anything else."""
    if said is None:
        return ""
    if isinstance(said, str):
        return said
    if not isinstance(said, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) else part for part in said]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else None


def _error_in_200(payload: Mapping[str, Any]) -> Problem:
    """Some gateways answer 200 and put the status of the server behind them into the body."""
    error = payload["error"]
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 502
    return of_status(status, json.dumps(payload, default=str), {})


def _used(usage: object) -> Used | None:
    if not isinstance(usage, dict):
        return None
    read, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    return None if read is written is None else Used(read or 0, written or 0)


def _count(value: object) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9
    return int(str(value)) if good else None
