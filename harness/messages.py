"""What a conversation is made of: its turns, and the pictures that stand in them. `harness.records` passes both on"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a message, known by the SHA-256 of its bytes; it stands before character `at` of the message's text.

    `file` is where the bytes lie. It is no part of what is asked: wherever a set lies, its requests are the same.
    """

    sha256: str
    mime_type: str
    at: int = 0
    file: str = field(default="", compare=False)

    def as_json(self) -> dict[str, Any]:
        """What it is and where it stands, without the place of its bytes."""
        return {"sha256": self.sha256, "mime_type": self.mime_type, "at": self.at}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `tool_calls` is the canonical JSON of what an assistant's turn asked of tools, a list of objects with `id`, `name`
    and `arguments`; a turn of role `tool` answers the call whose id is `tool_call_id`. `pictures` are in the order in
    which they stand in `content`, which may be empty beside them.
    """

    role: str
    content: str
    tool_calls: str = ""
    tool_call_id: str = ""
    pictures: tuple[Picture, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Role and content, and whatever else is not empty."""
        more: dict[str, Any] = {"tool_calls": self.tool_calls, "tool_call_id": self.tool_call_id}
        more["pictures"] = [picture.as_json() for picture in self.pictures]
        return {"role": self.role, "content": self.content, **{key: value for key, value in more.items() if value}}
