"""The client of served models: questions in, replies as they arrive, each paid for once

`openai/NAME` with an `api_base` is a server that speaks OpenAI's API (vLLM, SGLang, llama.cpp, `transformers serve`, a
gateway) and is spoken to directly; everything else goes through litellm, which can also be chosen for such a server by
another of its providers, such as `hosted_vllm/NAME` or `litellm_proxy/NAME`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from harness.errors import ConfigError, SubjectError
from harness.records import content_hash
from harness.served import Prices, Question, Reply, ServedOptions, _endpoints, _loop
from harness.served._asking import Asker, Tally, Wire
from harness.served._failures import Mask, Problem
from harness.served._litellm import LitellmWire, listed_prices, prices_beside_litellm
from harness.served._openai import OpenAIWire
from harness.served._store import ReplyStore
from harness.served.budget import Budget, Spending

__all__ = ["Budget", "Client", "Spending"]

_Arrived = tuple[str, Reply]
"""The digest of a question, and what came of it."""

_FORMAT = 1  # part of every fingerprint; to be counted up when the same question would be put in another way


class Client:
    """A served model that is asked many questions at a time; see `ServedOptions` for how many and how fast.

    `fingerprint` is a SHA-256 over what can change an answer: model and server, and never the key. With `store`, a
    SQLite file that other clients and processes may share, a reply is on disk before it is given out, and a question
    that was answered once is never sent again; a failure is not stored. With `budget`, what is left when it is spent
    comes back as failures of kind `budget`.

    May be used by several threads, and as a context manager.

    Raises:
        ConfigError: the variable of the key holds none, litellm does not know the provider, `api_base` is no URL, or a
            budget in dollars meets a model without known prices.
        PluginError: litellm is not installed.
        StorageError: the store cannot be opened.
    """

    def __init__(self, options: ServedOptions, *, store: Path | None = None, budget: Budget | None = None) -> None:
        """Nothing is asked yet."""
        self.options = options
        self._where = options.model.partition("/")[0], _public(options.api_base)
        self.fingerprint = content_hash({"format": _FORMAT, "model": options.model, "api_base": self._where[1]})
        key = _key(options)
        self._mask = Mask(key)
        self._wire = _wire(options, key)
        self._budget = budget
        self._tally = Tally()
        self._starting = threading.Lock()
        self._asker: Asker | None = None
        if budget is not None and budget.dollars is not None and self._prices is None:
            raise ConfigError(f"{options.model}: a budget in dollars needs its `prices`, for none are known")
        self._store = None if store is None else ReplyStore(store)

    def __enter__(self) -> Client:
        """Use as a context manager to close it."""
        return self

    def __exit__(self, *given: object) -> None:
        """Close it."""
        self.close()

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        """(index, reply) for each question exactly once, as the replies arrive; equal questions are asked once.

        What cannot be answered is a reply with its failure. Closing the iterator early cancels what is under way.

        Raises:
            StorageError: the store cannot be read or written; nothing that was given out is lost.
        """
        for batch in self.batches(questions):
            yield from batch

    def batches(self, questions: Sequence[Question]) -> Iterator[list[tuple[int, Reply]]]:
        """As `ask`, with what has arrived by then together, for those to whom every step costs something."""
        places: dict[str, list[int]] = {}
        for index, question in enumerate(questions):
            places.setdefault(question.digest(), []).append(index)
        known = {} if self._store is None else self._store.get(self.fingerprint, list(places))
        self._tally.remembered += len(known)
        if known:
            yield [pair for digest, reply in known.items() for pair in _everywhere(places[digest], reply)]
        unknown = [(digest, questions[where[0]]) for digest, where in places.items() if digest not in known]
        for batch in self._arriving(unknown):
            yield [pair for digest, reply in batch for pair in _everywhere(places[digest], reply)]

    def listed(self) -> dict[str, dict[str, Any]]:
        """Name → what the server says of it at /models; empty where it lists none, or litellm is in between.

        A model may be served that is not listed: some servers load what they are asked for.

        Raises:
            SubjectError: the server is not there, or does not accept the key.
        """
        try:
            said = _loop.run(self._opened().wire.models())
        except Problem as problem:
            if problem.kind in ("connection", "timeout", "authentication"):
                raise SubjectError(f"{self.options.model}: {self._mask(problem.detail)}") from None
            return {}
        entries = said.get("data") if isinstance(said, dict) else None
        named = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
        return {entry["id"]: entry for entry in named if isinstance(entry.get("id"), str)}

    @property
    def address(self) -> str:
        """Where the server is, without a login; empty where the provider's own address is used."""
        return self._where[1]

    def remarks(self) -> list[str]:
        """How the replies so far came about, in sentences: attempts, waiting, what was not sent, tokens and cost."""
        asker = self._asker
        return self._tally.sentences(0.0 if asker is None else asker.endpoint.waited)

    def close(self) -> None:
        """Close connections and store; what was given out is on disk."""
        with self._starting:
            asker, self._asker = self._asker, None
        if asker is not None:
            self._finalizer.detach()
            _loop.run(_end(asker, self._where))
        if self._store is not None:
            self._store.close()

    def _arriving(self, unknown: Sequence[tuple[str, Question]]) -> Iterator[list[_Arrived]]:
        """Digests and replies as they arrive, stored before they are given out."""
        if not unknown:
            return
        asker = self._opened()
        asker.prices = self._prices
        arrived: queue.SimpleQueue[list[_Arrived] | None] = queue.SimpleQueue()
        task = _loop.run(self._launch(asker, unknown, arrived.put))
        ended = False
        try:
            while (batch := arrived.get()) is not None:
                yield batch
            ended = True
        finally:
            if not ended:
                _loop.event_loop().call_soon_threadsafe(task.cancel)
                # The garbage collector may close an iterator anywhere, and the loop must not wait for itself.
                while not _loop.inside() and arrived.get() is not None:
                    pass
        error = task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is not None:
            raise error

    @functools.cached_property
    def _prices(self) -> Prices | None:
        known = prices_beside_litellm if isinstance(self._wire, OpenAIWire) else listed_prices
        return self.options.prices or known(self.options.model)

    def _opened(self) -> Asker:
        with self._starting:
            if self._asker is None:
                self._asker = _loop.run(self._open())
            return self._asker

    async def _open(self) -> Asker:
        endpoint = _endpoints.join(self._where, self.options)
        asker = Asker(self.options, self._wire, endpoint, None, self._budget, self._mask, tally=self._tally)
        _loop.at_end.add(self._wire.close)
        self._finalizer = weakref.finalize(self, _forget, asker, self._where)
        self._finalizer.atexit = False  # at the end of the process `_loop` closes what is open
        return asker

    async def _launch(
        self, asker: Asker, unknown: Sequence[tuple[str, Question]], give: Callable[[list[_Arrived] | None], None]
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self._run(asker, unknown, give))
        task.add_done_callback(lambda _: give(None))
        return task

    async def _run(
        self, asker: Asker, unknown: Sequence[tuple[str, Question]], give: Callable[[list[_Arrived]], None]
    ) -> None:
        """Workers answer one question after the other; what they find is stored in batches, as fast as the disk is."""
        found: asyncio.Queue[_Arrived | None] = asyncio.Queue()
        waiting = iter(unknown)

        async def work() -> None:
            for digest, question in waiting:
                found.put_nowait((digest, await asker.answer(question)))

        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(found, give))
            size = min(self.options.concurrency, len(unknown))
            await asyncio.gather(*(group.create_task(work()) for _ in range(size)))
            found.put_nowait(None)

    async def _keep(self, found: asyncio.Queue[_Arrived | None], give: Callable[[list[_Arrived]], None]) -> None:
        try:
            while True:
                items = [await found.get(), *_at_hand(found)]
                batch = [item for item in items if item is not None]
                if self._store is not None:
                    await asyncio.to_thread(self._store.put, self.fingerprint, batch)
                give(batch)
                if len(batch) < len(items):
                    return
        except asyncio.CancelledError:
            # Nobody waits for these any more, but they are paid for.
            if self._store is not None:
                left = [item for item in _at_hand(found) if item is not None]
                self._store.put(self.fingerprint, left)
            raise


