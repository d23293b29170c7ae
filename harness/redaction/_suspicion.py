r"""Which of many texts could hold anything at all: one pass of a linear-time automaton over each

The automaton is RE2's, which Arrow brings along. Its pattern is what every detector needs, without what a match must be
besides and without a look at what is around it; so it is met by every text with a find, and by some without. RE2's `\w`
and `\s` are ASCII's, hence the other characters beside them; what it counts is kept short, which keeps it fast. It is
compiled at every call, so texts should come many at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.redaction._places import PREFIXES

# Words end in `sk-` too (`task-based`), so behind that one a key has to go on.
_TOKENS = "|".join(prefix + r"[\w\x80-\x{10FFFF}-]{12}" if prefix == "sk-" else prefix for prefix in PREFIXES)
_NEEDS = "|".join(
    (
        "@",
        _TOKENS,
        r"PRIVATE KEY",
        r"[A-Z]{2}[0-9]{2} ?[A-Z0-9]",  # IBAN
        r"[2-6](?:[ -]?[0-9]){12}",  # cards
        r"[0-9]{3}-[0-9]{2}-[0-9]{4}",  # SSN
        r"[0-9]\.[0-9]{1,3}\.[0-9]",  # IPv4
        r":[0-9A-Fa-f]{0,4}:",  # IPv6
        r"\+[0-9]",  # phones
        r"[0-9]{3}\)?(?:[ .-]{1,2}|\\.)[0-9]{3}[ .-][0-9]{4}",
        r"0[0-9]{1,4}\)?[ /-][0-9]{3}",
        r"0[1-9][ .-][0-9]{2}[ .-][0-9]{2}",
        r"(?i:pass|pwd|secret|token|credential|key)[\w\x80-\x{10FFFF}-]*[\\\"'\w\s\x1c-\x1f\x80-\x{10FFFF}]{0,9}[:=]",
        r"[?&]sig=",
        r"(?i:bearer|basic)(?:[^!-~]{1,4}[^ ]|\\)",
        r"(?i:authorization)[^:=]{0,12}[:=]",
    )
)


def suspicious(texts: Sequence[str]) -> list[int]:
    """Indices of the texts that `find` has to look at; it finds nothing in the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        column = pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # half a surrogate pair, which no encoder takes
        return list(range(len(texts)))
    found: list[int] = pc.indices_nonzero(pc.match_substring_regex(column, pattern=_NEEDS)).to_pylist()
    return found
