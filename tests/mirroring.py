"""A mirror in this process on a free port, with its comparing process, and requests to it without a library between."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.mirror import Loaded, build, load_mirror
from harness.mirror.ledger import Ledger
from harness.mirror.link import Link
from harness.traces.receiver import Tokens, read_tokens
from tests.loopback_model import wait_for

QUICK = {"sessions": {"idle_seconds": 0.2}, "policy": {"tried": False, "look_seconds": 0.2}}


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def settings(champion: str, candidate: str, **more: Any) -> dict[str, Any]:
    """A mirror.yaml of two loopback servers, which looks often."""
    mode = {} if "split" in more else {"mirror": {"share": 1.0}}
    deployments = [{"model": "openai/m", "api_base": candidate}]
    return {
        "champion": {"api_base": champion}, "candidate": {"deployments": deployments, "timeout": 5},
        **QUICK, **mode, **more,
    }  # fmt: skip


def load(folder: Path, config: Mapping[str, Any], *, aa: bool = False) -> Loaded:
    """Write a mirror.yaml and read it."""
    path = folder / "mirror.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    return load_mirror(path, aa=aa)


def chat(text: str, **more: Any) -> bytes:
    """The body of a chat of one message."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more}).encode()


class Mirroring:
    """A context manager; `told` is what it says to the terminal."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, aa: bool = False) -> None:
        import uvicorn

        self.loaded = load(folder, config, aa=aa)
        self.told: list[str] = []
        self.link = Link(self.loaded, self.told.append)
        path = self.loaded.resolved(self.loaded.config.token_file)
        tokens: Tokens | None = None if path is None else read_tokens(path)
        app = build(self.loaded, self.link, tokens)
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=0, log_level="critical", server_header=False, date_header=False)
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Mirroring:
        self._thread.start()
        assert wait_for(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(40)

    def post(self, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> Answer:
        """Send a call; `x_session_id="a"` is a header."""
        named = {"content-type": "application/json", **{n.replace("_", "-"): v for n, v in headers.items()}}
        return self.request("POST", path, body, named)

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request."""
        return ask(self.port, method, path, body, headers)

    def books(self) -> dict[str, int]:
        """What became of calls, once all of them are in the books (and the mirror has stopped)."""
        ledger = Ledger(self.loaded.folder, self.loaded.comparison_digest())
        try:
            return ledger.counts()
        finally:
            ledger.close()


def ask(port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """One request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body or None, dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, answer.getheaders(), answer.read())
    finally:
        connection.close()


def adds_up(counts: Mapping[str, int]) -> bool:
    """Whether every call that was received is in exactly one other count."""
    return counts.get("received", 0) == sum(n for what, n in counts.items() if what != "received")


def verdict_of(loaded: Loaded) -> dict[str, Any]:
    """The verdict that the comparing process has written, empty before its first look."""
    path = loaded.folder / "verdict.json"
    return json.loads(path.read_text()) if path.exists() else {}


def wait_for_pairs(loaded: Loaded, n: int, metric: str = "answered") -> dict[str, Any]:
    """The verdict on at least so many pairs."""

    def there() -> bool:
        return any(c["n_used"] >= n for c in verdict_of(loaded).get("comparisons", []) if c["metric"] == metric)

    assert wait_for(there, 60), verdict_of(loaded).get("counts")
    time.sleep(0.3)
    return verdict_of(loaded)
