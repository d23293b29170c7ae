"""Pictures of a golden set: files beside its samples, named by the hash of their content and locked with them

A row names them in a user's message, `"pictures": [{"file": "pictures/SHA256.png", "at": 0}]`: each stands before that
character of the message's text. What a picture is shows in its first bytes; a name or a server's word for it is not
believed. They are never decoded here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.records import Picture, Sample

FOLDER = "pictures"
MOST_BYTES = 8 * 2**20
"""Bytes of one picture; what servers take is about that much."""
MOST_IN_A_CALL = 16
_NAME = re.compile(rf"{FOLDER}/([0-9a-f]{{64}})\.(png|jpg|gif|webp)")
_TYPES = {"png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}


def shows_pictures(sample: Sample) -> bool:
    """Whether there is a picture in what a sample asks."""
    return any(message.pictures for message in sample.messages)


def type_of(content: bytes) -> str | None:
    """`png`, `jpg`, `gif` or `webp` by the format's signature; None for all else, as for SVG, which is a program."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if content.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def name_of(content: bytes) -> str | None:
    """The file that a picture is kept in, relative to its set; None where it is none of these formats."""
    kind = type_of(content)
    return None if kind is None else f"{FOLDER}/{hashlib.sha256(content).hexdigest()}.{kind}"


def picture_of(folder: Path, value: Any, text: str) -> Picture:
    """The picture that a row in `folder` names, in a message of this text.

    Raises:
        ValueError: it is no such name, the file is missing, or holds something else; the message says so.
    """
    if not isinstance(value, Mapping) or set(value) != {"file", "at"}:
        raise ValueError("must hold file and at, and nothing else")
    named = _NAME.fullmatch(value["file"]) if isinstance(value["file"], str) else None
    if named is None:
        raise ValueError(f"file must be {FOLDER}/SHA256.png (or jpg, gif, webp), not {value['file']!r}")
    at = value["at"]
    if isinstance(at, bool) or not isinstance(at, int) or not 0 <= at <= len(text):
        raise ValueError(f"at must be a place in the text of {len(text)} characters, not {at!r}")
    path = folder / value["file"]
    if not path.is_file() or path.is_symlink():
        raise ValueError(f"{value['file']} is missing")
    content = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
    if name_of(content) != value["file"]:
        raise ValueError(f"{value['file']} holds no picture, or another one than its name says")
    return Picture(named[1], _TYPES[named[2]], at, str(path))
