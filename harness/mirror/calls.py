"""A request to OpenAI's API and the answer to it, as far as a comparison reads them. Nothing in them is trusted

Requests are those of /v1/chat/completions and /v1/completions. Answers are JSON or server-sent events. Whatever cannot
be read says so instead of raising: it was a user's, and the user has long been served.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.records import Output, Sample
from harness.served._failures import Mask
from harness.traces._limits import parse_json
from harness.traces.receiver._answers import Refusal
from harness.traces.receiver._bodies import decompress

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
PATHS = frozenset({CHAT, COMPLETION})
_SERVER_STATE = ("previous_response_id", "conversation", "store")
_SERVER_TOOLS = ("web_search_options", "mcp_servers", "plugins")
_PERSONAL = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier")
_LONGEST_ID = 512
_MOST_CALLS = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. `obstacle` says why it cannot be asked of another model (empty: it can)."""

    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    obstacle: str = ""

    @property
    def chat(self) -> bool:
        """Whether it is a chat, rather than a text to be continued."""
        return self.path == CHAT

    @property
    def stream(self) -> bool:
        """Whether the answer is to come in pieces."""
        return self.body.get("stream") is True

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Its messages; a text to be continued is one of them."""
        if not self.chat:
            return [{"role": "user", "content": self.body.get("prompt", "")}]
        found = self.body.get("messages")
        return [m for m in found if isinstance(m, dict)] if isinstance(found, list) else []

    def copied(self) -> dict[str, Any]:
        """What goes to the candidate: without the model's name and whatever belongs to the end user's account."""
        left_out = ("model", *_PERSONAL, *_SERVER_STATE)
        return {name: value for name, value in self.body.items() if name not in left_out}

    def sample(self) -> Sample:
        """As the checks of a replay read it."""
        tools = self.body.get("tools")
        wanted = self.body.get("response_format")
        data = {"parameters": {"response_format": wanted if isinstance(wanted, dict) else {}}, "recorded": {}}
        return Sample("live", "", data={**data, "tools": tools} if isinstance(tools, list) and tools else data)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that an answer asked for; `arguments` is what the model wrote."""

    name: str = ""
    arguments: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. With a `failure` nobody can say what the model would have answered; `rejected` is a 4xx of it.

    `seconds` and `first_token` count from the moment that the request was sent on; tokens are None where the server
    counts none.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: str = ""
    refused: bool = False
    failure: str = ""
    rejected: str = ""
    status: int = 200
    input_tokens: int | None = None
    output_tokens: int | None = None
    model: str = ""
    id: str = ""
    seconds: float = 0.0
    first_token: float | None = None

    def output(self) -> Output:
        """As metrics read it."""
        if self.failure or self.rejected:
            return Output(failure=self.failure or self.rejected)
        calls = [{"id": c.id, "name": c.name, "arguments": _arguments(c.arguments)} for c in self.tool_calls]
        return Output(
            text=self.text, tokens=self.output_tokens or 0, truncated=self.finish == "length", finish=self.finish,
            tool_calls=json.dumps(calls, sort_keys=True) if calls else "", seconds=self.seconds,
        )  # fmt: skip

    @property
    def said(self) -> str:
        """What a person reads: the text and the calls, or why there is neither."""
        calls = [f"→ {c.name}({c.arguments})" for c in self.tool_calls]
        return "\n".join([*filter(None, [self.text]), *calls]) or self.rejected or self.failure


def read_request(path: str, body: bytes) -> Asked:
    """The request of a body; what is no JSON object has that as its obstacle."""
    try:
        held = parse_json(body)
    except (ValueError, RecursionError):
        return Asked(path, obstacle="unreadable")
    if not isinstance(held, dict):
        return Asked(path, obstacle="unreadable")
    return Asked(path, held, _obstacle(path, held))


def session_of(asked: Asked, header: str) -> str:
    """What stands for the conversation: its id where it has one, else its first messages, which every turn repeats."""
    if header:
        return f"id:{header[:_LONGEST_ID]}"
    metadata = asked.body.get("metadata")
    given = metadata.get("session_id") if isinstance(metadata, dict) else None
    if isinstance(given, str) and given:
        return f"id:{given[:_LONGEST_ID]}"
    first: list[Any] = []
    for message in asked.messages:
        first.append([message.get("role"), message.get("content")])
        if message.get("role") == "user":
            break
    user = asked.body.get("user")
    text = json.dumps([user, first], sort_keys=True, default=str).encode("utf-8", "surrogatepass")
    return f"first:{hashlib.sha256(text).hexdigest()}"


def _obstacle(path: str, body: Mapping[str, Any]) -> str:
    """Why asking again would not be asking the same, or would do something."""
    if any(body.get(name) for name in _SERVER_STATE):
        return "server-state"
    tools = body.get("tools")
    listed = tools if isinstance(tools, list) else [] if tools is None else [tools]
    foreign = any(not isinstance(t, dict) or t.get("type") != "function" for t in listed)
    if foreign or any(body.get(name) for name in _SERVER_TOOLS):
        return "server-tools"
    if path == COMPLETION:
        return "" if isinstance(body.get("prompt"), str) else "unreadable"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        return "unreadable"
    # A provider's library, or the provider, would fetch what an address in a message points at.
    return "remote-content" if any(map(_is_remote, messages)) else ""


