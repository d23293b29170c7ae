"""A server of pictures on 127.0.0.1 that answers as told, and pictures as small as they can be."""

from __future__ import annotations

import base64
import http.server
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 40
GIF = b"GIF89a" + b"g" * 40
WEBP = b"RIFF\x28\0\0\0WEBP" + b"w" * 40


Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


def sent(body: bytes = PNG, kind: str = "image/png", status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **named}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def dripping(handler: http.server.BaseHTTPRequestHandler) -> None:
    """A byte at a time, so that no single wait is ever long; and no length, so that the end shows nothing."""
    handler.send_response(200)
    handler.send_header("content-type", "image/png")
    handler.end_headers()
    for byte in PNG * 100:
        try:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


@dataclass
class Pictures:
    """A server on a free port of 127.0.0.1 that answers paths as told, and remembers what was asked with what."""

    replies: dict[str, Reply] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    context: ssl.SSLContext | None = None

    def __enter__(self) -> Pictures:
        known = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                known.replies.get(self.path, sent(b"no", "text/plain", 404))(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if self.context is not None:
            self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
