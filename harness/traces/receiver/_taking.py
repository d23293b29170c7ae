"""What is done with the body of one request: decompressed, checked, redacted, and on disk before it is answered"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from harness.errors import StorageError, TraceError
from harness.traces import otlp
from harness.traces.admission import TooMany
from harness.traces.receiver._answers import Refusal
from harness.traces.receiver._bodies import decompress
from harness.traces.records import Span
from harness.traces.store import DEFAULT_TENANT, JournalFull, Store

Signal = Literal["traces", "logs"]

_JSON_SHARE = 4  # of the bytes that protobuf may have: as Python's values JSON takes many times its size


@dataclass(frozen=True, slots=True)
class Request:
    """The body of a request as it came: of `tenant`, of a signal, in a content type and encoding."""

    tenant: str
    signal: Signal
    body: bytes
    content_type: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What a request came to: records rejected by reason, and how many times were replaced."""

    rejected: Mapping[str, int]
    clamped: int = 0


@dataclass(slots=True)
class Taking:
    """Takes requests into a store. Two threads share it: one waits for the disk while the other works.

    The work is Python's, so a second thread could only take turns with the first; the lock spares them the turns.
    """

    store: Store
    most_body: int
    threads: int = 2
    _working: threading.Lock = field(default_factory=threading.Lock)

    def warm(self) -> None:
        """Load what the first request would otherwise wait for: a text that is long enough for every kind of look."""
        longest = Span("1" * 32, "1" * 16, attributes={"text": "word " * 20_000})
        self.store.admission(DEFAULT_TENANT).traces(otlp.encode_traces([longest]))
        self.store.admission(DEFAULT_TENANT).logs(b"")

    def take(self, request: Request) -> Taken:
        """Take a request; it is on disk when this returns.

        Raises:
            Refusal: it is not kept, and why.
        """
        with self._working:
            durable, taken = self._admitted(request)
        if durable is not None:
            with _full():
                durable.result()
        return taken

    def close(self) -> None:
        """Nothing to end; the store is the intake's."""

    def _admitted(self, request: Request) -> tuple[Future[None] | None, Taken]:
        content = decompress(request.body, request.encoding, self.most_body)
        rejected: dict[str, int] = {}
        now = time.time_ns()
        try:
            if request.content_type == otlp.JSON:
                content, rejected = self._as_protobuf(request.signal, content)
            admission = self.store.admission(request.tenant)
            admitted = admission.traces(content, now) if request.signal == "traces" else admission.logs(content, now)
        except TooMany as error:
            raise Refusal(413, str(error)) from None
        except TraceError as error:
            raise Refusal(400, str(error)) from None
        admitted.rejected.update(rejected)
        records = self.store.records(request.tenant, request.signal, admitted, now)
        durable = self.store.journal.append(*records) if records else None
        return durable, Taken(dict(admitted.rejected), admitted.clamped)

    def _as_protobuf(self, signal: Signal, content: bytes) -> tuple[bytes, dict[str, int]]:
        most = self.most_body // _JSON_SHARE
        if len(content) > most:
            raise Refusal(413, f"JSON larger than {most} bytes; send smaller batches")
        if signal == "traces":
            spans = otlp.decode_traces(content, otlp.JSON)
            return otlp.encode_traces(spans.items), {**spans.rejected}
        events = otlp.decode_logs(content, otlp.JSON)
        return otlp.encode_logs(events.items), {**events.rejected}


@contextmanager
def _full() -> Iterator[None]:
    """A disk that takes nothing more is the sender's to wait for."""
    try:
        yield
    except StorageError as error:
        full = isinstance(error, JournalFull)
        what = "the disk or the journal is full" if full else "the journal cannot be written"
        raise Refusal(503, f"{what}; send it again later", retry_after=5) from error
