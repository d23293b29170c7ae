"""What may be spent on served models: calls, tokens, US dollars, by all clients that share it"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

from harness.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Spending:
    """Calls sent, tokens read and written, US dollars."""

    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        """Both together."""
        return Spending(self.calls + other.calls, self.tokens + other.tokens, self.dollars + other.dollars)

    def __sub__(self, other: Spending) -> Spending:
        """What is left of this without the other."""
        return Spending(self.calls - other.calls, self.tokens - other.tokens, self.dollars - other.dollars)


class Budget:
    """No more than `calls` requests are sent, `tokens` read and written, `dollars` paid; None is no limit.

    Before a request is sent, the most that it may cost is set aside (a token a byte of the prompt, and all of
    max_tokens); when it is answered, what the server counted takes its place. A request for which there is no room
    while others are under way waits for them. So a budget is not overshot by requests that are under way together, and
    is used up to less than one request. The first request that finds no room ends it for all. Every attempt is a call;
    one of which nobody knows whether it was charged (a timeout, a cut answer) counts with all that was set aside.

    Thread-safe; may be shared by several clients.

    Raises:
        ConfigError: a limit is zero, negative or not a number.
    """

    def __init__(self, calls: int | None = None, tokens: int | None = None, dollars: float | None = None) -> None:
        for name, limit in (("calls", calls), ("tokens", tokens), ("dollars", dollars)):
            if limit is not None and not limit > 0:
                raise ConfigError(f"budget: {name}: {limit:g} buys nothing; give more than 0, or leave it out")
        self.calls, self.tokens, self.dollars = calls, tokens, dollars
        self._lock = threading.Lock()
        self._spent = self._held = Spending()
        self._exhausted = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def spent(self) -> Spending:
        """What was spent so far; what is set aside for requests under way is not in it."""
        return self._spent

    @property
    def exhausted(self) -> bool:
        """Whether a request was refused; then all others are."""
        return self._exhausted

    def describe(self) -> str:
        """The limits and what was spent, in words; a call is spent as soon as it is sent."""
        spent = self._spent + Spending(calls=self._held.calls)
        limits = [("calls", self.calls), ("tokens", self.tokens), ("dollars", self.dollars)]
        said = [f"{getattr(spent, name):g} of {limit:g} {name}" for name, limit in limits if limit is not None]
        return " and ".join(said) or "no limit"

    async def reserve(self, most: Spending) -> bool:
        """Set `most` aside; False where there is no room and none will come. All callers share one event loop."""
        while True:
            with self._lock:
                if not self._exhausted and self._fits(self._spent + self._held + most):
                    self._held += most
                    return True
                # Calls that are under way stay spent; tokens and dollars that were set aside mostly come back.
                if self._exhausted or not self._fits(self._spent + Spending(calls=self._held.calls) + most):
                    self._exhausted = True
                    self._wake()
                    return False
                place = asyncio.get_running_loop().create_future()
                self._waiting.append(place)
            await place

    def settle(self, reserved: Spending, used: Spending) -> None:
        """Put what was used in the place of what was set aside; called once for each successful `reserve`."""
        with self._lock:
            self._held -= reserved
            self._spent += used
            self._wake()

    def _fits(self, total: Spending) -> bool:
        limits = ((self.calls, total.calls), (self.tokens, total.tokens), (self.dollars, total.dollars))
        return all(limit is None or amount <= limit for limit, amount in limits)

    def _wake(self) -> None:
        for place in self._waiting:
            if not place.done():
                place.set_result(None)
        self._waiting.clear()
