"""What the name of an attribute says about its value: whose it is, or that it is a secret"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from harness.redaction import names_secret

Role = Literal["user", "settings", "secret", "text"]
"""`user`: the value is a user's id; `settings`: JSON in which a field may be one; `secret`: the name announces one."""

_USERS = re.compile(
    r"(?:^|[._])(?:end_?)?user(?:_api_key)?(?:_end)?(?:_user)?[._]?(?:id|name|full_name|email|pseudo\.id)$"
    r"|(?:^|\.)(?:end_?)?user$|(?:^|[._])(?:end_?)?userId$"
)
_SETTINGS = re.compile(r"(?:^|[._])(?:metadata|hidden_params|invocation_parameters|parameters|attributes|properties)$")
_SAMPLE_SECRET = "a1B2c3D4e5F6g7H8"  # noqa: S105 - random enough that only the name decides


@lru_cache(maxsize=4096)  # names are few in any real service, and bounded in a hostile one
def role(name: str) -> Role:
    """The role of an attribute or JSON field by its name."""
    if _USERS.search(name):
        return "user"
    if _SETTINGS.search(name):
        return "settings"
    return "secret" if names_secret(name, _SAMPLE_SECRET) else "text"
