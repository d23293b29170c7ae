"""Regular expressions whose pattern and text both come from outside: bounded in memory and in time.

The `regex` package can stop a match after a time, but unrolls repeat counts when it compiles, so that nested ones fill
the memory before any match begins.
"""

from __future__ import annotations

import math
import re
from typing import Any

from harness.errors import ConfigError

_REPEAT = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
_MAX_REPEATS = 10_000
_MAX_LENGTH = 2000


def compile_bounded(pattern: str, *, ignore_case: bool = False) -> Any:
    """`pattern` compiled; its match methods take `timeout` (seconds) and then raise TimeoutError.

    Raises:
        ConfigError: it is no regular expression, too long, or its repeat counts multiply to too many.
    """
    import regex

    counts = [int(high or low) for low, high in _REPEAT.findall(pattern) if high or low]
    if len(pattern) > _MAX_LENGTH or math.prod(max(1, n) for n in counts) > _MAX_REPEATS:
        raise ConfigError(
            f"pattern {pattern[:60]!r} is refused: longer than {_MAX_LENGTH} characters, or its repeat counts "
            f"multiply to more than {_MAX_REPEATS}"
        )
    try:
        return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except regex.error as error:
        raise ConfigError(f"{pattern!r} is not a regular expression: {error}") from error
