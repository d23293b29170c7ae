"""Names of tenants, which are also folder names and part of URLs: nothing in them can lead out of the store"""

from __future__ import annotations

import re

from harness.errors import ConfigError

DEFAULT = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_tenant(name: str) -> str:
    """The name, if it is one.

    Raises:
        ConfigError: it is none.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"tenant {name[:80]!r}: a name is 1 to 64 letters, digits, '.', '_' and '-', such as 'shop-eu'"
        )
    return name
