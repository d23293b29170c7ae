"""GitHub and GitLab on 127.0.0.1, as far as one comment on a pull or merge request needs them.

with LoopbackForge() as forge:
    environment = forge.github()          # what a step of GitHub Actions sees
    ...
    assert [comment["body"] for comment in forge.comments] == […]
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

TOKEN = "token-of-the-test"  # noqa: S105 - nobody else's
SHA = "0123456789abcdef0123456789abcdef01234567"
BOT = {"id": 41898282, "login": "github-actions[bot]"}
STRANGER = {"id": 7, "login": "stranger"}
PROJECT, NUMBER = 12, 34


@dataclass(slots=True)
class LoopbackForge:
    """See the module. `read_only`: writing is refused with 403, as for a fork. `faults` is used up first, one an
    answer: a status with its headers. `lose_answers`: so many changes are made, and the connection closed without a
    word. `asked` records every request.
    """

    comments: list[dict[str, Any]] = field(default_factory=list)
    read_only: bool = False
    faults: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    lose_answers: int = 0
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    @property
    def base(self) -> str:
        """Address without a path."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def say(self, body: str, user: dict[str, Any]) -> dict[str, Any]:
        """A comment that is there before."""
        comment = {"id": 1000 + len(self.comments), "body": body, "user": user, "author": user, "system": False}
        self.comments.append(comment)
        return comment

    def github(self, folder: Path, *, event: dict[str, Any] | None = None) -> dict[str, str]:
        """The environment of a step in the job of a pull request."""
        path = folder / "event.json"
        path.write_text(json.dumps(event or {"pull_request": {"number": NUMBER, "head": {"sha": SHA}}}), "utf-8")
        return {
            "GITHUB_ACTIONS": "true", "GITHUB_API_URL": f"{self.base}/github", "GITHUB_REPOSITORY": "team/project",
            "GITHUB_SERVER_URL": "https://github.example", "GITHUB_RUN_ID": "99", "GITHUB_SHA": "f" * 40,
            "GITHUB_EVENT_PATH": str(path), "GITHUB_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1",
        }  # fmt: skip

    def gitlab(self) -> dict[str, str]:
        """The environment of a job in the pipeline of a merge request."""
        return {
            "GITLAB_CI": "true", "CI_API_V4_URL": f"{self.base}/gitlab", "CI_PROJECT_ID": str(PROJECT),
            "CI_MERGE_REQUEST_IID": str(NUMBER), "HARNESS_GITLAB_TOKEN": TOKEN, "CI_COMMIT_SHA": SHA,
            "CI_JOB_URL": "https://gitlab.example/team/project/-/jobs/5", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip

    def __enter__(self) -> Self:
        """Serve on a free port."""
        forge = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: Any) -> None:
                """Keep quiet."""

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                forge.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                status, document, headers = forge.answer(self.command, self.path, self.headers, body)
                data = json.dumps(document).encode()
                if self.command != "GET" and forge.lose_answers:
                    forge.lose_answers -= 1
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_PUT = _answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, address: str, headers: Any, body: Any) -> tuple[int, Any, dict[str, str]]:
        """Status, document and headers."""
        if self.faults:
            status, extra = self.faults.pop(0)
            return status, {"message": "fault"}, extra
        if TOKEN not in (headers.get("Authorization", "").removeprefix("Bearer "), headers.get("PRIVATE-TOKEN")):
            return 401, {"message": "Bad credentials"}, {}
        if method != "GET" and self.read_only:
            return 403, {"message": "Resource not accessible by integration"}, {}
        parts = urlsplit(address)
        known = {
            f"/github/repos/team/project/issues/{NUMBER}/comments": self._all,
            f"/gitlab/projects/{PROJECT}/merge_requests/{NUMBER}/notes": self._all,
        }
        if parts.path in known:
            return known[parts.path](method, parts.query, body)
        if parts.path == "/gitlab/user":
            return 200, BOT, {}
        for comment in self.comments:
            if parts.path.endswith((f"/issues/comments/{comment['id']}", f"/notes/{comment['id']}")):
                comment["body"] = body["body"]
                return 200, comment, {}
        return 404, {"message": "Not Found"}, {}

    def _all(self, method: str, query: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        if method == "POST":
            return 201, self.say(body["body"], BOT), {}
        asked = parse_qs(query)
        size, page = int(asked["per_page"][0]), int(asked["page"][0])
        return 200, self.comments[(page - 1) * size : page * size], {}
