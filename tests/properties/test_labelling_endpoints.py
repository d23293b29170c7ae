"""Whatever is sent to the labelling page, the answer is a refusal or what was asked for, and nothing else goes wrong.

Requests are bytes that the server's own handler reads, without a socket. HARNESS_FUZZ_EXAMPLES says how many each test
sends.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.judging.labelling.server import MAX_BODY, LabelServer, _Handler
from tests.endpoint_fuzz import Odd, fuzzed
from tests.labelled_run import make_run
from tests.test_labelling_server import session

STATUSES = (200, 303, 400, 403, 404, 409, 411, 413, 414, 415, 421, 431, 501, 505)


class Line:
    """A connection that holds a request and takes the answer."""

    def __init__(self, request: bytes) -> None:
        self._given, self.sent = io.BytesIO(request), b""

    def makefile(self, *_: Any) -> io.BytesIO:
        return self._given

    def sendall(self, data: bytes) -> None:
        self.sent += bytes(data)

    def settimeout(self, *_: Any) -> None:
        """Nothing has to be waited for."""

    setsockopt = settimeout


class Page:
    """The server of one session, and what it answers to bytes."""

    def __init__(self, folder: Path) -> None:
        self.told: list[str] = []
        self.server = LabelServer(session(make_run(folder)), tell=self.told.append)
        self.gate = self.server._gate
        self.host = f"127.0.0.1:{self.gate.port}"
        self.gate.finish = lambda: None  # the loop does not run

    def answer(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the first answer; 0 where there is none."""
        line = Line(request)
        _Handler(self.gate, line, ("127.0.0.1", 1), self.server._server)
        if line.sent and not line.sent.startswith(b"HTTP/"):  # HTTP/0.9, which has no status
            assert line.sent == b"refused" or line.sent.startswith(b'{"error"')
            return 400, line.sent
        head, _, body = line.sent.partition(b"\r\n\r\n")
        return (int(head.split(b" ")[1]), body) if head else (0, b"")

    def known(self, method: str, path: str, body: bytes = b"", changed: dict[str, str] | None = None) -> bytes:
        """A request of the page's own script, with headers changed."""
        headers = {
            "Host": self.host, "Cookie": f"{self.gate.cookie_name}={self.gate.cookie}", "Connection": "close",
            "Origin": f"http://{self.host}", "X-Page-Token": self.gate.page_token, "Content-Type": "application/json",
            "Content-Length": str(len(body)), **(changed or {}),
        }  # fmt: skip
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
        return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1", "replace") + body


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    made = Page(tmp_path_factory.mktemp("run"))
    yield made
    made.server.close()
    assert made.told == []  # nothing went wrong behind a refusal either


def test_any_bytes(page: Page) -> None:
    starts = (b"", b"GET / HTTP/1.1\r\n", b"POST /api/answer HTTP/1.1\r\n", b"GET /", b"Host: ")

    def ask(odd: Odd) -> None:
        status, _ = page.answer(odd.pick(starts) + odd.bytes(300) + b"\r\n\r\n")
        assert status in (0, *STATUSES)
        assert status not in (200, 303)

    fuzzed(ask)


METHODS = ("GET", "GET", "POST", "POST", "HEAD", "PUT", "OPTIONS", "get", "X")
PATHS = ("/", "/api/state", "/api/answer", "/api/undo", "/api/finish", "/open/", "/open/x", "/../", "//", "*", "/%00")
NAMES = ("Host", "Cookie", "Origin", "X-Page-Token", "Content-Type", "Content-Length", "Sec-Fetch-Site")
VALUES = (
    "", "127.0.0.1", "evil.example", "null", "cross-site", "same-origin", "0", "-1", "9" * 12, "1e3", "text/plain",
    "application/json; charset=x", "label-1=a; label-2", '"', "=;=",
)  # fmt: skip


def test_requests_with_some_headers_changed(page: Page) -> None:
    def ask(odd: Odd) -> None:
        method, path = odd.pick(METHODS), odd.pick(PATHS) if odd.chance(0.8) else "/" + odd.latin()
        changed = odd.headers(NAMES, VALUES, 3)
        status, _ = page.answer(page.known(method, path, odd.bytes(40), changed))
        assert status in (0, *STATUSES)  # 0: the body is shorter than it says, and the connection ends
        if {"Host", "Cookie"} & set(changed) and not path.startswith("/open/"):
            assert status not in (200, 409)
        if method == "POST" and {"X-Page-Token", "Origin"} & set(changed):
            assert status not in (200, 409)

    fuzzed(ask)


@pytest.mark.parametrize("path", ["/api/answer", "/api/undo", "/api/finish"])
def test_bodies_of_any_shape(page: Page, path: str) -> None:
    def ask(odd: Odd) -> None:
        value: Any = odd.json(("item", "answer", "x"))
        if odd.chance(0.4):
            value = {"item": odd.pick(("0", "1", 0, None)), "answer": odd.pick(("left", "tie", "", value))}
        body = json.dumps(value).encode()
        status, answer = page.answer(page.known("POST", path, body))
        assert status in ((200, 400, 409) if len(body) <= MAX_BODY else (413,))
        assert isinstance(json.loads(answer), dict)
        if not isinstance(value, dict) and status != 413:
            assert status == 400

    fuzzed(ask)
