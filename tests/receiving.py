"""A receiver in this process on a free port, and requests to it without a client library in between."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.traces.receiver import Limits, bounded_heads, build, intake
from harness.traces.receiver._tokens import Tokens
from harness.traces.store import Store, StoreOptions

PROTOBUF, JSON = "application/x-protobuf", "application/json"


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Receiving:
    """A context manager: the receiver over a store in `folder`."""

    def __init__(self, folder: Path, tokens: Tokens | None = None, limits: Limits | None = None) -> None:
        import uvicorn

        self.folder = folder
        self.store = Store.open(folder, options=StoreOptions(spare=0))
        self.intake = intake(self.store, limits)
        self._server = uvicorn.Server(
            uvicorn.Config(
                build(self.intake, tokens, limits), port=0, log_level="critical", lifespan="on", http=bounded_heads()
            )
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Receiving:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    def post(self, body: bytes, path: str = "/v1/traces", kind: str = PROTOBUF, **headers: str) -> Answer:
        """Send a body; `content_encoding="gzip"` is a header."""
        named = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.request("POST", path, body, named)

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def compacted(self) -> Store:
        """The store with everything in it that was acknowledged."""
        self.store.compact()
        return self.store
