"""What a long run tells whoever watches it. Nothing here draws; `harness.console` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class GuardProgress:
    """Where one guard stands. Difference and interval are in score points, None before the first pair."""

    label: str
    outcome: str
    n_used: int
    n: int
    difference: float | None
    interval: tuple[float, float] | None
    margin: float
    required: bool


class Observer(Protocol):
    """Receives what happens during a run, in order, on the thread that runs it."""

    def stage(self, text: str) -> None:
        """A new stage began (loading, pre-flight, evaluation, report)."""
        ...

    def asking(self, suite: str, arm: str, done: int, total: int) -> None:
        """`done` of the `total` requests of the current chunk were answered by one arm."""
        ...

    def guards(self, states: list[GuardProgress], seconds_left: float | None) -> None:
        """All guards after a chunk was scored; `seconds_left` is the longest the run can still take, if known."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line that is not an error (a cache hit, a resumed run, a warning)."""
        ...


class Silent:
    """Ignores everything; for `--json` without a terminal, and for tests."""

    def stage(self, text: str) -> None:
        """Ignore."""

    def asking(self, suite: str, arm: str, done: int, total: int) -> None:
        """Ignore."""

    def guards(self, states: list[GuardProgress], seconds_left: float | None) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""
