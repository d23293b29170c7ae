"""Names and versions of golden sets, which are also folder names: nothing in them can lead out of the root."""

from __future__ import annotations

import re

from harness.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,49}")


def split(reference: str) -> tuple[str, str | None]:
    """`name@version` or `name` taken apart and checked.

    Raises:
        ConfigError: either part could not be a folder of ours.
    """
    name, separator, version = reference.partition("@")
    return check_name(name), check_version(version) if separator else None


def check_name(name: str) -> str:
    """`name`, if it is one: lower-case letters, digits, dot, dash and underscore, not starting with a sign."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not a golden set's name: use lower-case letters, digits, '.', '-' and '_'")
    return name


def check_version(version: str) -> str:
    """`version`, if it is one: letters, digits, dot, dash and underscore, not starting with a sign."""
    if not _VERSION.fullmatch(version):
        raise ConfigError(f"{version!r} is not a version: use letters, digits, '.', '-' and '_', for example v1")
    return version


def in_order(version: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that reads numbers as numbers: v2 comes before v10."""
    parts = re.findall(r"\d+|[^\d]+", version)
    return tuple((1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts)


def successor(version: str) -> str:
    """`version` with its last number one higher and as wide: v1 → v2, 1.09 → 1.10.

    Raises:
        ConfigError: there is no number in it.
    """
    match = re.fullmatch(r"(.*?)(\d+)(\D*)", version)
    if match is None:
        raise ConfigError(f"version {version!r} holds no number to count up")
    head, number, tail = match.groups()
    return f"{head}{int(number) + 1:0{len(number)}d}{tail}"