def _at_hand(found: asyncio.Queue[_Arrived | None]) -> list[_Arrived | None]:
    return [found.get_nowait() for _ in range(found.qsize())]


def _everywhere(places: Sequence[int], reply: Reply) -> Iterator[tuple[int, Reply]]:
    """The reply at every place where the question stands; it is paid for at the first."""
    for index in places:
        yield index, reply
        reply = replace(reply, cost=0.0, seconds=0.0, attempts=0)


async def _end(asker: Asker, where: tuple[str, str]) -> None:
    _loop.at_end.discard(asker.wire.close)
    _endpoints.leave(where, asker.options)
    await asker.wire.close()


def _forget(asker: Asker, where: tuple[str, str]) -> None:
    """End what a client had open that nobody closed; called by the garbage collector, so it waits for nothing."""
    loop = _loop.event_loop()
    loop.call_soon_threadsafe(lambda: loop.create_task(_end(asker, where)))


def _wire(options: ServedOptions, key: str | None) -> Wire:
    provider, _, name = options.model.partition("/")
    if provider == "openai" and name and options.api_base is not None:
        if not options.api_base.startswith(("http://", "https://")) or not urlsplit(options.api_base).hostname:
            raise ConfigError(f"api_base {_public(options.api_base)!r} is no URL such as http://127.0.0.1:8000/v1")
        return OpenAIWire(name, options.api_base, key)
    return LitellmWire(options.model, options.api_base, key)


def _key(options: ServedOptions) -> str | None:
    if options.api_key_env is None:
        return None
    key = os.environ.get(options.api_key_env, "").strip()
    if not key:
        raise ConfigError(f"{options.model}: the environment variable {options.api_key_env} holds no key")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{options.model}: what {options.api_key_env} holds cannot be a key: not all of it is ASCII")
    return key


def _public(api_base: str | None) -> str:
    """The address without a login, to be told and compared."""
    if api_base is None:
        return ""
    parts = urlsplit(api_base)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
