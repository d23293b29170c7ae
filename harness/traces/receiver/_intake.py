"""What waits to be taken, and how much of it may: bounded in bytes, and in the time that it will take

That time is what the last requests show. Who would wait longer is told to come again, so nothing piles up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from harness.traces.receiver._answers import Refusal
from harness.traces.receiver._taking import Request, Taken
from harness.traces.store import Store

_FIRST_GUESS = 1e-7  # seconds a byte
_FADING = 0.9
_RETRY_AFTER = 1


class Taker(Protocol):
    """Takes requests in this process (`Taking`) or in others (`Crew`), from as many threads as it says."""

    threads: int

    def take(self, request: Request) -> Taken:
        """Take a request; it is on disk when this returns. Raises Refusal."""

    def close(self) -> None:
        """End what was started."""


@dataclass(slots=True)
class Intake:
    """Takes requests into a store. `most_wait` is in seconds, `most_bytes` and `most_body` are bytes."""

    store: Store
    taker: Taker
    most_body: int
    most_bytes: int
    most_wait: float
    _threads: ThreadPoolExecutor = field(init=False)
    _waiting: int = 0
    _seconds: float = _FIRST_GUESS * 2**20
    _bytes: float = 2**20
    """What recent requests took, and how large they were; both fade."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._threads = ThreadPoolExecutor(self.taker.threads, thread_name_prefix="intake")

    def check(self, size: int) -> None:
        """Whether a request that says it has so many bytes may come in.

        Raises:
            Refusal: 503, because what waits already will take too long.
        """
        with self._lock:
            seconds = (self._waiting + size) * self._seconds / self._bytes / self.taker.threads
            if self._waiting and seconds > self.most_wait:
                raise Refusal(503, "too much is waiting to be stored; send it again later", retry_after=_RETRY_AFTER)

    def reserve(self, size: int) -> None:
        """Make room for so many bytes of a body.

        Raises:
            Refusal: 503, because there is no memory for them.
        """
        with self._lock:
            if self._waiting + size > self.most_bytes:
                raise Refusal(503, "too much is waiting to be stored; send it again later", retry_after=_RETRY_AFTER)
            self._waiting += size

    def release(self, size: int) -> None:
        """Give the room back."""
        with self._lock:
            self._waiting -= size

    async def take(self, request: Request) -> Taken:
        """Decompress, check, redact and keep a body; it is on disk when this returns.

        Raises:
            Refusal: it is not kept, and why.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._timed, request)

    def take_now(self, request: Request) -> Taken:
        """The same for a caller that waits on a thread of its own."""
        try:
            return self._threads.submit(self._timed, request).result()
        except RuntimeError as error:  # the threads have been shut down
            raise Refusal(503, "the receiver is stopping; send it again later", retry_after=_RETRY_AFTER) from error

    def _timed(self, request: Request) -> Taken:
        began = time.perf_counter()
        try:
            return self.taker.take(request)
        finally:
            with self._lock:
                self._seconds = _FADING * self._seconds + time.perf_counter() - began
                self._bytes = _FADING * self._bytes + len(request.body)

    def close(self) -> None:
        """Finish what waits, and close the store."""
        self._threads.shutdown(wait=True)
        self.taker.close()
        self.store.close()
