"""A clock that a test moves, and a server that answers from a list: for all of asking that needs no network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.records import Message
from harness.served import Question, ServedOptions
from harness.served._asking import Asker
from harness.served._endpoints import Endpoint


@dataclass
class FakeClock:
    """Time passes only in `sleep`, and all at once."""

    time: float = 0.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)
        self.time += seconds


def completion(text: str = "yes", read: int = 10, written: int = 1) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": read, "completion_tokens": written}}


@dataclass
class FakeWire:
    """Answers with what stands next in `script`, raising exceptions, and with `completion()` when it is used up."""

    script: list[Any] = field(default_factory=list)
    takes_schemas: bool = True
    sent: list[tuple[Question, bool]] = field(default_factory=list)
    meanwhile: Callable[[], Any] = lambda: None

    def unsupported(self, question: Question, *, schema: bool) -> tuple[str, ...]:
        return ()

    async def send(self, question: Question, *, schema: bool) -> Any:
        self.sent.append((question, schema))
        self.meanwhile()
        await asyncio.sleep(0)
        said = self.script.pop(0) if self.script else completion()
        if isinstance(said, Exception):
            raise said
        return said

    async def models(self) -> Any:
        return {}

    async def close(self) -> None:
        pass


def question(text: str = "?", **more: Any) -> Question:
    return Question((Message("user", text),), **more)


def asker(wire: FakeWire, clock: FakeClock | None = None, *, jitter: float = 0.5, **more: Any) -> Asker:
    settings = {k: more.pop(k) for k in list(more) if k in ServedOptions.model_fields and k != "prices"}
    options = ServedOptions(model="openai/m", **settings)
    endpoint = Endpoint(clock or FakeClock())
    endpoint.join(options)
    return Asker(options, wire, endpoint, jitter=lambda: jitter, **more)


def answers(made: Asker, questions: Sequence[Question]) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(made.answer(q) for q in questions))

    return asyncio.run(all_of_them())
