"""A Sigstore bundle as a file: how one is written here, and what it says of itself before anything is proved

A bundle (application/vnd.dev.sigstore.bundle.v0.3+json) holds what a key of one's own would vouch for otherwise: the
certificate that names the signer, the signature, and the proof that a public log has it. Nothing here needs Sigstore's
library and nothing here is proof; `identities` proves.

A bundle is read strictly, as an envelope is: there is one way to write it, with sorted keys and without spaces. Some of
what it holds is signed by nobody: names beside signatures, a second proof of the time where one suffices. So that no
byte can be changed unnoticed all the same, its SHA-256 goes with it: in `promotion/SHA256SUMS`, or before it where it
stands for the signature of a ledger's entry.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harness.errors import RecordError
from harness.registry.dsse import MAX_BYTES, canonical

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
KEYID = "sigstore"
"""What a ledger's entry has for the name of a key where it was signed without one."""

_ISSUER = "1.3.6.1.4.1.57264.1.1"  # Fulcio's extension: who vouched for the name
_DIGEST = 32  # bytes of a SHA-256
_SHOWN = 500  # characters of a name that is told to people
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Signatory:
    """Whom a certificate names: `identity` (an e-mail address, or a URI as of a workflow), and the `issuer` of that."""

    identity: str
    issuer: str

    def __str__(self) -> str:
        return f"{self.identity} ({self.issuer})"


def is_bundle(raw: bytes) -> bool:
    """Whether a file says that it is a Sigstore bundle that was signed under a certificate."""
    try:
        found = json.loads(raw[: MAX_BYTES + 1])
        return found["mediaType"] == MEDIA_TYPE and "certificate" in found["verificationMaterial"]
    except _UNREADABLE:
        return False


def written(bundle: str) -> bytes:
    """The file of a bundle that the library gave as JSON."""
    return canonical(json.loads(bundle)) + b"\n"


def as_signature(bundle: bytes) -> bytes:
    """A bundle where otherwise the signature of a key stands: its SHA-256 (32 bytes), and then its file."""
    return hashlib.sha256(bundle).digest() + bundle


def from_signature(signature: bytes, where: str) -> bytes:
    """The file of a bundle that stands for a signature.

    Raises:
        RecordError: it is not what it was; begins with `where`.
    """
    bundle = signature[_DIGEST:]
    if as_signature(bundle) != signature:
        raise RecordError(f"{where}the signature is not as it was written: it was changed")
    return bundle


def sums(files: Mapping[str, bytes]) -> bytes:
    """The file of SHA-256 sums, as sha256sum writes and checks it; files by name."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def parse(raw: bytes, where: str) -> dict[str, Any]:
    """The bundle in a file, which has to be as `written` wrote it.

    Raises:
        RecordError: it is none, too large, or written otherwise; begins with `where`.
    """
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES // 2**20} MiB")
        found = json.loads(raw)
        if found["mediaType"] != MEDIA_TYPE:
            raise ValueError(f"a {str(found['mediaType'])[:80]!r}")
        if canonical(found) + b"\n" != raw:
            raise ValueError("not as it was written")
    except _UNREADABLE as error:
        raise RecordError(f"{where}not a Sigstore bundle ({error}): changed, or cut off") from error
    return found  # type: ignore[no-any-return]


def payload_of(raw: bytes, where: str) -> bytes:
    """The payload of the envelope in a bundle, whoever signed it: for integrity, never for trust."""
    found = parse(raw, where)
    try:
        return base64.b64decode(found["dsseEnvelope"]["payload"], validate=True)
    except _UNREADABLE as error:
        raise RecordError(f"{where}a Sigstore bundle without a payload ({error}): changed") from error


def signatory(certificate: Any) -> Signatory:
    """Whom a certificate (of the library `cryptography`) names; unprintable characters are escaped.

    Raises:
        ValueError: it does not name exactly one identity, or nobody who vouched for it.
    """
    from cryptography import x509

    extensions = certificate.extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        issuer = extensions.get_extension_for_oid(x509.ObjectIdentifier(_ISSUER)).value.value.decode()
    except x509.ExtensionNotFound as error:
        raise ValueError("the certificate names no identity, or nobody who vouched for it") from error
    said = [n.value.decode() if isinstance(n, x509.OtherName) else n.value for n in names]
    if len(said) != 1:
        raise ValueError(f"the certificate names {len(said)} identities")
    return Signatory(_printable(said[0]), _printable(issuer))


def claimed(signature: bytes) -> str:
    """Whom a bundle that stands for a signature names, unproved: for a listing, never for trust."""
    from cryptography import x509

    try:
        der = base64.b64decode(json.loads(signature[_DIGEST:])["verificationMaterial"]["certificate"]["rawBytes"])
        return signatory(x509.load_der_x509_certificate(der)).identity
    except _UNREADABLE:
        return "an unreadable certificate"


def logged_at(raw: bytes) -> datetime | None:
    """When a bundle says that the log took it, unproved, in UTC; None where it does not say."""
    try:
        (entry,) = json.loads(raw)["verificationMaterial"]["tlogEntries"]
        return datetime.fromtimestamp(int(entry["integratedTime"]), UTC)
    except (*_UNREADABLE, OverflowError, OSError):
        return None


def _printable(text: object) -> str:
    said = str(text)[:_SHOWN]
    return said if said.isprintable() else ascii(said)
