"""A real HTTP server on 127.0.0.1 that speaks OpenAI's API as far as it is asked here, and misbehaves as told.

It answers /v1/chat/completions, /v1/completions (both also as a stream) and /v1/models by a Python function of the
messages. Faults come by a seeded share, drawn from the question and the number of times that it was asked, so that they
do not depend on the order in which requests arrive. Everything that was asked is recorded, so that a test can show what
was paid for twice:

    with LoopbackModel(lambda messages: "yes", latency=0.2, faults={"429": 0.1, "cut": 0.1}) as server:
        options = ServedOptions(model="openai/m", api_base=server.base)
        ...
        assert max(server.answered.values()) == 1

`python tests/loopback_model.py --latency 0.2` serves in a process of its own and prints its address.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Messages = Sequence[Mapping[str, str]]

FAULTS = (
    "429", "429-retry-after", "500", "503", "hang", "cut", "prose", "garbage", "invalid-json", "html", "empty-choices",
    "no-text", "truncated", "filtered", "wrong-shape",
)  # fmt: skip
"""What may go wrong, besides any other HTTP status by its number. `prose`: an answer that is not what was asked for;
`truncated`: half of the answer, with finish_reason length; `hang`: nothing comes; `cut`: the connection closes in the
middle of the body."""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer and how it ended, for answer functions that say more than a text."""

    text: str | None
    finish: str = "stop"
    usage: Mapping[str, int] | None = None
    tool_calls: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """What an answer function returns to make this request go wrong: one of FAULTS, or an HTTP status."""

    kind: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it arrived, and the fault that it met (empty: it was answered). Header names are lower case."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    question: str
    fault: str


Answer = Callable[[Messages], "str | Said | Fault"]


