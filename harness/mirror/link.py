"""The proxy's end of the comparing process: what waits for it is bounded, and it is started again when it dies

A copy holds its room from the moment that it is taken until what became of it is in the books. Counts are kept here
until they are booked. So the books add up whatever dies, and nothing waits beyond the bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing.context import SpawnProcess
from typing import Any

from harness.mirror import comparer, frames
from harness.mirror.config import Loaded
from harness.mirror.frames import Frame, Job
from harness.mirror.ledger import BY_CHOICE, RECEIVED

_FLUSH_SECONDS = 0.2
_PAGE_SECONDS = 10.0
_LONGEST_PAUSE = 30.0
_STOP_SECONDS = 5.0
_BOOKING_SECONDS = 30.0

Tell = Callable[[str], None]


class Link:
    """See the module. Everything but the constructor runs in one event loop."""

    def __init__(self, loaded: Loaded, tell: Tell = lambda _: None) -> None:
        self._loaded, self._tell = loaded, tell
        section = loaded.config.copying
        self._most_calls, self._most_bytes = section.queue_calls, section.queue_bytes
        self._epoch = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._held: dict[int, tuple[str, int, list[str]]] = {}
        self._bytes = 0
        self.most_held = (0, 0)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._kinds: Counter[str] = Counter()
        self._blocks: dict[int, Frame] = {}
        self._block_numbers = itertools.count(1)
        self._writer: asyncio.StreamWriter | None = None
        self._pages: dict[int, asyncio.Future[tuple[bytes, str]]] = {}
        self._process: SpawnProcess | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._off = False
        self._closing = False  # nothing more is taken
        self._stopping = False  # nothing is started again
        self._ready = asyncio.Event()

    # ------------------------------------------------------------ what the proxy calls

    async def start(self) -> None:
        """Start the process, and wait until it keeps books."""
        self._tasks = [asyncio.create_task(self._keep_alive()), asyncio.create_task(self._flush_often())]
        waiting = asyncio.create_task(self._ready.wait())
        await asyncio.wait([waiting, self._tasks[0]], return_when=asyncio.FIRST_COMPLETED, timeout=30)
        waiting.cancel()

    async def stop(self) -> None:
        """Let what is under way end within some seconds, book the rest, and end the process."""
        self._closing = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_booked(), _BOOKING_SECONDS)
        self._stopping = True
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(Frame("stop", {"seconds": _STOP_SECONDS}).pack())
        if self._process is not None:
            await asyncio.to_thread(self._process.join, 4 * _STOP_SECONDS)
            self.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _all_booked(self) -> None:
        """Until every count is in the books; where the process has died, by the one that is started next."""
        while self._counts or self._blocks:
            self._flush()
            await asyncio.sleep(_FLUSH_SECONDS / 4)

    def kill(self) -> None:
        """End a process that `stop` did not end."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    @property
    def off(self) -> bool:
        """Whether nothing is copied, because somebody said so."""
        return self._off

    @property
    def pid(self) -> int | None:
        """The comparing process."""
        return None if self._process is None else self._process.pid

    def switch(self, *, off: bool) -> None:
        """Stop copying at once, or go on."""
        if off != self._off:
            self._off = off
            self._tell("the mirror is switched off" if off else "the mirror is switched on")
            self._write(Frame("switch", {"off": off}))

    def received(self, tenant: str) -> None:
        """Count a call as it arrives; `dropped` or `offer` says later what became of it."""
        self._counts[tenant, RECEIVED] += 1

    def dropped(self, tenant: str, reason: str, kinds: Iterable[str]) -> None:
        """Count what became of a call that is not compared."""
        self._counts[tenant, reason] += 1
        if reason not in BY_CHOICE:
            self._kinds.update(kinds)

    def refusal(self, size: int) -> str:
        """Why there is no room for a call of so many bytes; empty where there is."""
        if self._closing:
            return "shutdown"
        if self._writer is None:
            return "comparer_down"
        if len(self._held) >= self._most_calls:
            return "queue_full"
        return "queue_bytes" if self._bytes + size > self._most_bytes else ""

    def offer(self, job: Callable[[int], Job], tenant: str, size: int, kinds: list[str]) -> None:
        """Hand a call over, where there is room; else count why not."""
        reason = self.refusal(size)
        if reason or self._writer is None:
            self.dropped(tenant, reason, kinds)
            return
        number = next(self._numbers)
        self._held[number] = (tenant, size, kinds)
        self._bytes += size
        self.most_held = max(self.most_held[0], len(self._held)), max(self.most_held[1], self._bytes)
        self._writer.write(job(number).frame().pack())

    async def page(self) -> tuple[bytes, str] | None:
        """The live page and its policy, as the comparing process draws it; None where it does not answer."""
        if self._writer is None:
            return None
        self._flush()
        number = next(self._numbers)
        answer = self._pages[number] = asyncio.get_running_loop().create_future()
        self._write(Frame("page", {"id": number}))
        try:
            return await asyncio.wait_for(answer, _PAGE_SECONDS)
        except TimeoutError:
            return None
        finally:
            self._pages.pop(number, None)

    # ------------------------------------------------------------ the process

    async def _keep_alive(self) -> None:
        pause = 0.5
        while not self._stopping:
            ours, theirs = socket.socketpair()
            context = multiprocessing.get_context("spawn")
            arguments = (self._loaded.path, self._loaded.aa, theirs)
            self._process = context.Process(target=comparer.main, args=arguments, name="comparer", daemon=True)
            await asyncio.to_thread(self._process.start)
            theirs.close()
            if await self._converse(ours):
                pause = 0.5
            self._lost()
            if not self._stopping:
                self._tell("the comparing process has ended; users are served on, and it is started again")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _converse(self, connection: socket.socket) -> bool:
        """Talk to the process until it ends; whether it ever was ready."""
        reader, writer = await asyncio.open_connection(sock=connection, limit=2**20)
        writer.write(Frame("hello", {"epoch": self._epoch}).pack())
        ready = False
        while (frame := await frames.read(reader)) is not None:
            if frame.kind == "ready":
                self._resume(writer, int(frame.head["booked"]), set(frame.head["finished"]))
                ready = True
                self._ready.set()
            else:
                self._take(frame)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return ready

    def _resume(self, writer: asyncio.StreamWriter, booked: int, finished: set[int]) -> None:
        """Go on with a process that has just begun: what the one before it has booked need not be told again."""
        for number in list(self._held):
            tenant, _, kinds = self._release(number)
            if number not in finished:
                self.dropped(tenant, "comparer_died", kinds)
        self._blocks = {n: block for n, block in self._blocks.items() if n > booked}
        self._writer = writer
        for block in self._blocks.values():
            writer.write(block.pack())
        if self._off:
            writer.write(Frame("switch", {"off": True}).pack())

    def _take(self, frame: Frame) -> None:
        if frame.kind == "done":
            for number, _ in frame.head["jobs"]:
                self._release(number)
        elif frame.kind == "booked":
            self._blocks = {n: block for n, block in self._blocks.items() if n > frame.head["number"]}
        elif frame.kind == "verdict":
            self._tell(f"verdict: {str(frame.head['verdict']).upper()}: {frame.head['reason']}")
        elif frame.kind == "page":
            waiting = self._pages.get(frame.head["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result((frame.body, str(frame.head["policy"])))

    def _release(self, number: int) -> tuple[str, int, list[str]]:
        held = self._held.pop(number, ("", 0, []))
        self._bytes -= held[1]
        return held

    def _lost(self) -> None:
        self._writer = None
        for waiting in self._pages.values():
            if not waiting.done():
                waiting.cancel()

    async def _flush_often(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self._flush()

    def _flush(self) -> None:
        """Hand over what was counted; it is kept until it is booked."""
        if self._writer is None or not self._counts:
            return
        number = next(self._block_numbers)
        head: dict[str, Any] = {
            "number": number, "counts": [[t, w, n] for (t, w), n in self._counts.items()],
            "kinds": list(self._kinds.items()), "below": min(self._held, default=0),
        }  # fmt: skip
        self._counts, self._kinds = Counter(), Counter()
        self._blocks[number] = Frame("counts", head)
        self._write(self._blocks[number])

    def _write(self, frame: Frame) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame.pack())
