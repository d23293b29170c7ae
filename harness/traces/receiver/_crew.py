"""Several processes that take requests, for redaction is Python's and one process has one core of it

The receiver hands each request to whichever is free, so no process is busy while another idles, however the clients'
connections are spread. A process has one request at a time and a journal file of its own; it ends with the receiver,
whose end of the pipe it reads from, and one that was killed is started again by the request that finds it gone.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from queue import SimpleQueue

from harness.errors import InfrastructureError
from harness.traces.receiver._answers import Refusal
from harness.traces.receiver._taking import Request, Taken, Taking

_START_SECONDS = 120
_GRACE = 30
_LOG = logging.getLogger(__name__)

Opener = Callable[[], Taking]
"""Makes in a new process what takes its requests; it goes there by pickle."""


class Crew:
    """So many processes that take requests."""

    def __init__(self, opener: Opener, size: int) -> None:
        """Start them and wait until they can work.

        Raises:
            InfrastructureError: one of them ends at once.
        """
        self.threads = size
        context = multiprocessing.get_context("spawn")
        self.members = [_Member(context, opener) for _ in range(size)]
        self._free: SimpleQueue[_Member] = SimpleQueue()
        try:
            for member in self.members:
                member.ready()
                self._free.put(member)
        except InfrastructureError:
            self.close()
            raise

    def take(self, request: Request) -> Taken:
        """Have a process take a request; it is on disk when this returns.

        Raises:
            Refusal: it is not kept, and why; 503 where its process was killed over it.
        """
        member = self._free.get()
        try:
            return member.take(request)
        finally:
            self._free.put(member)

    def close(self) -> None:
        """End all processes; each finishes what it has."""
        for member in self.members:
            member.close()


class _Member:
    """A process of the crew and this end of its pipe; used by one thread at a time."""

    def __init__(self, context: SpawnContext, opener: Opener) -> None:
        self._context, self._opener = context, opener
        self._start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid or 0

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process: SpawnProcess = self._context.Process(target=_work, args=(self._opener, theirs))
        self._process.start()
        theirs.close()  # so that its end is the pipe's end

    def ready(self) -> None:
        """Wait until it can work.

        Raises:
            InfrastructureError: it has ended instead.
        """
        try:
            if self._pipe.poll(_START_SECONDS) and self._pipe.recv() is None:
                return
        except (EOFError, OSError):
            pass
        raise InfrastructureError("a process of the receiver ended before it could take anything; see what it printed")

    def take(self, request: Request) -> Taken:
        try:
            self._pipe.send(request)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._renew()
            raise Refusal(503, "the process that took it has ended; send it again later", retry_after=1) from error
        if isinstance(answer, Refusal):
            raise answer
        if not isinstance(answer, Taken):
            raise RuntimeError(answer)
        return answer

    def _renew(self) -> None:
        self._pipe.close()
        self._process.join(_GRACE)
        _LOG.warning("process %s ended with code %s and is started again", self._process.pid, self._process.exitcode)
        self._start()
        self.ready()

    def close(self) -> None:
        self._pipe.close()
        self._process.join(_GRACE)
        if self._process.is_alive():
            self._process.kill()


def _work(opener: Opener, pipe: Connection) -> None:
    """What a process of the crew does until the other end of its pipe is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # of the terminal or the supervisor's group; the pipe says when
        signal.signal(number, signal.SIG_IGN)
    taking = opener()
    taking.warm()
    try:
        pipe.send(None)
        while True:
            pipe.send(_answer(taking, pipe.recv()))
    except (EOFError, OSError):
        taking.store.close()


def _answer(taking: Taking, request: Request) -> Taken | Refusal | str:
    try:
        return taking.take(request)
    except Refusal as refusal:
        return refusal
    except Exception as error:  # the message may repeat what was sent, so only the kind of the error goes on
        return f"a process of the receiver failed: {type(error).__name__}"