@dataclass(slots=True)
class LoopbackModel:
    """See the module. A context manager; everything may also be set while it serves.

    `latency` is in seconds; `faults` maps a fault to its share of the attempts; `script` is used up first, one entry an
    attempt ("" answers); `retry_after` is the header of "429-retry-after"; `key`: answer 401 to any other; `schemas`:
    whether a response_format is accepted, else 400; `refuses`: parameters that are answered with 400; `listed`: what
    else stands in the model's entry at /v1/models; `record`: whether `asked` is kept; `pace`: seconds between two words
    of a stream.
    """

    answer: Answer = lambda messages: f"echo {messages[-1]['content']}"
    model: str = "m"
    latency: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    script: list[str] = field(default_factory=list)
    retry_after: str = "0"
    key: str | None = None
    schemas: bool = True
    refuses: Sequence[str] = ()
    listed: Mapping[str, Any] = field(default_factory=dict)
    record: bool = True
    pace: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    under_way: int = 0
    most_under_way: int = 0
    port: int = 0
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base(self) -> str:
        """What goes into `api_base`."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def questions(self) -> list[str]:
        """The last message of every request that arrived, in order of arrival; needs `record`."""
        return [a.question for a in self.asked]

    def start(self) -> LoopbackModel:
        """Serve in a thread of its own; returns when the port is open."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(ready.set)), daemon=True)
        self._thread.start()
        if not ready.wait(30):
            raise RuntimeError("the loopback server did not start")
        return self

    def close(self) -> None:
        """Stop serving and close every connection."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop)
            self._thread.join(30)

    def __enter__(self) -> LoopbackModel:
        return self.start()

    def __exit__(self, *given: object) -> None:
        self.close()

    async def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve in the running loop until `close` or cancellation."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._stopped.clear()
        ready()
        try:
            await self._stopped.wait()
        finally:
            server.close()
            for connection in list(self._connections):
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _stop(self) -> None:
        self._stopped.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        pairs = (line.split(":", 1) for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, value in pairs}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        body = json.loads(raw) if raw else {}
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._respond(path, headers, body, reader, writer)
        finally:
            self.under_way -= 1

    async def _respond(
        self, path: str, headers: Mapping[str, str], body: Mapping[str, Any],
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    ) -> bool:  # fmt: skip
        if path == "/v1/models":
            entry = {"id": self.model, "object": "model", "created": 1, "owned_by": "loopback", **self.listed}
            return await self._send(writer, 200, {"object": "list", "data": [entry]})
        if path not in ("/v1/chat/completions", "/v1/completions"):
            return await self._send(writer, 404, _error("no such path"))
        messages = body.get("messages") or [{"role": "user", "content": body.get("prompt", "")}]
        question = _words(messages[-1]["content"])
        self.requests[question] += 1
        fault = self._refused(headers, body) or self._drawn(question)
        said: str | Said | Fault = Said(None)
        if fault in ("", "truncated", "cut"):
            said = self.answer(messages)
            fault = said.kind if isinstance(said, Fault) else fault
        if self.record:
            self.asked.append(Asked(path, body, headers, question, fault))
        if self.latency:
            await asyncio.sleep(self.latency)
        if fault == "hang":
            await reader.read(1)  # until the client gives up
            return False
        if fault:
            sender = headers.get("authorization", "nobody")
            return await self._misbehave(fault, said, path, {**body, "": sender}, writer)
        assert not isinstance(said, Fault)
        self.answered[question] += 1
        whole = said if isinstance(said, Said) else Said(said)
        if body.get("stream"):
            return await self._stream(path, body, whole, writer)
        return await self._send(writer, 200, _completion(path, body, whole))

    async def _stream(self, path: str, body: Mapping[str, Any], said: Said, writer: asyncio.StreamWriter) -> bool:
        """The answer as server-sent events, a word at a time, and the usage where it is asked for."""
        whole = _completion(path, body, said)
        usage, chat = whole.pop("usage"), path.endswith("/chat/completions")
        writer.write(b"HTTP/1.1 200 -\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def event(data: str) -> None:
            raw = f"data: {data}\n\n".encode()
            writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
            await writer.drain()
            if self.pace:
                await asyncio.sleep(self.pace)

        def piece(text: str, finish: str | None) -> str:
            said = {"delta": {"content": text} if text else {}} if chat else {"text": text}
            return json.dumps({**whole, "choices": [{"index": 0, "finish_reason": finish, **said}]})

        for word in re.findall(r"\s*\S+", said.text or ""):
            await event(piece(word, None))
        await event(piece("", said.finish))
        if (body.get("stream_options") or {}).get("include_usage"):
            await event(json.dumps({**whole, "choices": [], "usage": usage}))
        await event("[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _refused(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> str:
        """The fault of a request that is wrong in itself."""
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return "401"
        if body.get("model") != self.model:
            return "404"
        if "response_format" in body and not self.schemas:
            return "400 response_format"
        return next((f"400 {name}" for name in self.refuses if name in body), "")

    def _drawn(self, question: str) -> str:
        if self.script:
            return self.script.pop(0)
        if not self.faults:
            return ""
        point = random.Random(f"{self.seed}|{self.requests[question]}|{question}").random()
        for fault, share in self.faults.items():
            if point < share:
                return fault
            point -= share
        return ""

    async def _misbehave(
        self, fault: str, said: str | Said | Fault, path: str, body: Mapping[str, Any], writer: asyncio.StreamWriter
    ) -> bool:
        text = said if isinstance(said, str) else said.text if isinstance(said, Said) else None
        status, _, what = fault.partition(" ")
        if status[:3].isdigit():
            extra = {"Retry-After": self.retry_after} if status.endswith("retry-after") else {}
            message = f"unsupported parameter: {what}" if what else f"out of order {status}"
            message += f" (sent by {body['']})"  # a server may repeat what it was sent, credentials included
            return await self._send(writer, int(status[:3]), _error(message), extra)
        if fault == "cut":
            raw = json.dumps(_completion(path, body, Said(text))).encode()
            writer.write(_head(200, len(raw), "application/json", {}) + raw[: len(raw) // 2])
            await writer.drain()
            return False
        if fault in ("garbage", "invalid-json", "html"):
            raw, kind = {
                "garbage": (bytes(range(128, 256)) * 4, "application/json"),
                "invalid-json": (b'{"choices": [{"message": {"content": "yes', "application/json"),
                "html": (b"<html><body>Bad gateway</body></html>", "text/html"),
            }[fault]
            writer.write(_head(200, len(raw), kind, {}) + raw)
            await writer.drain()
            return True
        if fault == "wrong-shape":
            return await self._send(writer, 200, {"choices": "yes", "usage": ["many"]})
        if fault == "empty-choices":
            return await self._send(writer, 200, {**_completion(path, body, Said("")), "choices": []})
        sent = {
            "prose": Said("As a language model I would rather talk about the weather."),
            "no-text": Said(None),
            "truncated": Said((text or "")[: len(text or "") // 2] or "cut", "length"),
            "filtered": Said(None, "content_filter"),
        }[fault]
        return await self._send(writer, 200, _completion(path, body, sent))

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, body: Any, extra: Mapping[str, str] | None = None
    ) -> bool:
        raw = json.dumps(body).encode()
        writer.write(_head(status, len(raw), "application/json", extra or {}) + raw)
        await writer.drain()
        return True


def _head(status: int, length: int, kind: str, extra: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} -", f"Content-Type: {kind}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in extra.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "loopback", "param": None, "code": None}}


def _completion(path: str, body: Mapping[str, Any], said: Said) -> dict[str, Any]:
    """A response in the API's shape; a token is a word here."""
    if path.endswith("/chat/completions"):
        read = sum(len(_words(m["content"] or "").split()) for m in body["messages"])
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": said.text}}
        if said.tool_calls:
            choice["message"]["tool_calls"] = [dict(call) for call in said.tool_calls]
    else:
        read = len(body["prompt"].split())
        choice = {"text": said.text}
    written = len((said.text or "").split())
    usage = said.usage or {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    kind = "chat.completion" if "messages" in body else "text_completion"
    choice |= {"index": 0, "finish_reason": said.finish}
    return {"id": "x", "object": kind, "created": 1, "model": body["model"], "choices": [choice], "usage": dict(usage)}


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether `condition` comes true before so many seconds are over."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met


def _words(content: Any) -> str:
    """What a message asks; one with pictures by all of its parts."""
    return content if isinstance(content, str) else json.dumps(content)


def main() -> None:
    """Serve until killed, in this process; the address is the first line of stdout."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--say", default="yes", help="the answer to everything")
    given = parser.parse_args()
    model = LoopbackModel(lambda messages: given.say, latency=given.latency, port=given.port, record=False)
    asyncio.run(model.serve(lambda: print(model.base, flush=True)))


if __name__ == "__main__":
    main()
