"""How many inputs a property tries: few in every run, many in a nightly one that sets HARNESS_FUZZ_EXAMPLES."""

from __future__ import annotations

import os


def examples(usual: int) -> int:
    """`usual`, or as many as HARNESS_FUZZ_EXAMPLES asks for where that is more."""
    return max(usual, int(os.environ.get("HARNESS_FUZZ_EXAMPLES", "0")))
