"""What is evaluated: base, base+adapter, merged or full checkpoint, served endpoint, scripted answers.

A subject plugin's `build(options, context)` returns a `Subject`. Callers see only this interface, so an engine may
answer faster behind it as long as the answers stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from harness.records import Check, Draft, Message, Output, Request

Answers = list[tuple[int, Output]]
"""(index of the request, its output), for the requests that one batch finished."""


@dataclass(frozen=True, slots=True)
class SubjectContext:
    """What a subject plugin may use: where relative paths start, and a pool in which subjects share weights."""

    folder: Path
    pool: dict[Any, Any] = field(default_factory=dict)


class Subject(Protocol):
    """Something that answers requests.

    `fingerprint` is a SHA-256 over everything that can change an output (weights, adapter, tokenizer, chat
    template, dtype, device type, decoding rules): it keys the output cache, so two subjects that could answer
    differently must never share one.
    """

    name: str
    fingerprint: str
    chat_fingerprint: str

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text that the chat template makes of `messages`; raises SubjectError where there is no template."""
        ...

    def answer(self, requests: Sequence[Request], drafts: Sequence[Draft | None] = ()) -> Iterator[Answers]:
        """Answer every request exactly once, in batches of any size and order, each yielded when it is finished.

        `drafts` holds a guess for each request, or nothing at all; it may make an answer quicker, never different.
        A request that cannot be answered (too long, NaN logits, a server's refusal) yields an output with its
        `failure`, never an invented answer. SubjectError is for a subject that cannot be asked at all.
        """
        ...

    def remarks(self) -> Sequence[str]:
        """How the answers so far were made, in sentences worth telling: near-ties, fallbacks, what was saved."""
        ...

    def checks(self, baseline: Subject) -> Sequence[Check]:
        """This subject's own pre-flight checks when it stands as a candidate against `baseline`."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the manifest records: paths, hashes, dtype, device, library versions; JSON-ready, no secrets."""
        ...

    def close(self) -> None:
        """Release memory and connections; the subject is not used afterwards."""
        ...


@runtime_checkable
class Selective(Protocol):
    """A subject that knows beforehand which requests it can never answer, so that a gate need not pay to find out."""

    def refusal(self, request: Request) -> str | None:
        """Why `request` will be answered with a failure; None where it may be answered."""
        ...
