"""Near-duplicates among what different sessions asked: found by their stored signatures, made sure of by their words"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

_WORD = re.compile(r"\w+")
_RUN = 3
_BITS = 3  # signatures of near-duplicates differ in at most so many of 64 bits (see `store._signature`)
_BANDS = 4  # so that two signatures which differ in three bits agree on one of four parts
_LIKENESS = 0.8


@dataclass(frozen=True, slots=True)
class _Taken:
    signature: int
    session: int
    runs: frozenset[str]


class Near:
    """What was taken so far.

    A text is a near-duplicate of another when the signatures are near and the Jaccard likeness of their runs of three
    words (Broder 1997) is at least 0.8. Numbers count as words here, which a signature does not see.
    """

    def __init__(self, likeness: float = _LIKENESS) -> None:
        self._likeness = likeness
        self._bands: tuple[defaultdict[int, list[_Taken]], ...] = tuple(defaultdict(list) for _ in range(_BANDS))

    def seen(self, signature: int, text: str, session: int) -> bool:
        """Whether another session has asked nearly this."""
        if self._likeness > 1:
            return False
        runs = _runs(text)
        near = (t for band, part in zip(self._bands, _parts(signature), strict=True) for t in band[part])
        return any(
            t.session != session
            and (t.signature ^ signature).bit_count() <= _BITS
            and _jaccard(t.runs, runs) >= self._likeness
            for t in near
        )

    def add(self, signature: int, text: str, session: int) -> None:
        """Take it."""
        taken = _Taken(signature, session, _runs(text))
        for band, part in zip(self._bands, _parts(signature), strict=True):
            band[part].append(taken)


def _parts(signature: int) -> list[int]:
    return [signature >> (16 * i) & 0xFFFF for i in range(_BANDS)]


def _runs(text: str) -> frozenset[str]:
    words = _WORD.findall(text.casefold())
    return frozenset(" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1)))


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second)
