"""GitLab CI: the notes of a merge request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.ci._http import Api, Reply, Unavailable
from harness.ci.commenting import PER_PAGE, Job, Note
from harness.errors import ConfigError

TOKEN = "HARNESS_GITLAB_TOKEN"  # noqa: S105 - the name of a variable
_QUICK_ACTION = re.compile(r"(?m)^([^\S\n]*)/")


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """See `Discussion`: the notes of one merge request, among which those of the token's own user are ours."""

    api: Api
    project: int
    number: int
    job: Job

    def page(self, number: int) -> Reply | list[Note]:
        """See `Discussion.page`."""
        who = self.api.send("GET", "/user")
        user = who.document.get("id") if isinstance(who.document, Mapping) else None
        if who.status != 200 or not isinstance(user, int):
            return who
        order = f"sort=asc&order_by=created_at&per_page={PER_PAGE}&page={number}"
        reply = self.api.send("GET", f"{self._notes}?{order}")
        if reply.status != 200:
            return reply
        if not isinstance(reply.document, list):
            raise Unavailable("GitLab answered something else than a list of notes")
        return [_note(note, user) for note in reply.document]

    def create(self, body: str) -> Reply:
        """See `Discussion.create`."""
        return self.api.send("POST", self._notes, {"body": harmless(body)})

    def update(self, note: int, body: str) -> Reply:
        """See `Discussion.update`."""
        return self.api.send("PUT", f"{self._notes}/{note}", {"body": harmless(body)})

    @property
    def _notes(self) -> str:
        return f"/projects/{self.project}/merge_requests/{self.number}/notes"


def merge_request(environment: Mapping[str, str]) -> MergeRequest | None:
    """The merge request that this pipeline is about, None where it is about something else or there is no token.

    Reads CI_MERGE_REQUEST_IID, CI_PROJECT_ID, CI_API_V4_URL and HARNESS_GITLAB_TOKEN, an access token with the scope
    `api`; the job's own token may not write notes.

    Raises:
        ConfigError: one of them is not what GitLab sets.
    """
    token = environment.get(TOKEN, "").strip()
    if not environment.get("CI_MERGE_REQUEST_IID") or not token:
        return None
    project, number = (_whole(environment, name) for name in ("CI_PROJECT_ID", "CI_MERGE_REQUEST_IID"))
    api = Api(environment.get("CI_API_V4_URL") or "https://gitlab.com/api/v4", {"PRIVATE-TOKEN": token})
    return MergeRequest(api, project, number, job(environment))


def job(environment: Mapping[str, str]) -> Job:
    """The job's page and the commit that it checked out."""
    return Job.of(environment.get("CI_JOB_URL", ""), environment.get("CI_COMMIT_SHA", ""))


def harmless(body: str) -> str:
    """`body` without a line that GitLab could take for a quick action, such as /merge, and carry out for the token.

    GitLab skips code blocks by rules of its own, which have differed from Markdown's; so no line is left to them.
    """
    return _QUICK_ACTION.sub("\\1\u200b/", body)


def _note(note: Any, user: int) -> Note:
    if not isinstance(note, Mapping) or not isinstance(note.get("id"), int):
        raise Unavailable("GitLab answered something else than a list of notes")
    author = note.get("author")
    written_by = author.get("id") if isinstance(author, Mapping) else None
    return Note(note["id"], str(note.get("body") or ""), written_by == user and not note.get("system"))


def _whole(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdecimal():
        raise ConfigError(f"{name} is {value!r}, not a number")
    return int(value)
