"""The labelling page's server: for one browser on this machine, and for nobody else.

It listens on 127.0.0.1 alone and is the standard library's, so that labelling needs nothing beyond the core install;
one person's few requests a minute need no more. Another page in the same browser is what it defends against. A request
must name this host (no DNS rebinding) and come from this origin (no forged request). The address holds a token that
works once and is exchanged for a cookie that scripts cannot read and other sites do not send; whatever changes
something also needs a second token, which only the page has. The page may load nothing and talk to nobody but this
server.
"""

from __future__ import annotations

import functools
import hmac
import json
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from harness.errors import HarnessError, InfrastructureError
from harness.judging.labelling.page import Page
from harness.judging.labelling.session import NoAnswerError, Session

ADDRESS = "127.0.0.1"
MAX_BODY = 4_096  # bytes of a request; an answer has about 60
_SECONDS = 30  # that a connection may take to say what it wants

Tell = Callable[[str], None]


class LabelServer:
    """Serves one session until it is finished or stopped. `url` opens it, once.

    Args:
        session: what to show and where answers go.
        port: 0 takes a free one.
        tell: receives what went wrong, for the terminal; the page is told only that something did.

    Raises:
        InfrastructureError: the port is taken or may not be used.
    """

    def __init__(self, session: Session, *, port: int = 0, tell: Tell = lambda text: None) -> None:
        self._gate = _Gate(session, tell)
        try:
            self._server = _Server((ADDRESS, port), functools.partial(_Handler, self._gate))
        except (OSError, OverflowError) as error:
            raise InfrastructureError(f"port {port} on {ADDRESS}: {error}; choose another with --port") from error
        self._server.tell = tell
        self._gate.open_at(self._server.server_address[1], self.stop)

    @property
    def url(self) -> str:
        """The address that opens the page: it works for the first browser that uses it."""
        return f"http://{ADDRESS}:{self._gate.port}/open/{self._gate.entrance}"

    def serve(self) -> None:
        """Answer requests until `stop`, from this thread."""
        self._server.serve_forever(poll_interval=0.1)

    def stop(self) -> None:
        """Make `serve` return; may be called from any thread but the one that serves."""
        self._server.shutdown()

    def close(self) -> None:
        """Let go of the port."""
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    tell: Tell = print
    daemon_threads = True  # a browser keeps connections open that nobody will use again
    allow_reuse_address = False
    request_queue_size = 64  # five is the default, and a browser alone opens six at a time

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks off is no news; anything else is a mistake of ours, and is told."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.tell(f"the page's server stumbled: {error!r}")


class _Gate:
    """What the requests share: the session, the secrets, and who may come in."""

    def __init__(self, session: Session, tell: Tell) -> None:
        self.session, self.tell = session, tell
        self.entrance, self.cookie, self.page_token = (secrets.token_urlsafe(32) for _ in range(3))
        self.page = Page.of(session.plan, session.question, self.page_token)
        self.lock = threading.Lock()
        self.port = 0
        self.used = False
        self.finish: Callable[[], None] = lambda: None

    def open_at(self, port: int, finish: Callable[[], None]) -> None:
        self.port, self.finish = port, finish

    @property
    def cookie_name(self) -> str:
        """Cookies are shared by all ports of a host, so that the name has to tell them apart."""
        return f"label-{self.port}"

    @property
    def hosts(self) -> tuple[str, str]:
        return f"{ADDRESS}:{self.port}", f"localhost:{self.port}"

    def enter(self, token: str) -> bool:
        """Whether `token` opens the page; it does so once."""
        with self.lock:
            right = not self.used and _same(token, self.entrance)
            self.used = self.used or right
            return right

    def knows(self, header: str) -> bool:
        """Whether a Cookie header holds this session's cookie."""
        try:
            found = SimpleCookie(header).get(self.cookie_name)
        except CookieError:
            return False
        return found is not None and _same(found.value, self.cookie)


