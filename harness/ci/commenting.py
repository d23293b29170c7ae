"""One comment on a pull or merge request, updated in place: how it is found again, and what it says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import ValidationError

from harness.ci._http import Reply, Unavailable
from harness.ci.outcome import Outcome
from harness.errors import ConfigError, InfrastructureError
from harness.report import markdown

PER_PAGE = 100
MAX_PAGES = 100
ATTEMPTS = 4
LONGEST_WAIT = 60.0
_FOOTER = 400
_URL = re.compile(r"https?://[^\s<>()\"]{1,300}")
_SHA = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True)
class Job:
    """Where the job that writes can be looked at, and which commit it was about; either may be empty."""

    url: str = ""
    commit: str = ""

    @classmethod
    def of(cls, url: str, commit: str) -> Job:
        """The job as the server's variables name it, without what could not stand in a comment as it is."""
        return cls(url if _URL.fullmatch(url) else "", commit if _SHA.fullmatch(commit) else "")


@dataclass(frozen=True, slots=True)
class Note:
    """A comment as the server has it; `mine` is whether the account that asks has written it."""

    id: int
    body: str
    mine: bool


class Discussion(Protocol):
    """The comments of one pull or merge request."""

    @property
    def job(self) -> Job:
        """The job that this process is part of."""
        ...

    def page(self, number: int) -> Reply | list[Note]:
        """Up to `PER_PAGE` comments, oldest first, from page 1 on; the reply itself where it is a refusal."""
        ...

    def create(self, body: str) -> Reply:
        """Write a new comment."""
        ...

    def update(self, note: int, body: str) -> Reply:
        """Put another text into a comment."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the comment; `detail` says why it was refused."""

    state: Literal["created", "updated", "refused"]
    detail: str = ""


def body(outcome: Outcome, job: Job, *, name: str = "harness-report", limit: int = markdown.GITHUB_LIMIT) -> str:
    """The comment: the report of one candidate, or of several; or, in its place, why the gate did not decide.

    It begins with the hidden line by which `publish` finds it, and ends with the commit that it is about.

    Raises:
        ConfigError: `name` is not one: lower-case letters and digits, with single dashes between them.
    """
    try:
        options = markdown.Options(marker=name, report_url=job.url, max_chars=limit - _FOOTER)
    except ValidationError:
        raise ConfigError(f"{name!r} names no comment: use lower-case letters, digits and single dashes") from None
    if outcome.error:
        text = markdown.refused(outcome.error, options)
    elif len(outcome.documents) == 1:
        text = markdown.build(options).render(outcome.documents[0])
    else:
        text = markdown.several(outcome.documents, options)
    return text + (f"\nCommit `{job.commit[:12]}`\n" if job.commit else "")


def publish(discussion: Discussion, text: str, *, wait: Callable[[float], None] = time.sleep) -> Written:
    """Write `text` into our own comment that begins with the same hidden line, or into a new one.

    Nobody else's comment is touched, whatever it begins with. Every attempt looks for the comment anew, so that one
    that was written although its answer got lost is not written twice.

    Raises:
        InfrastructureError: the server could not be reached, or answered something else than a refusal.
    """
    last = ""
    for attempt in range(ATTEMPTS):
        try:
            return _published(discussion, text)
        except Unavailable as error:
            last = str(error)
            if attempt + 1 < ATTEMPTS:
                wait(min(error.after or 2.0**attempt, LONGEST_WAIT))
    raise InfrastructureError(f"the comment could not be written: {last}; what stands there may be of an older commit")


def _published(discussion: Discussion, text: str) -> Written:
    found = _find(discussion, text.partition("\n")[0])
    if isinstance(found, Reply):
        return _refused(found)
    reply = discussion.create(text) if found is None else discussion.update(found.id, text)
    if reply.status in (200, 201):
        return Written("created" if found is None else "updated")
    return _refused(reply)


def _find(discussion: Discussion, marker: str) -> Note | Reply | None:
    """Our first comment whose first line is `marker`; the reply where the list itself is refused."""
    for number in range(1, MAX_PAGES + 1):
        notes = discussion.page(number)
        if isinstance(notes, Reply):
            return notes
        for note in notes:
            if note.mine and note.body.replace("\r\n", "\n").partition("\n")[0] == marker:
                return note
        if len(notes) < PER_PAGE:
            return None
    return None


def _refused(reply: Reply) -> Written:
    if reply.refused:
        return Written("refused", reply.message)
    raise InfrastructureError(f"the comment could not be written: {reply.message}")
