"""Placeholders that are the same for the same value of one tenant, and say nothing about it to whoever lacks the key

HMAC-SHA-256 under a key that never leaves the store's folder, first over the tenant and then over kind and value: two
tenants with one user id have two users. A plain hash would not do, since all phone numbers can be tried in minutes.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from pathlib import Path

from harness.errors import StorageError

KEY_NAME = "redaction.key"
_KEY_BYTES = 32
_VALUE_DIGITS, _USER_DIGITS = 8, 32  # hexadecimal; users are joined by theirs, so theirs must not collide
_SPACED = frozenset({"phone", "credit_card", "iban", "ssn"})  # one number, however it is written
_MADE = re.compile(r"<USER_[0-9a-f]{32}>")


class Pseudonyms:
    """Names for the values of one tenant."""

    def __init__(self, key: bytes, tenant: str) -> None:
        self._key = hmac.digest(key, b"tenant\0" + tenant.encode("utf-8", "surrogatepass"), "sha256")

    def value(self, kind: str, value: str) -> str:
        """`<KIND_1f3a9c42>` for a find; numbers that differ in their separators alone have one name."""
        if kind in _SPACED:
            value = re.sub("[^0-9A-Za-z]", "", value)
        elif kind == "email":
            value = value.casefold()
        return f"<{kind.upper()}_{self._digest(kind, value)[:_VALUE_DIGITS]}>"

    def user(self, user: str) -> str:
        """`<USER_…>` for a user's id; a name that was made here is left as it is."""
        if is_pseudonym(user):
            return user
        return f"<USER_{self._digest('user', user)[:_USER_DIGITS]}>"

    def _digest(self, kind: str, value: str) -> str:
        message = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, message, "sha256").hex()


def is_pseudonym(text: str) -> bool:
    """Whether a text is a user's name that was made here."""
    return _MADE.fullmatch(text) is not None


def store_key(folder: Path) -> bytes:
    """The key of the store in `folder`, made when there is none; only its owner may read the file.

    Raises:
        StorageError: the file cannot be made or read, is not a key, or others may read it.
    """
    path = folder / KEY_NAME
    try:
        _create(path)
        if path.stat().st_mode & 0o077:
            raise StorageError(f"{path}: others may read this key; chmod 600 it, and know that its names can be undone")
        key = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: the key for pseudonyms cannot be used: {error}") from error
    if len(key) != _KEY_BYTES:
        raise StorageError(f"{path}: not a key of {_KEY_BYTES} bytes; restore it from a backup, or users change names")
    return key


def _create(path: Path) -> None:
    # Written whole under another name first: a process that starts beside this one never reads half a key.
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    if path.exists():
        return
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, secrets.token_bytes(_KEY_BYTES))
        os.fsync(handle)
        os.link(draft, path)
    except FileExistsError:
        pass  # the other process was first
    finally:
        os.close(handle)
        draft.unlink()
