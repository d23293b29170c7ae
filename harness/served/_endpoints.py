"""How hard a server may be asked, by all clients of a process together: requests under way, and rates a minute

One `Endpoint` stands for one server of one provider. Everything here runs in the one event loop of `_loop`, so nothing
needs a lock; time comes from a `Clock`, so that a test need not wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol

from harness.served import ServedOptions


class Clock(Protocol):
    """What tells the time and lets it pass."""

    def now(self) -> float:
        """Seconds since some point."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when they are over."""
        ...


class SystemClock:
    """The real one."""

    def now(self) -> float:
        """See `Clock.now`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


class Pace:
    """A token bucket that holds no more than one request: the next one starts when what the last one took has run in.

    So requests are spread evenly, and in no minute do more than `per_minute` units start (and one request more, where
    the minute begins just before one). What a request takes may be corrected when it is known.
    """

    def __init__(self) -> None:
        self._free_at = float("-inf")

    def book(self, units: float, per_minute: float, now: float) -> float:
        """When a request that takes `units` may start; the time after it is taken from then on."""
        start = max(now, self._free_at)
        self._free_at = start + 60 * units / per_minute
        return start

    def correct(self, units: float, per_minute: float) -> None:
        """The last booking took `units` more than was thought, or less where negative."""
        self._free_at += 60 * units / per_minute


class Slots:
    """A semaphore whose size may change while it is held."""

    def __init__(self) -> None:
        self.size = 0
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        """Wait for a slot, first come, first served."""
        while self._taken >= self.size or self._waiting:
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place in self._waiting:
                    self._waiting.remove(place)
                else:
                    self.wake()  # it was this one's turn, and now it is the next one's
                raise
            if self._taken < self.size:
                break
        self._taken += 1

    async def __aexit__(self, *given: object) -> None:
        """Give the slot back."""
        self._taken -= 1
        self.wake()

    def wake(self) -> None:
        """Let those in who have room; to be called when `size` grows."""
        for _ in range(self.size - self._taken):
            while self._waiting:
                place = self._waiting.popleft()
                if not place.done():
                    place.set_result(None)
                    break


class Endpoint:
    """One server, and the limits that its clients have stated: the widest concurrency, the strictest rates."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.slots = Slots()
        self.waited = 0.0
        self._clients: list[ServedOptions] = []
        self._requests, self._tokens = Pace(), Pace()
        self._not_before = float("-inf")

    def join(self, options: ServedOptions) -> None:
        """A client with these limits has come."""
        self._clients.append(options)
        self._resize()

    def leave(self, options: ServedOptions) -> None:
        """A client with these limits is gone."""
        self._clients.remove(options)
        self._resize()

    @property
    def deserted(self) -> bool:
        """Whether no client is left."""
        return not self._clients

    def pause(self, seconds: float) -> None:
        """The server asks everybody to wait."""
        self._not_before = max(self._not_before, self.clock.now() + seconds)

    async def admit(self, tokens: float) -> None:
        """Return when a request of about so many tokens may start; `correct` says afterwards how many it took."""
        now = began = self.clock.now()
        start = now
        if (rate := self._rate("requests_per_minute")) is not None:
            start = self._requests.book(1, rate, now)
        if (rate := self._rate("tokens_per_minute")) is not None:
            start = max(start, self._tokens.book(tokens, rate, now))
        while (wait := max(start, self._not_before) - now) > 0:
            await self.clock.sleep(wait)
            now = self.clock.now()
        self.waited += now - began

    def correct(self, tokens: float) -> None:
        """An admitted request took so many tokens more than was thought."""
        if (rate := self._rate("tokens_per_minute")) is not None:
            self._tokens.correct(tokens, rate)

    def _rate(self, name: str) -> float | None:
        stated = [rate for options in self._clients if (rate := getattr(options, name)) is not None]
        return min(stated, default=None)

    def _resize(self) -> None:
        self.slots.size = max((options.concurrency for options in self._clients), default=0)
        self.slots.wake()


_endpoints: dict[tuple[str, str], Endpoint] = {}


def join(key: tuple[str, str], options: ServedOptions) -> Endpoint:
    """The endpoint of a provider at an address, with one client more; called in the event loop, as `leave`."""
    endpoint = _endpoints.setdefault(key, Endpoint())
    endpoint.join(options)
    return endpoint


def leave(key: tuple[str, str], options: ServedOptions) -> None:
    """One client less; what nobody uses is forgotten."""
    endpoint = _endpoints[key]
    endpoint.leave(options)
    if endpoint.deserted:
        del _endpoints[key]
