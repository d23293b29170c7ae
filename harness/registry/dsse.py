"""DSSE, the envelope of in-toto: which bytes are signed, and how they are packed (secure-systems-lab/dsse, v1.0)

An envelope is read strictly: there is one way to write it, so that no byte of the file can be changed unnoticed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import RecordError

if TYPE_CHECKING:
    from harness.registry.keys import PublicKey, SigningKey

IN_TOTO = "application/vnd.in-toto+json"
MAX_BYTES = 16 * 2**20  # of an envelope that somebody hands us
_MOST_SIGNATURES = 64  # each is tried over the whole payload


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and without spaces, in ASCII: one way to write a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def pae(kind: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: what is signed, so that a payload cannot be taken for one of another kind."""
    name = kind.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def seal(kind: str, payload: bytes, key: SigningKey) -> bytes:
    """The envelope with one signature, as its file holds it."""
    signature = {"keyid": key.identity, "sig": _encode(key.sign(pae(kind, payload)))}
    return canonical({"payload": _encode(payload), "payloadType": kind, "signatures": [signature]}) + b"\n"


def unseal(raw: bytes, kind: str, trusted: Mapping[str, PublicKey], where: str) -> tuple[bytes, str]:
    """The payload of an envelope that one of `trusted` signed, and the identity of that key.

    Raises:
        RecordError: it is no such envelope, of another kind, or not signed by a trusted key; begins with `where`.
    """
    envelope = _parse(raw, where)
    if envelope["payloadType"] != kind:
        raise RecordError(f"{where}holds a {str(envelope['payloadType'])[:80]!r}, not a {kind!r}")
    payload = _decode(envelope["payload"], where)
    signatures = envelope["signatures"]
    for signature in signatures:
        key = trusted.get(signature["keyid"])
        if key is not None and key.verifies(pae(kind, payload), _decode(signature["sig"], where)):
            return payload, key.identity
    known = [s["keyid"] for s in signatures if s["keyid"] in trusted]
    if known:
        raise RecordError(f"{where}the signature is wrong: it was changed after {known[0][:16]} signed it")
    said = ", ".join(str(s["keyid"])[:16] for s in signatures) or "nobody"
    raise RecordError(f"{where}signed by {said}, which is no key that you trust; give the public key with --key FILE")


def payload_of(raw: bytes, where: str) -> bytes:
    """The payload of an envelope, whoever signed it: for integrity, never for trust."""
    return _decode(_parse(raw, where)["payload"], where)


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES // 2**20} MiB")
        envelope = json.loads(raw)
        texts = [envelope["payload"], envelope["payloadType"]]
        texts += [signature[name] for signature in envelope["signatures"] for name in ("keyid", "sig")]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is missing")
        if len(envelope["signatures"]) > _MOST_SIGNATURES:
            raise ValueError(f"more than {_MOST_SIGNATURES} signatures")
        if canonical(envelope) + b"\n" != raw:
            raise ValueError("not as it was written")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RecordError(f"{where}not a signed envelope ({error}): changed, or cut off") from error
    return envelope  # type: ignore[no-any-return]


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _decode(text: str, where: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RecordError(f"{where}not base64: {error}") from error
    if _encode(raw) != text:  # the last digit has bits that decoding ignores
        raise RecordError(f"{where}not as it was written: changed")
    return raw
