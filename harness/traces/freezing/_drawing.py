"""Whole sessions in the order of a keyed hash, so many of each stratum as its share of the stream"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.traces.freezing._strata import Strata

COLUMNS = (
    "trace_id", "span_id", "start_ns", "session_key", "user_key", "service", "model", "dialect", "replayable", "reason",
    "error", "n_messages", "n_tools", "signature",
)  # fmt: skip


_HELPERS = 8  # later calls of a session that are looked at for what a call's tools said


@dataclass(frozen=True, slots=True)
class Session:
    """A session that was drawn. Rows are those of the table of candidates, in time order.

    `eligible` may be asked again and were asked for; `helpers` are later calls, of whatever kind, whose messages may
    tell what a tool said. `capped` counts those that the cap on sessions left out of `eligible`.
    """

    key: int
    stratum: int
    eligible: tuple[int, ...]
    helpers: tuple[int, ...]
    capped: int


class Drawing:
    """A table of candidates as sessions in their order.

    A session is of the stratum of its last eligible call, which holds the most of the conversation. `wanted` says which
    calls are eligible. With `most` only so many calls of a session count, chosen by hash.
    """

    def __init__(self, table: Any, wanted: NDArray[np.bool_], strata: Strata, salt: str, most: int | None) -> None:
        self._salt, self._most, self._wanted = salt, most, wanted
        self._spans, self._tools = table["span_id"], table["n_tools"].to_numpy()
        sessions = table["session_key"].to_numpy()
        self._order = np.lexsort((table["start_ns"].to_numpy(), sessions))
        self._keys, starts, counts = np.unique(sessions[self._order], return_index=True, return_counts=True)
        self._starts, self._ends = starts, starts + counts
        eligible = self._order[wanted[self._order]]
        present, last, self._sizes = _runs(sessions[eligible])
        self._sessions = np.searchsorted(self._keys, present)
        self._strata = strata.codes[eligible[last]]

    def shares(self) -> Counter[int]:
        """How many calls of each stratum there are to draw, the cap on sessions applied."""
        counted = self._counted()
        return Counter({int(s): int(counted[self._strata == s].sum()) for s in np.unique(self._strata)})

    def largest(self) -> int:
        """How many calls of one session could have been drawn at most, from whatever session there is."""
        return int(self._counted().max(initial=0))

    def _counted(self) -> NDArray[np.int64]:
        return self._sizes if self._most is None else np.minimum(self._sizes, self._most)

    def sessions(self) -> Iterator[Session]:
        """Every session with an eligible call, in the order of its keyed hash."""
        keys = self._keys[self._sessions]
        ranks = np.array([_hash(self._salt, int(key).to_bytes(8)) for key in keys], dtype=np.uint64)
        for place in np.argsort(ranks, kind="stable"):
            session = self._sessions[place]
            rows = self._order[self._starts[session] : self._ends[session]]
            eligible = rows[self._wanted[rows]]
            kept = self._capped(eligible)
            helpers = self._helpers(rows, kept)
            yield Session(int(keys[place]), int(self._strata[place]), kept, helpers, len(eligible) - len(kept))

    def _helpers(self, rows: NDArray[np.intp], kept: Sequence[int]) -> tuple[int, ...]:
        places = {int(row): place for place, row in enumerate(rows)}
        asked = [places[row] for row in kept if self._tools[row] > 0]
        later = {int(row) for place in asked for row in rows[place + 1 : place + 1 + _HELPERS]}
        return tuple(sorted(later.difference(kept)))

    def _capped(self, rows: NDArray[np.intp]) -> tuple[int, ...]:
        listed = [int(row) for row in rows]
        if self._most is None or len(listed) <= self._most:
            return tuple(listed)
        kept = set(sorted(listed, key=lambda row: _hash(self._salt, self._spans[row].as_py()))[: self._most])
        return tuple(row for row in listed if row in kept)


def _runs(keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.intp], NDArray[np.int64]]:
    """Of keys that stand together: each one, the place of its last occurrence, and how often it occurs."""
    if not len(keys):
        return keys, np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.int64)
    last = np.flatnonzero(np.r_[keys[1:] != keys[:-1], True])
    return keys[last], last, np.diff(np.r_[-1, last])


def quotas(shares: Counter[int], n: int, least: int = 0) -> dict[int, int]:
    """How many of `n` fall to each stratum: in proportion, by largest remainder, `least` where there are so many."""
    total = sum(shares.values())
    if total <= n:
        return dict(shares)
    exact = {stratum: n * count / total for stratum, count in shares.items()}
    made = {stratum: int(share) for stratum, share in exact.items()}
    left = n - sum(made.values())
    for stratum in sorted(exact, key=lambda s: (made[s] - exact[s], s))[:left]:
        made[stratum] += 1
    made = {stratum: max(quota, min(least, shares[stratum])) for stratum, quota in made.items()}
    while sum(made.values()) > n and max(made.values()) > least:  # what is given to the rare is taken from the common
        made[max(made, key=lambda s: (made[s], -s))] -= 1
    return made


def _hash(salt: str, key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, key=hashlib.sha256(salt.encode()).digest(), digest_size=8).digest())
