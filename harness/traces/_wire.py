"""How many records an OTLP request in protobuf holds, before it is parsed: two bytes of it may become 200 in memory

Only the lengths of the three outer levels are read (resources, scopes, records); what is inside a record is not.
"""

from __future__ import annotations

from collections.abc import Iterator

_FIXED = {1: 8, 5: 4}
_PATH = (1, 2, 2)  # the fields that hold resources, scopes and records, in traces and logs alike


class Malformed(ValueError):
    """The bytes are no protobuf message."""


def count_records(body: bytes, most: int) -> int:
    """Resources, scopes and records in an ExportTraceServiceRequest or ExportLogsServiceRequest; stops above `most`.

    Raises:
        Malformed: `body` is no protobuf message.
    """
    count = 0
    for _ in _messages(body, 0, len(body), 0):
        count += 1
        if count > most:
            break
    return count


def _messages(body: bytes, start: int, end: int, level: int) -> Iterator[None]:
    for first, last in _inside(body, start, end, _PATH[level]):
        yield
        if level + 1 < len(_PATH):
            yield from _messages(body, first, last, level + 1)


def _inside(body: bytes, position: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the length-delimited fields with number `wanted` are, in a message at `position` to `end`."""
    while position < end:
        tag, position = _varint(body, position, end)
        kind = tag & 7
        if kind == 2:
            length, position = _varint(body, position, end)
            if position + length > end:
                raise Malformed("a field is longer than its message")
            if tag >> 3 == wanted:
                yield position, position + length
            position += length
        elif kind == 0:
            _, position = _varint(body, position, end)
        elif kind in _FIXED:
            position += _FIXED[kind]
        else:
            raise Malformed("a field is of no known type")


def _varint(body: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Malformed("a number does not end")
