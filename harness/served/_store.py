"""Replies by content: (client fingerprint, question digest) → reply, in one SQLite file; failures are left out"""

from __future__ import annotations

from collections.abc import Sequence

from harness.cache import Memory
from harness.served import Reply


class ReplyStore(Memory):
    """A durable map of replies; see `harness.cache.Memory`."""

    what = "memory of replies"
    table = "replies"
    columns = ("question", "reply")

    def get(self, client: str, digests: Sequence[str]) -> dict[str, Reply]:
        """Digest → reply, for what was answered before: nothing is asked or paid for again."""
        return {digest: _remembered(record) for digest, record in self._found(client, digests)}

    def put(self, client: str, replies: Sequence[tuple[str, Reply]]) -> None:
        """Store replies durably before returning; failures are left out."""
        self._keep(client, [(digest, _record(reply)) for digest, reply in replies if reply.failure is None])


def _record(reply: Reply) -> list[object]:
    record = [reply.text, reply.truncated, reply.prompt_tokens, reply.completion_tokens]
    return [*record, reply.tool_calls, reply.finish, reply.latency]


def _remembered(record: list[object]) -> Reply:
    text, truncated, read, written, *later = record
    calls, finish, latency = later or ("", "", 0.0)  # what was stored before these were kept
    return Reply(
        str(text), None, bool(truncated), int(str(read)), int(str(written)), cost=0.0, attempts=0,
        tool_calls=str(calls), finish=str(finish), latency=float(str(latency)),
    )  # fmt: skip
