"""Requests of any shape from a seed, for endpoints that are sent ten thousand each (see `trace_fuzz` for why)

A failing test names the seed.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.asgi import Asgi

_Item = TypeVar("_Item")
EXAMPLES = int(os.environ.get("HARNESS_FUZZ_EXAMPLES", "60"))
TEXTS = (
    "", "a", "NaN", "1e999", "0" * 32, "f" * 16, "18446744073709551616", "-1", "\ud800", "\x00", "é\u2028\U0001f600",
    "x" * 300, "[" * 50, "{", "null", "../..", "'\"<script>", "%00", "user",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 2**53, 2**63, -(2**70), 10**40, 0.5, 1e300, float("nan"), float("inf"), True, False, None)


def fuzzed(check: Callable[[Odd], None]) -> None:
    """Run a check on so many examples as HARNESS_FUZZ_EXAMPLES says."""

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.integers(0, 2**40))
    def run(seed: int) -> None:
        check(Odd(seed))

    run()


TOGETHER = 32  # requests under way at a time: what is handed from thread to thread is then seldom waited for


def fuzzed_together(app: Asgi, check: Callable[[Odd], Awaitable[None]]) -> None:
    """The same for an application in an event loop, many requests at a time."""

    async def batch(seed: int) -> None:
        await asyncio.gather(*(check(Odd(seed + number)) for number in range(TOGETHER)))

    @settings(
        max_examples=-(-EXAMPLES // TOGETHER), deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.integers(0, 2**40))
    def run(seed: int) -> None:
        app.run(batch(seed))

    run()


class Odd:
    """Everything odd that one seed makes."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, share: float) -> bool:
        """True in this share of the cases."""
        return self._random.random() < share

    def below(self, bound: int) -> int:
        """A number from 0 on."""
        return int(self._random.random() * bound)

    def pick(self, options: Sequence[_Item]) -> _Item:
        """One of them."""
        return options[self.below(len(options))]

    def bytes(self, most: int = 80) -> bytes:
        """Any bytes, or those of a text."""
        return (
            self._random.randbytes(self.below(most + 1)) if self.chance(0.7) else self.text().encode("utf-8", "replace")
        )

    def text(self) -> str:
        """A text that something may stumble over, or any."""
        if self.chance(0.6):
            return self.pick(TEXTS)
        return "".join(
            chr(self.pick((32, 65, 0x7F, 0xE9, 0x2028, 0x1F600, self.below(0xD800)))) for _ in range(self.below(12))
        )

    def latin(self) -> str:
        """A text that can stand in a header or an address."""
        return "".join(chr(0x21 + self.below(0xDE)) for _ in range(self.below(16)))

    def json(self, words: Sequence[str], depth: int = 4) -> Any:
        """A value with these words as keys."""
        kind = self._random.random()
        if depth == 0 or kind < 0.3:
            return self.text() if self.chance(0.5) else self.pick(NUMBERS)
        if kind < 0.33:
            return self._nested()
        if kind < 0.6:
            return [self.json(words, depth - 1) for _ in range(self.below(4))]
        return {
            self.pick(words) if self.chance(0.9) else self.text(): self.json(words, depth - 1)
            for _ in range(self.below(5))
        }

    def headers(self, names: Sequence[str], values: Sequence[str], most: int = 4) -> dict[str, str]:
        """Some of these headers, with these values or any."""
        return {
            self.pick(names): self.pick(values) if self.chance(0.7) else self.latin()
            for _ in range(self.below(most + 1))
        }

    def _nested(self) -> Any:
        value: Any = None
        for _ in range(self.pick((20, 60, 200))):
            value = [value]
        return value