class _Refused(Exception):
    """A request that is not served, and the status that says so."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server_version = "harness"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS
    disable_nagle_algorithm = True  # headers and body are two writes, and the second would wait 40 ms

    def __init__(self, gate: _Gate, *arguments: Any) -> None:
        self._gate = gate
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """The page, its entrance and its state."""
        self._guarded(self._get)

    def do_POST(self) -> None:
        """What changes something."""
        self._guarded(self._post)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the address holds a token."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses (an unknown method, a line too long), without echoing any of it."""
        self.close_connection = True
        self._send(HTTPStatus(code), b"refused", "text/plain; charset=utf-8")

    # ---------------------------------------------------------------- routes

    def _get(self) -> None:
        if self.path.startswith("/open/"):
            return self._enter(self.path.removeprefix("/open/"))
        self._need_same_site()
        self._need_cookie()
        if self.path == "/":
            policy = {"Content-Security-Policy": self._gate.page.policy}
            return self._send(HTTPStatus.OK, self._gate.page.html.encode(), "text/html; charset=utf-8", policy)
        if self.path == "/api/state":
            return self._send_state(HTTPStatus.OK)
        raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self) -> None:
        self._need_same_site()
        self._need_cookie()
        if self.headers.get("Origin") not in {f"http://{host}" for host in self._gate.hosts}:
            raise _Refused(HTTPStatus.FORBIDDEN, "the request comes from another page")
        if not _same(self.headers.get("X-Page-Token", ""), self._gate.page_token):
            raise _Refused(HTTPStatus.FORBIDDEN, "the page is of another session; reload it")
        body = self._body()
        routes = {"/api/answer": self._answer, "/api/undo": self._undo, "/api/finish": self._finish}
        if self.path not in routes:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        routes[self.path](body)

    def _enter(self, token: str) -> None:
        gate = self._gate
        if not (gate.knows(self.headers.get("Cookie", "")) or gate.enter(token)):
            raise _Refused(
                HTTPStatus.FORBIDDEN,
                "This address was used already, or is not whole. Start the command again for another.",
            )
        cookie = f"{gate.cookie_name}={gate.cookie}; HttpOnly; SameSite=Strict; Path=/"
        self._send(HTTPStatus.SEE_OTHER, b"", "text/plain; charset=utf-8", {"Location": "/", "Set-Cookie": cookie})

    def _answer(self, body: Mapping[str, Any]) -> None:
        with self._gate.lock:
            stored = self._gate.session.answer(str(body.get("item")), body.get("answer"))
        if stored:
            self._send_state(HTTPStatus.OK)
        else:
            self._send_state(HTTPStatus.CONFLICT, "That item was answered elsewhere; this is the next one.")

    def _undo(self, body: Mapping[str, Any]) -> None:
        with self._gate.lock:
            self._gate.session.undo()
        self._send_state(HTTPStatus.OK)

    def _finish(self, body: Mapping[str, Any]) -> None:
        self._send_json(HTTPStatus.OK, {})
        threading.Thread(target=self._gate.finish, daemon=True).start()  # it waits for the loop that got us here

    # ---------------------------------------------------------------- who may ask, and what

    def _guarded(self, route: Callable[[], None]) -> None:
        """Serve a request that names this host; every refusal is an answer, and closes the connection."""
        try:
            if self.headers.get_all("Host") not in [[host] for host in self._gate.hosts]:
                raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, "the request names another host")
            route()
        except _Refused as refused:
            self._refuse(refused.status, str(refused))
        except NoAnswerError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except HarnessError as error:  # its text may name the run, and with it the candidate
            self._gate.tell(str(error))
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "the command cannot go on; see the terminal")

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True
        self._send_json(status, {"error": text})

    def _need_same_site(self) -> None:
        """Browsers say where a request comes from; whatever another page began is refused."""
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            raise _Refused(HTTPStatus.FORBIDDEN, "the request comes from another page")

    def _need_cookie(self) -> None:
        if not self._gate.knows(self.headers.get("Cookie", "")):
            raise _Refused(HTTPStatus.FORBIDDEN, "open the address that the command shows")

    def _body(self) -> Mapping[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "the length of the request is not said")
        if len(length) > 9 or int(length) > MAX_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the request is not JSON")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the request is not a JSON object")
        return body

    # ---------------------------------------------------------------- answers

    def _send_state(self, status: HTTPStatus, error: str = "") -> None:
        with self._gate.lock:
            state = self._gate.session.state()
        self._send_json(status, {"state": state, **({"error": error} if error else {})})

    def _send_json(self, status: HTTPStatus, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, more: Mapping[str, str] | None = None) -> None:
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            **(more or {}),
        }
        if self.close_connection:
            headers["Connection"] = "close"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _same(given: str, secret: str) -> bool:
    """Equal, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())
