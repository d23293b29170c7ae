"""Whose a request is: as its token says, never as its data does"""

from __future__ import annotations

from collections.abc import Mapping

from harness.traces.receiver._answers import Refusal
from harness.traces.receiver._tokens import Tokens
from harness.traces.store import DEFAULT_TENANT

TENANT_HEADER = "x-harness-tenant"


def tenant_of(headers: Mapping[str, str], tokens: Tokens | None) -> str:
    """The tenant of a request with these headers (names in lower case); `default` where no tokens are asked for.

    Raises:
        Refusal: 401 without a known token, 403 where the header names another tenant than the token's.
    """
    tenant = DEFAULT_TENANT if tokens is None else _of_token(headers.get("authorization", ""), tokens)
    named = headers.get(TENANT_HEADER)
    if named is not None and named != tenant:
        raise Refusal(403, f"the header {TENANT_HEADER} names a tenant that is not the sender's")
    return tenant


def _of_token(header: str, tokens: Tokens) -> str:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refusal(401, "send a token: `Authorization: Bearer …`")
    tenant = tokens.tenant(token.strip())
    if tenant is None:
        raise Refusal(401, "the token is unknown")
    return tenant
