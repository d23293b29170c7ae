"""Tokens: who may send, and as which tenant; only hashes are kept

A token is 256 random bits, so one SHA-256 of it cannot be undone by trying. The file has a line a token,
`tenant sha256:HEX`; a tenant may have several, which is how one is replaced without a gap.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError, StorageError, at
from harness.traces.store import check_tenant

_LINE = re.compile(r"(\S+)\s+sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Hashes of tokens with their tenants."""

    hashed: Sequence[tuple[str, bytes]]

    def tenant(self, token: str) -> str | None:
        """Whose token it is, or None; takes the same time for every wrong token."""
        own = _hash(token)
        found = None
        for tenant, known in self.hashed:
            if hmac.compare_digest(own, known):
                found = tenant
        return found


def read_tokens(path: Path) -> Tokens:
    """The tokens of a file.

    Raises:
        ConfigError: a line is wrong (what is in it is not repeated), or there is no token.
        StorageError: the file cannot be read, or others can read it.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise StorageError(f"{path}: others may read this file of tokens; chmod 600 it")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: the tokens cannot be read: {error}") from error
    hashed = [_parsed(path, number, line) for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    if not hashed:
        raise ConfigError(f"{path}: no token; `harness shadow token TENANT --token-file {path}` makes one")
    return Tokens(hashed)


def _parsed(path: Path, number: int, line: str) -> tuple[str, bytes]:
    match = _LINE.fullmatch(line.strip())
    if not match:
        raise ConfigError(
            f"{at(path, number)}not `tenant sha256:HEX`; tokens are kept as hashes only, "
            "and `harness shadow token TENANT --token-file FILE` adds one"
        )
    return check_tenant(match[1]), bytes.fromhex(match[2])


def add_token(path: Path, tenant: str) -> str:
    """Make a token for a tenant and add its hash to the file, which is made where there is none; the token itself.

    Raises:
        ConfigError: `tenant` is no name.
        StorageError: the file cannot be written.
    """
    check_tenant(tenant)
    token = secrets.token_urlsafe(32)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "a", encoding="utf-8") as file:
            file.write(f"{tenant} sha256:{_hash(token).hex()}\n")
    except OSError as error:
        raise StorageError(f"{path}: the token cannot be added: {error}") from error
    return token


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
