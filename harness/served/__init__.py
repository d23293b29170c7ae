"""Asks models behind an API, through litellm: concurrency and rate limits, retries, cost, a budget that stops cleanly.

What cannot be answered is a reply with its failure, of a named kind, and never an empty text. Used by judges, by served
subjects and by distillation. See `harness.served.client`; litellm is imported when it is needed, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.records import Message, content_hash

FailureKind = Literal[
    "rate-limited", "server", "timeout", "connection", "authentication", "rejected", "filtered", "empty", "truncated",
    "unreadable", "budget",
]  # fmt: skip
"""Why there is no answer. `rejected`: the server will never accept this request; `filtered`: it refused the content;
`truncated`: cut off by the token limit where a whole answer was needed; `unreadable`: an answer that says nothing that
was asked for; `budget`: not sent, because what may be spent is spent."""


class Prices(BaseModel):
    """What a model costs, for one that litellm's own table does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0, description="US dollars per million tokens read")
    output: float = Field(ge=0, description="US dollars per million tokens written")


class ServedOptions(BaseModel):
    """A served model, and how hard it may be asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="litellm's name of it, such as openai/NAME for a server that speaks OpenAI's API")
    api_base: str | None = Field(None, description="URL of the server, such as http://127.0.0.1:8000/v1")
    api_key_env: str | None = Field(None, description="environment variable that holds the key; it is never written")
    concurrency: int = Field(8, ge=1, description="requests under way at a time")
    requests_per_minute: float | None = Field(None, gt=0, description="no more requests than this are started a minute")
    tokens_per_minute: float | None = Field(None, gt=0, description="no more tokens than this, read and written")
    timeout: float = Field(120, gt=0, description="seconds that one attempt may take")
    retries: int = Field(4, ge=0, description="further attempts at a request that failed in a way that may pass")
    patience: float = Field(600, gt=0, description="seconds after which a request that failed is not tried again")
    prices: Prices | None = Field(None, description="instead of litellm's own table")


@dataclass(frozen=True, slots=True)
class Question:
    """One request to a chat model. `schema`: a JSON schema that the answer has to satisfy, offered where supported.

    `raw` sends the text of the one message as it stands, to be continued, past any chat template (/v1/completions).
    `tools`, `tool_choice` and `response_format` are canonical JSON as in `harness.records.Generate`, or empty; they are
    sent as they are, and a server that does not take them has rejected the question.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    until: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = field(default=None, hash=False)
    raw: bool = False
    tools: str = ""
    tool_choice: str = ""
    response_format: str = ""

    def __post_init__(self) -> None:
        if self.response_format and self.schema is not None:
            raise ValueError("a question has either a schema or a response_format")

    def digest(self) -> str:
        """SHA-256 over everything that is asked; with a client's fingerprint it is the key of the memory of replies."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["messages"] = [[m.role, m.content, *_more(m)] for m in self.messages]
        # What was asked before there were these is still found under its old key.
        return content_hash({k: v for k, v in values.items() if v != "" or k not in _ONLY_IF_GIVEN})


_ONLY_IF_GIVEN = ("tools", "tool_choice", "response_format")


def _more(message: Message) -> list[Any]:
    """What a message holds beside its text; what has nothing keeps the key that it had before there was any of it."""
    pictures = [picture.as_json() for picture in message.pictures]
    calls = [message.tool_calls, message.tool_call_id] if message.tool_calls or message.tool_call_id or pictures else []
    return [*calls, pictures] if pictures else calls


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer, without secrets; `detail` is for people."""

    kind: FailureKind
    detail: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a question: a text or a failure, never both. With `tool_calls` the text may be empty.

    Tokens and `cost` (US dollars) are those of all attempts that the server charged for, by its own count; `cost` is
    None where no price is known, or the server counts nothing. `seconds` runs from the first attempt to the last,
    waiting included; `latency` is that of the attempt that was answered. `tool_calls` is canonical JSON as in
    `harness.records.Message`, `finish` the word with which the server ended. `attempts` is 0 for a reply that was paid
    for before, under another index or in another run: it costs 0, and its tokens and latency are what they were then.
    """

    text: str | None = None
    failure: Failure | None = None
    truncated: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    tool_calls: str = ""
    finish: str = ""
    latency: float = 0.0

    def __post_init__(self) -> None:
        if (self.text is None) == (self.failure is None):
            raise ValueError("a reply holds either a text or a failure")
