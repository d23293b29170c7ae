"""A server that answers every call with the same completion, as fast as asyncio can; and one that misbehaves

`python -m benchmarks.mirror_bench.stub MODE`: `ok` (20 ms), `slow` (2 s), `hung` (no answer), `crashing` (closes the
connection). The first line of stdout is the port.
"""

from __future__ import annotations

import asyncio
import json
import sys

_TEXT = "The parcel left our warehouse on Monday and should reach you within two working days. " * 12
_BODY = json.dumps({
    "id": "r", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 190, "total_tokens": 390},
}).encode()  # fmt: skip
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
_SECONDS = {"ok": 0.02, "slow": 2.0}


class _Stub(asyncio.Protocol):
    def __init__(self, mode: str) -> None:
        self._mode, self._left, self._held = mode, 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end].lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self._held) < end + 4 + size:
                return
            self._held = self._held[end + 4 + size :]
            self._answer()

    def _answer(self) -> None:
        if self._mode == "crashing":
            self._transport.close()
        elif self._mode != "hung":
            asyncio.get_running_loop().call_later(_SECONDS[self._mode], self._write)

    def _write(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_ANSWER)


async def main(mode: str) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: _Stub(mode), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
