"""A server on 127.0.0.1 that speaks the part of the Hugging Face Hub's API that a registry uses, commits included.

    with LoopbackHub() as hub:
        api = HfApi(endpoint=hub.endpoint, token="t")

`token`: answer 401 to any other; `fails`: HTTP statuses that the next commits are answered with; `before_commit` is
called before a commit is looked at, for what somebody else does meanwhile. `files` is what a branch or tag holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.loopback_server import LoopbackServer


class LoopbackHub(LoopbackServer):
    """See the module. A context manager; one repository is enough."""

    def __init__(self) -> None:
        self.token = "hf_loopback"  # noqa: S105 - of a server that a test starts
        self.fails: list[int] = []
        self.before_commit: Callable[[], None] = lambda: None
        self.repository = ""
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.asked: list[str] = []
        self.lock = threading.RLock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        super().__init__(Handler)

    def files(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.commit_of(revision) or ""]

    def commit_of(self, revision: str) -> str | None:
        found = self.branches.get(revision) or self.tags.get(revision) or revision
        return found if found in self.commits else None

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        parent = self.branches.get(branch, "")
        names = sorted((name, hashlib.sha1(content).hexdigest()) for name, content in files.items())  # noqa: S324
        oid = hashlib.sha1(json.dumps([parent, names, len(self.commits)]).encode()).hexdigest()  # noqa: S324
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *given: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def _route(self, method: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{method} {path}")
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._send(401, {"error": "Invalid username or password."})
        parts = [unquote(p) for p in path.strip("/").split("/")]
        with self.hub.lock:
            if path == "/api/repos/create":
                return self._create(json.loads(raw))
            if path == "/api/validate-yaml":
                return self._send(200, {"errors": [], "warnings": []})
            if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) == self.hub.repository:
                verb = getattr(self, f"_{parts[4].replace('-', '_')}", None)
                if verb is not None:
                    return verb(raw, *parts[5:])
            if parts[2:3] == ["resolve"] and "/".join(parts[:2]) == self.hub.repository:
                return self._resolve(parts[3], "/".join(parts[4:]))
        return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _create(self, body: dict[str, Any]) -> None:
        name = f"{body['organization']}/{body['name']}" if body.get("organization") else body["name"]
        if self.hub.repository == name:
            url = f"{self.hub.endpoint}/{name}"
            return self._send(409, {"error": "You already created this model repo", "url": url})
        self.hub.repository = name
        self.hub.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self._send(200, {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": "1"})

    def _refs(self, raw: bytes) -> None:
        def refs(kind: str, named: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": oid} for n, oid in named.items()]

        self._send(200, {"branches": refs("heads", self.hub.branches), "tags": refs("tags", self.hub.tags),
                         "converts": []})  # fmt: skip

    def _branch(self, raw: bytes, name: str) -> None:
        if name in self.hub.branches:
            return self._send(409, {"error": "Reference already exists"})
        self.hub.branches[name] = self.hub.branches["main"]
        return self._send(201, {})

    def _tag(self, raw: bytes, revision: str) -> None:
        name = json.loads(raw)["tag"]
        if name in self.hub.tags:
            return self._send(409, {"error": "Tag reference exists already"})
        self.hub.tags[name] = self.hub.commit_of(revision) or ""
        return self._send(201, {})

    def _preupload(self, raw: bytes, revision: str) -> None:
        paths = [file["path"] for file in json.loads(raw)["files"]]
        self._send(200, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})

    def _commit(self, raw: bytes, branch: str) -> None:
        if self.hub.fails:
            return self._send(self.hub.fails.pop(0), {"error": "out of order"})
        self.hub.before_commit()
        rows = [json.loads(line) for line in raw.splitlines()]
        header = next(row["value"] for row in rows if row["key"] == "header")
        if header.get("parentCommit") not in (None, self.hub.branches.get(branch)):
            return self._send(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(self.hub.files(branch))
        for row in rows:
            if row["key"] == "file":
                files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            elif row["key"] == "deletedFile":
                del files[row["value"]["path"]]
        oid = self.hub.commit(branch, files)
        return self._send(
            200, {"commitUrl": f"{self.hub.endpoint}/{self.hub.repository}/commit/{oid}", "commitOid": oid}
        )

    def _revision(self, raw: bytes, revision: str) -> None:
        oid = self.hub.commit_of(revision)
        if oid is None:
            return self._send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name} for name in sorted(self.hub.commits[oid])]
        name = self.hub.repository
        return self._send(200, {"id": name, "modelId": name, "sha": oid, "private": True, "siblings": siblings,
                                "tags": [], "downloads": 0, "likes": 0})  # fmt: skip

    def _tree(self, raw: bytes, revision: str, *path: str) -> None:
        files = self.hub.files(revision)
        self._send(200, [{"type": "file", "path": name, "size": len(content),
                          "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324
                         for name, content in sorted(files.items())])  # fmt: skip

    def _resolve(self, revision: str, path: str) -> None:
        oid = self.hub.commit_of(revision)
        content = None if oid is None else self.hub.commits[oid].get(path)
        if content is None:
            code = "RevisionNotFound" if oid is None else "EntryNotFound"
            return self._send(404, {"error": "not found"}, {"X-Error-Code": code, "X-Repo-Commit": oid or ""})
        etag = hashlib.sha1(content).hexdigest()  # noqa: S324 - as git names a blob
        return self._reply(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": oid or "",
                                          "Content-Type": "application/octet-stream"})  # fmt: skip

    def _send(self, status: int, body: Any, extra: dict[str, str] | None = None) -> None:
        self._reply(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(extra or {})})

    def _reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
