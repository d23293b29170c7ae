"""The nouns of traces: spans and log events as they were exported, and the normal form of one request to a model.

A span or log event is what OTLP carries, with its values as plain Python. A call is one request to a model with all
that is needed to ask it again, whatever vocabulary it was written in. All are frozen and go to JSON and back unchanged.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, TypeVar

from harness.records import content_hash

SpanKind = Literal["unspecified", "internal", "server", "client", "producer", "consumer"]
SpanStatus = Literal["unset", "ok", "error"]
PartKind = Literal["text", "reasoning", "image", "audio", "video", "file", "other"]
LossCause = Literal["unrecorded", "unreadable", "truncated", "dropped", "hidden", "external"]
"""Why a field of a call could not be restored. `unrecorded`: its dialect has no place for it, so it may or may not have
been set; `unreadable`: it is there and makes no sense; `truncated`: it was cut; `dropped`: the SDK left attributes or
events out; `hidden`: replaced by a marker on purpose; `external`: stored elsewhere, only a reference is here."""
Obstacle = Literal[
    "no-content", "truncated", "dropped", "hidden", "external", "unreadable", "tools-missing", "server-tools",
    "server-state",
]  # fmt: skip
"""Why a call cannot be asked again. `no-content`: its messages were not recorded; `tools-missing`: tools were called
and their definitions were not recorded; `server-tools`: the provider ran tools of its own; `server-state`: earlier
turns or files are held by the provider; the others as in `LossCause`."""
RunIdSource = Literal["span", "ancestor", "resource", "trace"]

_Record = TypeVar("_Record")


# ---------------------------------------------------------------- what was exported


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened during a span. Times are nanoseconds since 1970."""

    name: str
    time_ns: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    dropped_attributes: int = 0


