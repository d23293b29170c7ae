"""What every verb needs of the terminal: one option, progress, and one JSON document."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.errors import Interrupted

if TYPE_CHECKING:
    from harness.progress import Observer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


@contextmanager
def watching() -> Iterator[Observer]:
    """Progress on the terminal while a verb runs; an interrupt becomes an error that says how to go on."""
    from harness.console import watch

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled CI job is told to stop this way
    try:
        with watch() as observer:
            yield observer
    except KeyboardInterrupt:  # here, because typer would turn it into an exit code of its own
        raise Interrupted("interrupted; what was finished is kept, repeat the command to go on") from None


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))
