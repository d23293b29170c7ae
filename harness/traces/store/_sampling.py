"""Choosing calls by their cheap columns, and reading only those that were chosen"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import StorageError
from harness.traces.records import Call
from harness.traces.store._segments import Segments
from harness.traces.store._views import Views

COLUMNS = (
    "tenant", "trace_id", "span_id", "start_ns", "session_key", "user_key", "service", "model", "dialect",
    "replayable", "reason", "error", "n_messages", "n_tools", "request_hash", "signature",
)  # fmt: skip
CHOICE = ("tenant", "span_id", "start_ns", "session_key", "user_key", "signature")
"""What `choose` looks at."""
_DAY_NS = 86_400 * 10**9
_BANDS = 4  # of 16 bits: signatures that differ in at most three bits agree on one of them


def candidates(
    views: Views, tenant: str | None, replayable: bool | None, days: tuple[str, str] | None, columns: Sequence[str]
) -> Any:
    """One row a call with the given columns, `segment` and `row`."""
    where, values = ["true"], list[Any]()
    if tenant is not None:
        where.append("tenant = ?")
        values.append(tenant)
    if replayable is not None:
        where.append("replayable = ?")
        values.append(replayable)
    if days is not None:
        first, last = (int(np.datetime64(day, "D").astype(int)) * _DAY_NS for day in days)
        where.append("start_ns >= ? AND start_ns < ?")
        values += [first, last + _DAY_NS]
    listed = ", ".join(columns)
    return views.query(
        f"SELECT {listed}, filename AS segment, file_row_number AS row FROM calls WHERE {' AND '.join(where)}",  # noqa: S608 - our own words
        values,
    )


def fetch(segments: Segments, chosen: Any) -> Iterator[Call]:
    """The calls of candidates, in their order; a row group that holds none of them is not read."""
    wanted: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, (segment, row) in enumerate(zip(chosen["segment"].to_pylist(), chosen["row"].to_pylist(), strict=True)):
        wanted[segment].append((row, place))
    found: dict[int, str] = {}
    for segment, rows in wanted.items():
        found.update(_texts(segments, segment, sorted(rows)))
    for place in range(len(found)):
        yield Call.from_json(json.loads(found.pop(place)))


def _texts(segments: Segments, segment: str, rows: Sequence[tuple[int, int]]) -> Iterator[tuple[int, str]]:
    import pyarrow.parquet as pq

    try:
        with segments.fs.open(segments.within(segment), "rb") as file:
            reader = pq.ParquetFile(file)
            start, position = 0, 0
            for group in range(reader.num_row_groups):
                end = start + reader.metadata.row_group(group).num_rows
                inside = []
                while position < len(rows) and rows[position][0] < end:
                    inside.append(rows[position])
                    position += 1
                if inside:
                    column = reader.read_row_group(group, columns=["call"])["call"]
                    yield from ((place, column[row - start].as_py()) for row, place in inside)
                start = end
    except OSError as error:
        raise StorageError(f"{segment}: the segment cannot be read; was it rewritten? {error}") from error


def choose(
    table: Any, n: int, salt: str, most_per_session: int | None, most_per_user: int | None, near: int
) -> list[int]:
    """Rows of `table`, at most `n`: whole sessions by the hash of (salt, session), capped."""
    order = _ordered(table, salt)
    sessions, users, spoken = table["session_key"].to_numpy(), table["user_key"], table["signature"].to_numpy()
    tenants = table["tenant"]
    seen, per_session, per_user = _Near(near), Counter[int](), Counter[tuple[str, str]]()
    chosen: list[int] = []
    for row in order:
        if len(chosen) >= n:
            break
        session, user = int(sessions[row]), (tenants[row].as_py(), users[row].as_py())
        if most_per_session is not None and per_session[session] >= most_per_session:
            continue
        if most_per_user is not None and user[1] and per_user[user] >= most_per_user:
            continue
        if seen.add(int(spoken[row])):
            chosen.append(int(row))
            per_session[session] += 1
            per_user[user] += 1
    return chosen


def _ordered(table: Any, salt: str) -> NDArray[np.intp]:
    """Rows by the keyed hash of their session, then by time; by (trace, span) where even that is equal."""
    sessions = table["session_key"].to_numpy()
    unique, inverse = np.unique(sessions, return_inverse=True)
    ranks = np.array([_hash(salt, int(key)) for key in unique], dtype=np.uint64)
    spans = np.frombuffer(b"".join(table["span_id"].to_pylist()), ">u8")
    return np.lexsort((spans, table["start_ns"].to_numpy(), ranks[inverse] if len(unique) else sessions))


def _hash(salt: str, key: int) -> int:
    return int.from_bytes(hashlib.blake2b(key.to_bytes(8), key=salt.encode()[:64], digest_size=8).digest())


class _Near:
    """Signatures that were taken; one within `bits` of any of them is not taken again."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._bands: tuple[defaultdict[int, list[int]], ...] = tuple(
            defaultdict(list) for _ in range(max(_BANDS, bits + 1))
        )

    def add(self, signature: int) -> bool:
        """Whether nothing taken so far is near; if so it is taken."""
        if self._bits < 0 or signature == 0:
            return True
        keys = _parts(signature, len(self._bands))
        near = (other for band, key in zip(self._bands, keys, strict=True) for other in band[key])
        if any((signature ^ other).bit_count() <= self._bits for other in near):
            return False
        for band, key in zip(self._bands, keys, strict=True):
            band[key].append(signature)
        return True


def _parts(signature: int, count: int) -> list[int]:
    """The 64 bits in `count` parts."""
    width = -(-64 // count)
    return [signature >> (width * i) & ((1 << width) - 1) for i in range(count)]
