"""What a long run tells whoever watches it. Nothing here draws; `harness.console` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from harness.records import Comparison


class Observer(Protocol):
    """Receives what happens during a run, in order, on the thread that runs it."""

    def stage(self, text: str) -> None:
        """A new stage began (loading, pre-flight, evaluation, report); what guards stood at before is over."""
        ...

    def asking(self, suite: str, arm: str, done: int, total: int) -> None:
        """`done` of the `total` requests that are asked together were answered by one arm.

        `suite` names the suite that they belong to, or all of them in one phrase.
        """
        ...

    def guards(self, standing: Sequence[Comparison], seconds_left: float | None) -> None:
        """Where the guards stand after a chunk; `seconds_left` is the longest the run can still take, if known."""
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

    def guards(self, standing: Sequence[Comparison], seconds_left: float | None) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


class Reticent:
    """Passes on everything but where the guards stand: whoever reads the log must not learn from their numbers."""

    def __init__(self, observer: Observer) -> None:
        """Tell `observer` the rest."""
        self._observer = observer

    def stage(self, text: str) -> None:
        """Pass it on."""
        self._observer.stage(text)

    def asking(self, suite: str, arm: str, done: int, total: int) -> None:
        """Pass it on."""
        self._observer.asking(suite, arm, done, total)

    def guards(self, standing: Sequence[Comparison], seconds_left: float | None) -> None:
        """Keep it."""

    def note(self, text: str) -> None:
        """Pass it on."""
        self._observer.note(text)
