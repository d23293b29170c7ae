"""What stops copies from being sent: a candidate that does not answer, and a day's budget that is spent"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from harness.mirror.config import BreakerSection, BudgetSection
from harness.served import Prices

Clock = Callable[[], float]

_UNSAID = 1024  # tokens of an answer whose request sets no limit, until its usage is known


@dataclass(slots=True)
class Breaker:
    """Opens after so many failures in a row; after a pause one call tries, and the others wait for what it shows."""

    section: BreakerSection
    clock: Clock = time.monotonic
    _failures: int = 0
    _opened: float | None = None
    _trying: bool = False

    @property
    def is_open(self) -> bool:
        """Whether calls are kept from the candidate."""
        return self._opened is not None

    def admits(self) -> bool:
        """Whether a call may be sent; one that may be has to be followed by `said` or `unsaid`."""
        if self._opened is None:
            return True
        if self._trying or self.clock() - self._opened < self.section.seconds:
            return False
        self._trying = True
        return True

    def said(self, *, failed: bool) -> None:
        """What came of a call that was admitted."""
        self._trying = False
        if not failed:
            self._failures, self._opened = 0, None
            return
        self._failures += 1
        if self._opened is not None or self._failures >= self.section.failures:
            self._opened = self.clock()

    def unsaid(self) -> None:
        """A call that was admitted was not sent, or was cancelled: nothing is known."""
        self._trying = False


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call takes of a day's budget."""

    tokens: int = 0
    dollars: float = 0.0


@dataclass(slots=True)
class DailyBudget:
    """Calls, tokens and dollars of a day (UTC). What a call may cost at most is set aside before it is sent.

    `book` keeps what the day has cost, with what is set aside: a process that is killed has spent it.
    """

    section: BudgetSection
    prices: Prices | None
    load: Callable[[str], tuple[int, int, float]]
    book: Callable[[str, int, int, float], None]
    today: Callable[[], str] = lambda: datetime.now(UTC).strftime("%Y-%m-%d")
    _day: str = ""
    _calls: int = 0
    _tokens: int = 0
    _dollars: float = 0.0
    _changed: bool = field(default=False)

    def reserve(self, body: Mapping[str, Any], size: int) -> Cost | None:
        """Set aside what a request of `size` bytes may cost at most; None where there is no room for it today."""
        self._turn()
        most = self._cost(size, _limit(body))
        limits = (
            (self.section.calls, self._calls + 1),
            (self.section.tokens, self._tokens + most.tokens),
            (self.section.dollars, self._dollars + most.dollars),
        )
        if any(limit is not None and amount > limit for limit, amount in limits):
            return None
        self._add(1, most, 1)
        return most

    def settle(self, reserved: Cost, read: int | None, written: int | None) -> None:
        """Put what the server counted in the place of what was set aside; where it counted nothing, that stands."""
        if read is not None and written is not None:
            self._add(0, reserved, -1)
            self._add(0, self._cost(read, written), 1)

    def give_back(self, reserved: Cost) -> None:
        """A request was not sent after all."""
        self._add(-1, reserved, -1)

    def keep(self) -> None:
        """Book what has changed."""
        if self._changed:
            self.book(self._day, self._calls, self._tokens, self._dollars)
            self._changed = False

    def as_json(self) -> dict[str, Any]:
        """What today has cost, and the limits."""
        self._turn()
        limits = {n: v for n, v in self.section.model_dump().items() if v is not None}
        return {"calls": self._calls, "tokens": self._tokens, "dollars": round(self._dollars, 6), "limits": limits}

    def _add(self, calls: int, cost: Cost, sign: int) -> None:
        self._calls += calls
        self._tokens = max(0, self._tokens + sign * cost.tokens)  # a call may end after midnight
        self._dollars = max(0.0, self._dollars + sign * cost.dollars)
        self._changed = True

    def _cost(self, read: int, written: int) -> Cost:
        price = self.prices
        dollars = 0.0 if price is None else (price.input * read + price.output * written) / 1e6
        return Cost(read + written, dollars)

    def _turn(self) -> None:
        today = self.today()
        if today != self._day:
            self.keep()
            self._day = today
            self._calls, self._tokens, self._dollars = self.load(today)


def _limit(body: Mapping[str, Any]) -> int:
    """Tokens that an answer may have, for all its choices."""
    given = body.get("max_completion_tokens", body.get("max_tokens"))
    n = body.get("n")
    choices = n if isinstance(n, int) and 0 < n < 10_000 else 1
    return choices * (given if isinstance(given, int) and 0 < given < 10**9 else _UNSAID)


def size_of(body: Mapping[str, Any]) -> int:
    """Bytes of a request, which has no more tokens than that."""
    return len(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"))