def _is_remote(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    if not isinstance(content, list):
        return False
    return any(isinstance(p, dict) and p.get("type") not in ("text", "refusal") and not _is_inline(p) for p in content)


def _is_inline(part: Mapping[str, Any]) -> bool:
    """An image or sound that the message holds itself, as a data URL or as base64."""
    if part.get("type") == "input_audio":
        return True
    image = part.get("image_url")
    address = image.get("url") if isinstance(image, dict) else image
    return part.get("type") == "image_url" and isinstance(address, str) and address.startswith("data:")


# ---------------------------------------------------------------- answers


def read_answer(status: int, headers: Mapping[str, str], body: bytes, most: int) -> Answer:
    """The answer in a response; headers by lower-case name, `most` bytes after decompression."""
    try:
        content = decompress(body, headers.get("content-encoding", ""), most)
    except Refusal as error:
        return Answer(failure=f"the body cannot be read: {error.message}", status=status)
    if status != 200:
        return failed(status, content.decode("utf-8", "replace"))
    if "text/event-stream" in headers.get("content-type", ""):
        return of_events(_events(content))
    try:
        held = parse_json(content)
    except (ValueError, RecursionError):
        return Answer(failure="the answer is no JSON")
    return of_completion(held)


def failed(status: int, said: str) -> Answer:
    """The answer of an error's status: the request was judged wrong, or nobody judged it."""
    detail = f"HTTP {status}: {_masked()(said)[:300]}"
    if 400 <= status < 500 and status not in (401, 403, 407, 408, 409, 425, 429):
        return Answer(rejected=detail, status=status)
    return Answer(failure=detail, status=status)


@functools.cache
def _masked() -> Mask:
    """Takes credentials out of what a server says: some repeat what they were sent."""
    return Mask()


def of_completion(held: Any) -> Answer:
    """The answer in a completion's JSON: its first choice."""
    choices = held.get("choices") if isinstance(held, dict) else None
    if not isinstance(held, dict) or not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return Answer(failure="the answer is no completion")
    gathered = _Gathered()
    gathered.chunk({**held, "choices": [{**choices[0], "delta": choices[0].get("message"), "index": 0}]})
    return gathered.answer()


def of_events(chunks: Iterable[Any]) -> Answer:
    """The answer in the pieces of a stream; one that ended before it said why is a failure."""
    gathered = _Gathered()
    for chunk in chunks:
        gathered.chunk(chunk)
    return gathered.answer()


def _events(content: bytes) -> Iterable[Any]:
    for line in content.splitlines():
        data = line[5:].strip() if line.startswith(b"data:") else b""
        if data and data != b"[DONE]":
            try:
                yield parse_json(data)
            except (ValueError, RecursionError):
                yield {"error": "a piece of the stream is no JSON"}


@dataclass(slots=True)
class _Gathered:
    """The first choice of a stream, as far as it has come."""

    text: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)
    finish: str = ""
    model: str = ""
    id: str = ""
    tokens: tuple[int | None, int | None] = (None, None)
    error: str = ""

    def chunk(self, held: Any) -> None:
        """One piece."""
        if not isinstance(held, Mapping) or held.get("error"):
            said = held.get("error") if isinstance(held, Mapping) else held
            self.error = self.error or f"the server reports: {_masked()(str(said))[:300]}"
            return
        self.model = _word(held.get("model")) or self.model
        self.id = _word(held.get("id")) or self.id
        usage = held.get("usage")
        if isinstance(usage, Mapping):
            self.tokens = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        choices = held.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, Mapping) and choice.get("index", 0) == 0:
                self._choice(choice)

    def _choice(self, choice: Mapping[str, Any]) -> None:
        self.finish = _word(choice.get("finish_reason")) or self.finish
        delta = choice.get("delta")
        said = delta if isinstance(delta, Mapping) else choice
        self.text += _texts(said.get("content", said.get("text")))
        self.refusal += _texts(said.get("refusal"))
        calls = said.get("tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else []):
            if isinstance(call, Mapping):
                self._call(call, place)

    def _call(self, call: Mapping[str, Any], place: int) -> None:
        index, function = call.get("index", place), call.get("function")
        if not isinstance(index, int) or not isinstance(function, Mapping):
            return
        if index not in self.calls and len(self.calls) >= _MOST_CALLS:
            return
        parts = self.calls.setdefault(index, ["", "", ""])
        parts[0] = _word(call.get("id")) or parts[0]
        parts[1] += _word(function.get("name"))
        if isinstance(function.get("arguments"), str):
            parts[2] += function["arguments"]

    def answer(self) -> Answer:
        """The whole."""
        read, written = self.tokens
        whole = Answer(
            text="".join(self.text) or "".join(self.refusal),
            tool_calls=tuple(ToolCall(name, arguments, i) for _, (i, name, arguments) in sorted(self.calls.items())),
            finish=self.finish, refused=bool(self.refusal) or self.finish == "content_filter",
            input_tokens=read, output_tokens=written, model=self.model, id=self.id,
        )  # fmt: skip
        if self.error or not self.finish:
            return Answer(failure=self.error or "the answer ended before it was whole", input_tokens=read,
                          output_tokens=written, model=self.model, id=self.id)  # fmt: skip
        return whole


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value if isinstance(value, list) else []
    return [p["text"] for p in parts if isinstance(p, Mapping) and isinstance(p.get("text"), str)]


def _word(value: Any) -> str:
    return value[:_LONGEST_ID] if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9
    return value if good else None


def _arguments(text: str) -> Any:
    """The arguments where they are an object; else the text, which fits no schema."""
    try:
        held = parse_json(text or "{}")
    except (ValueError, RecursionError):
        return text
    return held if isinstance(held, dict) else text
