"""Whose call it was: run, session, user, and what else is known of it, on its span, one above it, or its resource"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.traces._trace import Trace
from harness.traces._values import structured_or_none, text
from harness.traces.records import RunIdSource, Span

RUN_ID = (
    "run_id", "gen_ai.run.id", "metadata.run_id", "baggage.run_id", "traceloop.association.properties.run_id",
    "langfuse.trace.metadata.run_id",
)  # fmt: skip
"""Attributes that may hold the run id, the first that is there counts; `run_id` in a `metadata` of JSON comes last."""
SESSION = (
    "gen_ai.conversation.id", "session.id", "session_id", "traceloop.association.properties.session_id",
    "traceloop.association.properties.conversation_id", "langfuse.session.id", "metadata.session_id", "thread.id",
)  # fmt: skip
USER = (
    "user.id", "enduser.id", "user_id", "gen_ai.user", "llm.user", "gen_ai.request.user",
    "traceloop.association.properties.user_id", "langfuse.user.id", "metadata.user_id",
    "metadata.user_api_key_end_user_id", "metadata.user_api_key_user_id",
)  # fmt: skip

_METADATA = ("metadata.", "traceloop.association.properties.", "langfuse.trace.metadata.")
_MOST_METADATA = 64
_LONGEST_METADATA = 256
_LONGEST_ID = 512

Pseudonym = Callable[[str], str]
"""What stands for a user id in everything that is stored; the empty string where a user is not to be known."""


def keyed_pseudonyms(key: bytes, tenant: str) -> Pseudonym:
    """Pseudonyms by HMAC-SHA-256 over tenant and user (128 bits in hex): one user of two tenants is two.

    Raises:
        ValueError: the key is shorter than 16 bytes.
    """
    if len(key) < 16:
        raise ValueError("a key for pseudonyms has at least 16 bytes")

    def pseudonym(user: str) -> str:
        message = f"{len(tenant)}:{tenant}:{user}".encode("utf-8", "surrogatepass")
        return hmac.new(key, message, hashlib.sha256).hexdigest()[:32]

    return pseudonym


def run_id(span: Span, spans: Iterable[Span], trace: Trace) -> tuple[str, RunIdSource]:
    """The key that joins a call to evaluation, and where it was found."""
    for own in (span, *spans):
        if found := _named(own.attributes, RUN_ID, "run_id"):
            return found, "span"
    for above in trace.ancestors(span):
        if found := _named(above.attributes, RUN_ID, "run_id"):
            return found, "ancestor"
    found = _named(span.resource, RUN_ID, "run_id")
    return (found, "resource") if found else (span.trace_id, "trace")


def session(spans: Sequence[Span], trace: Trace) -> str:
    """The conversation that a call belongs to, from the first of its spans or of those above that says it."""
    return _inherited(spans, trace, SESSION, "session_id")


def user(spans: Sequence[Span], trace: Trace) -> str:
    """Who asked, as recorded: not yet a pseudonym."""
    return _inherited(spans, trace, USER, "user_id")


def metadata(span: Span) -> dict[str, Any]:
    """What the application said about the call, for strata: at most 64 short values, none of them about the user."""
    found: dict[str, Any] = {}
    held = structured_or_none(span.attributes.get("metadata"))
    if isinstance(held, Mapping):
        found.update(held)
    for key, value in span.attributes.items():
        for prefix in _METADATA:
            if key.startswith(prefix):
                found[key.removeprefix(prefix)] = value
    plain = {k: v for k, v in found.items() if _is_plain(v) and not _is_personal(k)}
    return dict(list(plain.items())[:_MOST_METADATA])


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= _LONGEST_METADATA
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)


def _is_personal(key: str) -> bool:
    words = key.lower()
    return len(key) > 100 or any(w in words for w in ("user", "email", "ip_address", "session", "run_id", "headers"))


def _inherited(spans: Sequence[Span], trace: Trace, keys: tuple[str, ...], name: str) -> str:
    for span in (*spans, *trace.ancestors(spans[0]), *trace.ancestors(spans[-1])):
        if found := _named(span.attributes, keys, name):
            return found
    return ""


def _named(attributes: Mapping[str, Any], keys: tuple[str, ...], name: str) -> str:
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            return str(value)
        if isinstance(value, str) and value and len(value) <= _LONGEST_ID:
            return value
    held = attributes.get("metadata")
    if isinstance(held, str) and f'"{name}"' not in held:
        return ""  # saves parsing what cannot hold it
    inner = structured_or_none(held)
    found = text(inner, name) if isinstance(inner, Mapping) else ""
    return found if len(found) <= _LONGEST_ID else ""
