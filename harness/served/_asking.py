"""One question until it has an answer or a failure: limits, budget, attempts, and the waiting between them"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.records import content_hash
from harness.served import Failure, Prices, Question, Reply, ServedOptions
from harness.served._endpoints import Endpoint
from harness.served._failures import Mask, Problem, Used
from harness.served._payload import Said, read
from harness.served.budget import Budget, Spending

_FIRST_WAIT = 0.5  # seconds; doubled with every further attempt
_LONGEST_WAIT = 60.0
_LONGEST_ASKED = 120.0  # a server that asks for more than this is not waited for


class Wire(Protocol):
    """The way to a server."""

    def unsupported(self, question: Question, *, schema: bool) -> tuple[str, ...]:
        """Parameters of a question that will not be sent, because the provider has none such."""
        ...

    async def send(self, question: Question, *, schema: bool) -> Any:
        """The answer in the shape of OpenAI's API; raises Problem."""
        ...

    async def models(self) -> Any:
        """The server's list of models in the shape of OpenAI's API; raises Problem."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


@dataclass(slots=True)
class Tally:
    """What came of all questions of a client, for its remarks."""

    sent: int = 0
    answered: int = 0
    remembered: int = 0
    read: int = 0
    written: int = 0
    cost: float | None = 0.0
    retried: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    unsupported: set[str] = field(default_factory=set)
    schemas_refused: bool = False

    def sentences(self, waited: float) -> list[str]:
        """All of it in words; `waited` is in seconds, for rate limits."""
        cost = "at a cost that is not known" if self.cost is None else f"for ${self.cost:.4g}"
        said = []
        if self.sent:
            tokens = f"{self.read} tokens read and {self.written} written"
            said.append(f"{self.sent} requests sent, {self.answered} answered: {tokens}, {cost}")
        if self.remembered:
            said.append(f"{self.remembered} replies were known from before, and nothing was sent for them")
        if self.retried:
            said.append(f"tried again: {_counted(self.retried)}")
        if waited >= 1:
            said.append(f"requests waited {waited:.0f} s in all for the rate limits of the server")
        if self.failed:
            said.append(f"without an answer: {_counted(self.failed)}")
        if self.unsupported:
            said.append(f"the provider has no {' and no '.join(sorted(self.unsupported))}: not sent")
        if self.schemas_refused:
            said.append("the server takes no JSON schema (response_format): asked without")
        return said


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))


@dataclass(slots=True)
class _Course:
    """How one question went so far."""

    began: float | None = None
    attempts: int = 0
    failures: int = 0
    latency: float = 0.0  # seconds of the attempt that was answered
    used: Used = field(default_factory=Used)
    counted: bool = True  # whether the server has counted the tokens of what it answered

    def add(self, used: Used | None, *, answered: bool) -> None:
        if used is not None:
            self.used = Used(self.used.prompt + used.prompt, self.used.completion + used.completion)
        elif answered:
            self.counted = False


class _OutOfBudget(Exception):
    pass


@dataclass(slots=True)
class Asker:
    """Asks one server; everything runs in the one event loop. `jitter` draws from [0, 1)."""

    options: ServedOptions
    wire: Wire
    endpoint: Endpoint
    prices: Prices | None = None
    budget: Budget | None = None
    mask: Mask = field(default_factory=Mask)
    jitter: Callable[[], float] = random.random
    tally: Tally = field(default_factory=Tally)
    _plain: set[str] = field(default_factory=set)  # hashes of schemas that the server does not take
    _slots: asyncio.Semaphore | None = None

    async def answer(self, question: Question) -> Reply:
        """The reply, whatever happens; only cancellation gets out."""
        reply = await self._answer(question)
        self._count(reply)
        return reply

    async def _answer(self, question: Question) -> Reply:
        course = _Course()
        schema = question.schema is not None and content_hash(question.schema) not in self._plain
        self.tally.unsupported.update(self.wire.unsupported(question, schema=schema))
        while True:
            if self.budget is not None and self.budget.exhausted:
                return self._without_budget(course)
            try:
                said = await self._attempt(question, schema, course)
            except _OutOfBudget:
                return self._without_budget(course)
            except Problem as problem:
                course.add(problem.used, answered=False)
                if schema and problem.kind == "rejected":
                    # It may be the schema that is not taken: once without it, and if that works, never with it.
                    schema = False
                    continue
                wait = self._wait(problem, course)
                if wait is None:
                    return self._reply(course, failure=Failure(problem.kind, self.mask(problem.detail)))
                self.tally.retried[problem.kind] += 1
                await self.endpoint.clock.sleep(wait)
            else:
                course.add(said.used, answered=True)
                if question.schema is not None and not schema:
                    self._plain.add(content_hash(question.schema))
                    self.tally.schemas_refused = True
                return self._reply(course, said)

    async def _attempt(self, question: Question, schema: bool, course: _Course) -> Said:
        """One request, when the limits let it through.

        Raises:
            Problem: it was not answered.
            _OutOfBudget: it was not sent.
        """
        if self._slots is None:
            self._slots = asyncio.Semaphore(self.options.concurrency)
        size = sum(len(f"{m.content}{m.tool_calls}".encode("utf-8", "replace")) for m in question.messages)
        size += len(f"{question.tools}{question.response_format}".encode("utf-8", "replace"))
        likely = size / 4 + question.max_tokens / 2
        most = self._spending(Used(size + 64 + 16 * len(question.messages), question.max_tokens))
        async with self._slots, self.endpoint.slots:
            await self.endpoint.admit(likely)
            if self.budget is not None and not await self.budget.reserve(most):
                raise _OutOfBudget
            course.attempts += 1
            self.tally.sent += 1
            if course.began is None:
                course.began = self.endpoint.clock.now()
            spent = most  # an attempt that is cancelled has perhaps been charged with all of it
            began = self.endpoint.clock.now()
            try:
                said = await self._exchange(question, schema)
                course.latency = self.endpoint.clock.now() - began
                spent = most if said.used is None else self._spending(said.used)
                return said
            except Problem as problem:
                if problem.used is not None or not problem.perhaps_charged:
                    spent = self._spending(problem.used or Used())
                raise
            finally:
                if self.budget is not None:
                    self.budget.settle(most, spent)
                self.endpoint.correct(spent.tokens - likely)

    async def _exchange(self, question: Question, schema: bool) -> Said:
        try:
            async with asyncio.timeout(self.options.timeout):
                payload = await self.wire.send(question, schema=schema)
            return read(payload, tools=bool(question.tools))
        except Problem:
            raise
        except TimeoutError:
            detail = f"no answer within {self.options.timeout:g} s"
            raise Problem("timeout", detail, passes=True, perhaps_charged=True) from None
        except Exception as error:  # whatever a library below makes of what a server says is no reason to stop
            raise Problem("unreadable", f"{type(error).__name__}: {error}", perhaps_charged=True) from None

    def _wait(self, problem: Problem, course: _Course) -> float | None:
        """Seconds until the next attempt, or None where there is none: exponential, with full jitter.

        As in M. Brooker, Exponential Backoff and Jitter (AWS Architecture Blog, 2015). Where the server says how long,
        all its clients wait so long, and a little apart.
        """
        course.failures += 1
        asked = problem.retry_after
        if asked is not None:
            self.endpoint.pause(min(asked, _LONGEST_ASKED))
        if not problem.passes or course.failures > self.options.retries:
            return None
        if asked is not None and asked > _LONGEST_ASKED:
            problem.detail += f"; it asks to wait {asked:.0f} s"
            return None
        wait = self.jitter() * min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (course.failures - 1))
        wait = wait if asked is None else asked + min(wait, 1.0)
        return None if self._elapsed(course) + wait > self.options.patience else wait

    def _spending(self, used: Used) -> Spending:
        return Spending(1, used.prompt + used.completion, self._cost(used) or 0.0)

    def _cost(self, used: Used) -> float | None:
        if self.prices is None:
            return None
        return (used.prompt * self.prices.input + used.completion * self.prices.output) / 1e6

    def _charge(self, course: _Course) -> float | None:
        if not course.attempts:
            return 0.0
        return self._cost(course.used) if course.counted else None

    def _elapsed(self, course: _Course) -> float:
        return 0.0 if course.began is None else self.endpoint.clock.now() - course.began

    def _without_budget(self, course: _Course) -> Reply:
        spent = "" if self.budget is None else self.budget.describe()
        return self._reply(course, failure=Failure("budget", f"not sent, because the budget is spent ({spent})"))

    def _reply(self, course: _Course, said: Said | None = None, *, failure: Failure | None = None) -> Reply:
        return Reply(
            None if said is None else said.text,
            failure,
            said is not None and said.truncated,
            course.used.prompt,
            course.used.completion,
            self._charge(course),
            self._elapsed(course),
            course.attempts,
            "" if said is None else said.tool_calls,
            "" if said is None else said.finish,
            course.latency,
        )

    def _count(self, reply: Reply) -> None:
        tally = self.tally
        tally.answered += reply.failure is None
        if reply.failure is not None:
            tally.failed[reply.failure.kind] += 1
        tally.read += reply.prompt_tokens
        tally.written += reply.completion_tokens
        tally.cost = None if tally.cost is None or reply.cost is None else tally.cost + reply.cost
