"""The one event loop of all clients of a process, in a thread of its own, so that they share limits without locks"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_lock = threading.Lock()
_running: tuple[int, asyncio.AbstractEventLoop, threading.Thread] | None = None

at_end: set[Callable[[], Coroutine[Any, Any, None]]] = set()
"""What is still open in the loop, and is closed with it; touched in the loop alone."""


def event_loop() -> asyncio.AbstractEventLoop:
    """The loop, started where there is none yet; a forked process gets one of its own."""
    global _running
    with _lock:
        if _running is None or _running[0] != os.getpid():
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(_tell)
            thread = threading.Thread(target=loop.run_forever, name="harness-served", daemon=True)
            thread.start()
            _running = os.getpid(), loop, thread
        return _running[1]


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`, done in the loop; not to be called from within it."""
    return asyncio.run_coroutine_threadsafe(work, event_loop()).result()


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # litellm lets go of connections without closing them; their closing by the garbage collector is no news.
    if not str(context.get("message")).startswith("Unclosed"):
        loop.default_exception_handler(context)


@atexit.register
def _stop() -> None:
    """End the loop with nothing left in it that could complain at the end of the process."""
    if _running is not None and _running[0] == os.getpid():
        _, loop, thread = _running
        asyncio.run_coroutine_threadsafe(_end(), loop)
        thread.join(5)


async def _end() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, *(close() for close in at_end), return_exceptions=True)
    asyncio.get_running_loop().stop()
