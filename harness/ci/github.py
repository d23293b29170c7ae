"""GitHub Actions: a pull request's comments, annotations and the files by which a step talks to its job."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.ci._http import Api, Reply, Unavailable
from harness.ci.commenting import PER_PAGE, Job, Note
from harness.ci.places import Finding
from harness.errors import ConfigError, StorageError, at

AUTHOR = "github-actions[bot]"
"""Who writes with the token of a workflow. No account can be named so, because of the brackets."""
EACH_KIND = 10
"""GitHub shows so many annotations of each kind a step, and drops the others without a word."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class PullRequest:
    """See `Discussion`: the comments of one pull request, among which those of `author` are ours."""

    api: Api
    repository: str
    number: int
    job: Job
    author: str = AUTHOR

    def page(self, number: int) -> Reply | list[Note]:
        """See `Discussion.page`."""
        reply = self.api.send("GET", f"{self._issues}/{self.number}/comments?per_page={PER_PAGE}&page={number}")
        if reply.status != 200:
            return reply
        if not isinstance(reply.document, list):
            raise Unavailable("GitHub answered something else than a list of comments")
        return [_note(comment, self.author) for comment in reply.document]

    def create(self, body: str) -> Reply:
        """See `Discussion.create`."""
        return self.api.send("POST", f"{self._issues}/{self.number}/comments", {"body": body})

    def update(self, note: int, body: str) -> Reply:
        """See `Discussion.update`."""
        return self.api.send("PATCH", f"{self._issues}/comments/{note}", {"body": body})

    @property
    def _issues(self) -> str:
        return f"/repos/{self.repository}/issues"


def pull_request(environment: Mapping[str, str], author: str = AUTHOR) -> PullRequest | None:
    """The pull request that this job is about, None where it is about something else.

    Reads GITHUB_EVENT_PATH, GITHUB_REPOSITORY, GITHUB_API_URL and GITHUB_TOKEN.

    Raises:
        ConfigError: one of them is missing or not what GitHub sets.
    """
    happened = event(environment)
    pull = happened.get("pull_request")
    if not isinstance(pull, Mapping) or not isinstance(pull.get("number"), int):
        return None
    repository = _needed(environment, "GITHUB_REPOSITORY")
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"GITHUB_REPOSITORY is {repository!r}, not OWNER/NAME")
    headers = {
        "Authorization": f"Bearer {_needed(environment, 'GITHUB_TOKEN').strip()}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    api = Api(environment.get("GITHUB_API_URL") or "https://api.github.com", headers)
    return PullRequest(api, repository, pull["number"], job(environment, happened), author)


def job(environment: Mapping[str, str], happened: Mapping[str, Any] | None = None) -> Job:
    """The workflow run and the commit; of a pull request its own last commit, not the merge that is tried out."""
    pull = (happened or {}).get("pull_request")
    head = pull.get("head") if isinstance(pull, Mapping) else None
    commit = str(head.get("sha")) if isinstance(head, Mapping) else environment.get("GITHUB_SHA", "")
    server, repository, run = (environment.get(f"GITHUB_{n}", "") for n in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    url = f"{server}/{repository}/actions/runs/{run}" if server and repository and run else ""
    return Job.of(url, commit)


def event(environment: Mapping[str, str]) -> dict[str, Any]:
    """What started the workflow: the JSON in the file that GITHUB_EVENT_PATH names.

    Raises:
        ConfigError: the variable is not set, or the file is no JSON.
    """
    path = _needed(environment, "GITHUB_EVENT_PATH")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{at(path)}not the event of a workflow: {error}") from error
    return found if isinstance(found, dict) else {}


def workflow_commands(findings: Sequence[Finding]) -> list[str]:
    """Workflow commands that mark lines of the change; the last of a kind that GitHub would cut off counts the rest."""
    lines: list[str] = []
    for level in ("error", "warning", "notice"):
        of_kind = [finding for finding in findings if finding.level == level]
        shown = of_kind if len(of_kind) <= EACH_KIND else of_kind[: EACH_KIND - 1]
        lines += [_command(finding) for finding in shown]
        if len(shown) < len(of_kind):
            lines.append(f"::{level}::{len(of_kind) - len(shown)} more are in the job summary")
    return lines


def append(environment: Mapping[str, str], variable: str, text: str) -> bool:
    """Append to the file that GitHub named for this step (GITHUB_OUTPUT, GITHUB_STEP_SUMMARY); False without one.

    Raises:
        StorageError: it cannot be written.
    """
    name = environment.get(variable)
    if not name:
        return False
    try:
        with open(name, "a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise StorageError(f"{at(name)}cannot be written: {error}") from error
    return True


def outputs(values: Mapping[str, str]) -> str:
    """Step outputs as GITHUB_OUTPUT holds them, a line each.

    Raises:
        ConfigError: a value has several lines: the second one could be read as another output.
    """
    return "".join(_output(name, value) for name, value in values.items())


def _output(name: str, value: str) -> str:
    if len(value.splitlines()) > 1 or value.endswith(("\n", "\r")):
        raise ConfigError(f"{name} has a line break in it: {value!r}")
    return f"{name}={value}\n"


def _command(finding: Finding) -> str:
    where = {} if not finding.file else {"file": finding.file}
    if where and finding.line is not None:
        where["line"] = str(finding.line)
    properties = ",".join(f"{key}={_property(value)}" for key, value in ({**where, "title": finding.title}).items())
    return f"::{finding.level} {properties}::{_data(finding.text)}"


def _data(text: str) -> str:
    """As the runner wants it; so a text has one line, and cannot begin a command of its own."""
    for character in "%\r\n":  # the percent sign first
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _note(comment: Any, author: str) -> Note:
    if not isinstance(comment, Mapping) or not isinstance(comment.get("id"), int):
        raise Unavailable("GitHub answered something else than a list of comments")
    user = comment.get("user")
    login = user.get("login") if isinstance(user, Mapping) else None
    return Note(comment["id"], str(comment.get("body") or ""), login == author)


def _needed(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise ConfigError(f"{name} is not set; a step of GitHub Actions has it (the token by `env:` in the workflow)")
    return value
