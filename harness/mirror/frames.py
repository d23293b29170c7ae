"""What proxy and comparing process tell each other over a socket pair: frames of a JSON head and bytes

proxy → comparer   hello, job (with request and answer), counts, switch, page, stop
comparer → proxy   ready, done, booked, page
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SIZES = struct.Struct(">II")
_MOST_HEAD, _MOST_BODY = 2**24, 2**30


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; `kind` says which."""

    kind: str
    head: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""

    def pack(self) -> bytes:
        """Its bytes."""
        head = json.dumps({"kind": self.kind, **self.head}, separators=(",", ":")).encode()
        return _SIZES.pack(len(head), len(self.body)) + head + self.body


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame, None at the end of the stream."""
    try:
        sizes = _SIZES.unpack(await reader.readexactly(_SIZES.size))
        if sizes[0] > _MOST_HEAD or sizes[1] > _MOST_BODY:
            return None
        head = json.loads(await reader.readexactly(sizes[0]))
        body = await reader.readexactly(sizes[1])
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Frame(head.pop("kind"), head, body)


@dataclass(frozen=True, slots=True)
class Job:
    """A call of a user that is to be compared: what was asked, what was answered, and when (seconds since 1970).

    `arm` is who answered the user; `cluster` stands for the session, `conversation` is its id where the caller gave
    one; `parent` is the caller's traceparent.
    """

    number: int
    tenant: str
    cluster: str
    arm: str
    path: str
    status: int
    headers: Mapping[str, str]
    began: float
    seconds: float
    first_byte: float | None
    run_id: str
    conversation: str
    parent: str
    request: bytes = b""
    answer: bytes = b""

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return len(self.request) + len(self.answer)

    def frame(self) -> Frame:
        """On its way to the comparing process."""
        names = ("number", "tenant", "cluster", "arm", "path", "status", "headers", "began", "seconds", "first_byte",
                 "run_id", "conversation", "parent")  # fmt: skip
        head = {name: getattr(self, name) for name in names}
        return Frame("job", {**head, "split": len(self.request)}, self.request + self.answer)

    @classmethod
    def of(cls, frame: Frame) -> Job:
        """As it arrived."""
        head = dict(frame.head)
        split = head.pop("split")
        return cls(**head, request=frame.body[:split], answer=frame.body[split:])
