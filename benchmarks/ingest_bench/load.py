"""The load generator, a process of its own: sends prepared requests at a rate and notes what was acknowledged when"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.ingest_bench.payloads import Payload


@dataclass(slots=True)
class Outcome:
    """What became of the requests; latencies in seconds from the moment a request was due (or sent, without a rate)."""

    acknowledged: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def quantile(self, share: float) -> float:
        """A quantile of the latencies of acknowledged requests."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Load:
    """Sends `payloads` over so many connections; `rate` is in requests a second, None: as fast as they are answered.

    With `retries` a request that was refused with 503 is sent again until it is taken, as an exporter would.
    """

    def __init__(
        self, port: int, payloads: Sequence[Payload], *, connections: int = 8, rate: float | None = None,
        retries: bool = False,
    ) -> None:  # fmt: skip
        self._port, self._payloads, self._rate, self._retries = port, payloads, rate, retries
        self._next, self._lock, self._stop = 0, threading.Lock(), threading.Event()
        self._began = 0.0
        self.outcome = Outcome()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(connections)]

    def run(self) -> Outcome:
        """Send everything, or until `stop`."""
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        self.outcome.seconds = time.monotonic() - self._began
        return self.outcome

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()

    def _send(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while (turn := self._turn()) is not None:
            while self._sent(connection, *turn) == "503" and self._retries and not self._stop.wait(0.05):
                pass

    def _sent(self, connection: http.client.HTTPConnection, due: float, payload: Payload) -> str:
        headers = {"content-type": "application/x-protobuf", "content-encoding": "gzip"}
        try:
            connection.request("POST", "/v1/traces", payload.body, headers)
            answer = connection.getresponse()
            answer.read()
            said = str(answer.status)
        except (OSError, http.client.HTTPException) as error:
            said = type(error).__name__
            connection.close()
            self._stop.wait(0.05)
        self._note(said, due, payload)
        return said

    def _turn(self) -> tuple[float, Payload] | None:
        with self._lock:
            index = self._next
            self._next += 1
        if index >= len(self._payloads) or self._stop.is_set():
            return None
        due = self._began + index / self._rate if self._rate else time.monotonic()
        if self._stop.wait(max(0.0, due - time.monotonic())):
            return None
        return due, self._payloads[index]

    def _note(self, answer: str, due: float, payload: Payload) -> None:
        now = time.monotonic()
        with self._lock:
            self.outcome.answers[answer] += 1
            if answer == "200":
                self.outcome.acknowledged += payload.ids
                self.outcome.latencies.append(now - due)