@dataclass(frozen=True, slots=True)
class SpanLink:
    """Another span that this one has to do with, of the same or another trace."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Ids are lower-case hex (32 and 16 digits), a root's parent is empty; times are nanoseconds since 1970.

    Values of attributes are str, bool, int, float, bytes, None, and lists and dicts of these; `dropped_attributes` and
    `dropped_events` count what the exporting SDK left out. Spans of one batch share their `resource`.
    """

    trace_id: str
    span_id: str
    parent_span_id: str = ""
    name: str = ""
    kind: SpanKind = "unspecified"
    start_ns: int = 0
    end_ns: int = 0
    status: SpanStatus = "unset"
    status_message: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()
    resource: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    scope_version: str = ""
    trace_state: str = ""
    dropped_attributes: int = 0
    dropped_events: int = 0

    def as_json(self) -> dict[str, Any]:
        """The fields that are not at their defaults, JSON-ready; bytes and non-finite numbers are marked."""
        return _as_json(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Span:
        """The span that `as_json` wrote; raises TypeError or ValueError for anything else."""
        return _from_json(cls, record)


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One OTLP log record. `name` is its event name (field or attribute); the ids are empty where it has no span."""

    trace_id: str = ""
    span_id: str = ""
    name: str = ""
    time_ns: int = 0
    severity: int = 0
    body: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    resource: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    scope_version: str = ""
    dropped_attributes: int = 0

    def as_json(self) -> dict[str, Any]:
        """The fields that are not at their defaults, JSON-ready; bytes and non-finite numbers are marked."""
        return _as_json(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LogEvent:
        """The event that `as_json` wrote; raises TypeError or ValueError for anything else."""
        return _from_json(cls, record)


# ---------------------------------------------------------------- the normal form of a call


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message: a text, or a reference (URL, data URL or file id) to what is no text. Nothing is fetched.

    A part of kind `other` keeps in `text` the JSON of what it was, such as a tool that the provider itself ran.
    """

    kind: PartKind = "text"
    text: str = ""
    reference: str = ""
    mime_type: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model asked for. `arguments` is JSON as the model wrote it, which need not parse."""

    name: str
    arguments: str = "{}"
    id: str = ""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a call. A result of a tool has role `tool` and the id of the tool call that it answers."""

    role: str
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        """Its text parts, joined without anything between them; reasoning is not part of it."""
        return "".join(p.text for p in self.parts if p.kind == "text")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model could ask for. `kind` is `function`, or the provider's own name of a tool that it runs."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "function"
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """How the model was asked; None (or empty) means that nothing was recorded, not that a default was used."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    choices: int | None = None
    stream: bool | None = None
    response_format: Mapping[str, Any] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    other: Mapping[str, Any] = field(default_factory=dict)


PARAMETERS = tuple(f.name for f in fields(Parameters) if f.name != "other")
"""Names of the parameters that a call can restore."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody said about an answer: a score, a label or both. `source` is `human`, `llm`, `code` or empty.

    `about` is `trace` where it was said of something that the call is only a part of: an agent, a whole trace.
    """

    name: str
    score: float | None = None
    label: str = ""
    explanation: str = ""
    source: str = ""
    about: Literal["call", "trace"] = "call"


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call failed: the type as recorded (an exception's name, an HTTP status) and its message."""

    type: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Loss:
    """A field of a call that could not be restored: `messages`, `tools`, `outputs` or one of `PARAMETERS`."""

    field: str
    cause: LossCause
    detail: str = ""


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Why a call cannot be asked again, and the setting of the instrumented service that would change that."""

    reason: Obstacle
    detail: str = ""
    setting: str = ""


@dataclass(frozen=True)
class Call:
    """One request to a model and what came back.

    `run_id` is the key that joins a call to evaluation: the `run_id` of its span, else of the nearest span above it,
    else of its resource, else the trace id; `run_id_source` says which. `session` groups the calls of one conversation
    (empty: unknown). `user` is a pseudonym. `tenant` comes from whoever ingested the trace, never from the trace.
    `latency` and `first_token` are seconds; tokens are those billed, cached ones included in `input_tokens`; `cost` is
    US dollars. `outputs` holds one message a choice, in order, and `finish_reasons` one word each. `lost` names what
    could not be restored; `why_not` is None exactly for a call that can be asked again. `spans` are the ids of all
    spans that stood for this call; `span_id` is the one that it was read from.
    """

    run_id: str
    trace_id: str
    span_id: str
    parent_span_id: str = ""
    run_id_source: RunIdSource = "trace"
    spans: tuple[str, ...] = ()
    tenant: str = ""
    session: str = ""
    user: str = ""
    service: str = ""
    time_ns: int = 0
    latency: float | None = None
    first_token: float | None = None
    operation: Literal["chat", "completion"] = "chat"
    provider: str = ""
    model_asked: str = ""
    model_answered: str = ""
    response_id: str = ""
    messages: tuple[ChatMessage, ...] = ()
    tools: tuple[Tool, ...] = ()
    parameters: Parameters = field(default_factory=Parameters)
    outputs: tuple[ChatMessage, ...] = ()
    finish_reasons: tuple[str, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: float | None = None
    error: Failure | None = None
    feedback: tuple[Feedback, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    dialect: str = ""
    dialect_version: str = ""
    lost: tuple[Loss, ...] = ()
    why_not: WhyNot | None = None

    @property
    def replayable(self) -> bool:
        """Whether the call holds all that is needed to ask it again."""
        return self.why_not is None

    @property
    def cluster(self) -> str:
        """What the call stands or falls with: its session, or its trace where no session is known."""
        return self.session or self.trace_id

    @cached_property
    def request_hash(self) -> str:
        """SHA-256 over what was asked (operation, messages, tools, parameters), whichever model it was asked of."""
        asked = [_as_json(m) for m in self.messages], [_as_json(t) for t in self.tools], _as_json(self.parameters)
        return content_hash([self.operation, *asked])

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything in the call."""
        return content_hash(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """The fields that are not at their defaults, and `replayable` for whoever reads the JSON alone; JSON-ready."""
        return {**_as_json(self), "replayable": self.replayable}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Call:
        """The call that `as_json` wrote; raises TypeError or ValueError for anything else."""
        return _from_json(cls, {k: v for k, v in record.items() if k != "replayable"})


# ---------------------------------------------------------------- to JSON and back

# JSON has no bytes and no infinity. They become an object with one key that starts with "$", and so does an object
# that has such a key itself; hence every value comes back as it was.


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        plain = {str(k): _plain(v) for k, v in value.items()}
        return {"$map": plain} if any(k.startswith("$") for k in plain) else plain
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    raise TypeError(f"{kind.__name__} is no value of an attribute")


_MARKED: Mapping[str, Callable[[Any], Any]] = {
    "$float": float,
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$map": lambda plain: {k: _valued(v) for k, v in plain.items()},
}


def _valued(plain: Any) -> Any:
    if isinstance(plain, dict):
        if len(plain) == 1:
            ((key, inner),) = plain.items()
            if key in _MARKED:
                return _MARKED[key](inner)
        return {k: _valued(v) for k, v in plain.items()}
    return [_valued(v) for v in plain] if isinstance(plain, list) else plain


_LISTED: Mapping[str, type[Any]] = {
    "events": SpanEvent, "links": SpanLink, "parts": Part, "tool_calls": ToolCall, "messages": ChatMessage,
    "tools": Tool, "outputs": ChatMessage, "feedback": Feedback, "lost": Loss,
}  # fmt: skip
_NESTED: Mapping[str, type[Any]] = {"error": Failure, "why_not": WhyNot}
_WORDS = frozenset({"stop", "spans", "finish_reasons"})  # fields that hold a tuple of words


_DEFAULTS: dict[type[Any], list[tuple[str, Any]]] = {}


def _defaults(kind: type[Any]) -> list[tuple[str, Any]]:
    if kind not in _DEFAULTS:
        made = ((f.name, f.default if f.default_factory is MISSING else f.default_factory()) for f in fields(kind))
        _DEFAULTS[kind] = [(name, None if default is MISSING else default) for name, default in made]
    return _DEFAULTS[kind]


def _as_json(record: Any) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for name, default in _defaults(type(record)):
        value = getattr(record, name)
        kind = type(value)
        if value is default or (kind is type(default) and value == default):
            continue
        if kind is str or kind is int:
            written[name] = value
        elif name in _LISTED:
            written[name] = [_as_json(item) for item in value]
        elif name in _NESTED or kind is Parameters:
            written[name] = _as_json(value)
        else:
            written[name] = _plain(value)
    return written


def _from_json(kind: type[_Record], record: Mapping[str, Any]) -> _Record:
    given: dict[str, Any] = {}
    for name, plain in record.items():
        if name in _LISTED:
            given[name] = tuple(_from_json(_LISTED[name], item) for item in plain)
        elif name in _NESTED:
            given[name] = _from_json(_NESTED[name], plain)
        elif name in _WORDS:
            given[name] = tuple(plain)
        elif kind is Call and name == "parameters":
            given[name] = _from_json(Parameters, plain)
        else:
            given[name] = _valued(plain)
    return kind(**given)


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces, the form in which two sets of arguments are compared."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
