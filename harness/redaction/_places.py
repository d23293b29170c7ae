"""Where in a text a pattern could match at all, at a fraction of what trying it everywhere costs

Every pattern needs something that is rare in prose: an `@`, seven digits close together, three dots between digits, two
colons close together, a long run without a space, or a word that announces a secret and is followed by one. These are
looked for in C over the whole text, and a pattern is then tried only around them. A place reaches so far on both sides
that no match is cut off at its edge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Place = tuple[int, int]

_RUN = 15  # the shortest token that any pattern for tokens accepts
_TOKEN_BYTES = bytes(97 if re.fullmatch(rb"[A-Za-z0-9_-]", bytes([i])) else 32 for i in range(256))
PREFIXES = (
    "eyJ", "A3T", "AKIA", "ASIA", "ABIA", "ACCA", "Q~", "gh[pousr]_", "github_pat", "gl[a-z]{2,5}-", "xox", "xapp-",
    r"hooks\.slack", "AIza", "AC[0-9a-f]{8}", "SK[0-9a-f]{8}", "dapi", "do[opr]_v1", "GOCSPX", "gsk_", "hf_", "lsv2_",
    "npm_", "pcsk_", "pplx-", "pypi-", "r8_", r"SG\.", "shp[acps]", "sk-", "[sr]k_(?:live|test)", "whsec_", "xai-",
    "ya29",
)  # fmt: skip
"""What one of the tokens in `_patterns.py` begins with, or has in it; in the syntax of Python and of RE2."""
_TOKEN = re.compile("|".join(PREFIXES))
_BEFORE = 64  # characters before a run in which a token, or what announces it, may begin
_TAIL = re.compile(r"[\w+/=.~%-]{0,20000}")
_ASSIGNED = re.compile(r"[\w-]{0,40}+[\"']?\s{0,4}(?::=|=>|[:=])\s{0,4}[\"']?[\w+/=!@#$%^&*.~-]{8,258}+")
_SCHEME = re.compile(r"\s{1,4}[\w.~+/=-]{6,4098}+")
_HEADER = re.compile(r"[\"']?\s{0,4}[:=]\s{0,4}[\"']?\w{5,6}\s{1,4}[\w.~+/=-]{6,4098}+")
_WORDS = {
    b"pass": _ASSIGNED, b"pwd": _ASSIGNED, b"secret": _ASSIGNED, b"token": _ASSIGNED,
    b"credential": _ASSIGNED, b"key": _ASSIGNED, b"bearer": _SCHEME, b"basic": _SCHEME, b"authorization": _HEADER,
    b"sig=": re.compile(r"[A-Za-z0-9%+/]{40,67}=?"),
}  # fmt: skip


def places(text: str) -> dict[str, list[Place]]:
    """For each kind of place, the parts of `text` (start, end) in which its patterns have to be tried, in order."""
    raw = text.encode("latin-1", "replace")  # one byte a character, so that positions are those of the text
    codes = np.frombuffer(raw, np.uint8)
    digits = codes - np.uint8(48) < np.uint8(10)
    found = {
        "digits": _around(*_dense(digits, 7, 24), 16, 40, len(text)),
        "runs": _listed(_runs(text, raw), _BEFORE, len(text)),
        "words": _listed(sorted(_words(text, raw.lower())), 48, len(text)),
    }
    if "@" in text:
        at = np.flatnonzero(codes == 64)
        found["at"] = _around(at, at, 448, 576, len(text))
    if text.count(".") > 2:
        between = (codes[1:-1] == 46) & digits[:-2] & digits[2:]
        found["dots"] = _around(*_dense(between, 3, 8), 4, 12, len(text))
    if ":" in text:
        found["colons"] = _around(*_dense(codes == 58, 2, 5), 8, 64, len(text))
    if "PRIVATE KEY" in text:
        found["pem"] = [(0, len(text))]
    return found


def _dense(marks: NDArray[np.bool_], count: int, span: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last of `count` marks in a row that lie within a distance of `span`."""
    at = np.flatnonzero(marks)
    first, last = at[: max(0, len(at) - count + 1)], at[count - 1 :]
    close = last - first <= span
    return first[close], last[close]


def _runs(text: str, raw: bytes) -> Iterator[Place]:
    """Runs of at least 15 letters, digits, `_` and `-` with a prefix of a token, and whatever continues it."""
    classes, needle, end = raw.translate(_TOKEN_BYTES), b"a" * _RUN, 0
    while (start := classes.find(needle, end)) >= 0:
        tail = _TAIL.match(text, start + _RUN)
        end = tail.end() if tail else start + _RUN
        if _TOKEN.search(text, max(0, start - _BEFORE), end):
            yield start, end


def _words(text: str, lowered: bytes) -> Iterator[Place]:
    """Words that announce a secret and what follows each, where something of the right form does."""
    for word, follows in _WORDS.items():
        start = lowered.find(word)
        while start >= 0:
            end = start + len(word)
            behind = follows.match(text, end)
            if behind:
                yield start, behind.end()
            start = lowered.find(word, end)


def _listed(found: Iterator[Place] | list[Place], before: int, length: int) -> list[Place]:
    both = np.array(list(found), np.intp).reshape(-1, 2)
    return _around(both[:, 0], both[:, 1], before, 0, length)


def _around(first: NDArray[np.intp], last: NDArray[np.intp], before: int, behind: int, length: int) -> list[Place]:
    """Places by their ends, `first` in order; each widened, and those that touch made one."""
    if not len(first):
        return []
    start = np.maximum(first - before, 0)
    end = np.maximum.accumulate(np.minimum(last + behind, length))
    apart = np.flatnonzero(start[1:] > end[:-1])
    return list(zip(start[[0, *(apart + 1)]].tolist(), end[[*apart, -1]].tolist(), strict=True))
