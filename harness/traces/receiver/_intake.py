"""What is done with the body of a request, one after the other on a thread of its own, and how much may wait for it

The work is Python's, so a second thread would only take turns with the first. What waits is bounded by the time that
it will take, as far as the last requests show: who would wait longer is told to come again, and nothing piles up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness.errors import StorageError, TraceError
from harness.traces import otlp
from harness.traces.admission import TooMany
from harness.traces.receiver._answers import Refusal
from harness.traces.receiver._bodies import decompress
from harness.traces.store import JournalFull, Store

_FIRST_GUESS = 1e-7  # seconds a byte
_JSON_SHARE = 4  # of the bytes that protobuf may have: as Python's values JSON takes many times its size
_FADING = 0.9
_RETRY_AFTER = 1


@dataclass(frozen=True, slots=True)
class Taken:
    """What a request came to: records rejected by reason, and how many times were replaced."""

    rejected: Mapping[str, int]
    clamped: int = 0


@dataclass(slots=True)
class Intake:
    """Takes requests into a store. `most_wait` is in seconds, `most_bytes` and `most_body` are bytes."""

    store: Store
    most_body: int
    most_bytes: int
    most_wait: float
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="intake"))
    _waiting: int = 0
    _seconds: float = _FIRST_GUESS * 2**20
    _bytes: float = 2**20
    """What recent requests took, and how large they were; both fade."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, size: int) -> None:
        """Whether a request that says it has so many bytes may come in.

        Raises:
            Refusal: 503, because what waits already will take too long.
        """
        with self._lock:
            if self._waiting and (self._waiting + size) * self._seconds / self._bytes > self.most_wait:
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

    async def take(self, tenant: str, signal: str, body: bytes, kind: str, encoding: str) -> Taken:
        """Decompress, check, redact and keep a body; it is on disk when this returns.

        Raises:
            Refusal: it is not kept, and why.
        """
        loop = asyncio.get_running_loop()
        durable, taken = await loop.run_in_executor(self._worker, self._admit, tenant, signal, body, kind, encoding)
        if durable is not None:
            with _full():
                await asyncio.wrap_future(durable)
        return taken

    def take_now(self, tenant: str, signal: str, body: bytes, kind: str, encoding: str) -> Taken:
        """The same for a caller that waits on a thread of its own."""
        try:
            durable, taken = self._worker.submit(self._admit, tenant, signal, body, kind, encoding).result()
        except RuntimeError as error:  # the worker has been shut down
            raise Refusal(503, "the receiver is stopping; send it again later", retry_after=_RETRY_AFTER) from error
        if durable is not None:
            with _full():
                durable.result()
        return taken

    def _admit(
        self, tenant: str, signal: str, body: bytes, kind: str, encoding: str
    ) -> tuple[Future[None] | None, Taken]:
        began = time.perf_counter()
        try:
            return self._admitted(tenant, signal, decompress(body, encoding, self.most_body), kind)
        finally:
            self._seconds = _FADING * self._seconds + time.perf_counter() - began
            self._bytes = _FADING * self._bytes + len(body)

    def _admitted(self, tenant: str, signal: str, content: bytes, kind: str) -> tuple[Future[None] | None, Taken]:
        rejected: dict[str, int] = {}
        now = time.time_ns()
        try:
            if kind == otlp.JSON:
                if len(content) > self.most_body // _JSON_SHARE:
                    raise Refusal(413, f"JSON larger than {self.most_body // _JSON_SHARE} bytes; send smaller batches")
                content, rejected = _as_protobuf(signal, content)
            admission = self.store.admission(tenant)
            admitted = admission.traces(content, now) if signal == "traces" else admission.logs(content, now)
        except TooMany as error:
            raise Refusal(413, str(error)) from None
        except TraceError as error:
            raise Refusal(400, str(error)) from None
        admitted.rejected.update(rejected)
        records = self.store.records(tenant, "traces" if signal == "traces" else "logs", admitted, now)
        durable = self.store.journal.append(*records) if records else None
        return durable, Taken(dict(admitted.rejected), admitted.clamped)

    def close(self) -> None:
        """Finish what waits, and close the store."""
        self._worker.shutdown(wait=True)
        self.store.close()


@contextmanager
def _full() -> Iterator[None]:
    """A disk that takes nothing more is the sender's to wait for."""
    try:
        yield
    except StorageError as error:
        full = isinstance(error, JournalFull)
        what = "the disk or the journal is full" if full else "the journal cannot be written"
        raise Refusal(503, f"{what}; send it again later", retry_after=5) from error


def _as_protobuf(signal: str, content: bytes) -> tuple[bytes, dict[str, int]]:
    if signal == "traces":
        spans = otlp.decode_traces(content, otlp.JSON)
        return otlp.encode_traces(spans.items), {**spans.rejected}
    events = otlp.decode_logs(content, otlp.JSON)
    return otlp.encode_logs(events.items), {**events.rejected}
