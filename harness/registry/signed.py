"""What is signed, and by whom it may be: a key (`keys`, `dsse`) or an identity that Sigstore vouches for (`identities`)

Whoever verifies says whom to believe: names of signers, each with what proves it. A file that somebody else signed, or
that was signed in the other way, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from harness.errors import RecordError
from harness.registry import dsse, sigstorebundle
from harness.registry.identities import Identities
from harness.registry.keys import PublicKey


class Signer(Protocol):
    """Signs promotions and entries of the ledger.

    Raises:
        UsageError: it cannot sign as it is, for want of a token, say.
        InfrastructureError: what it has to ask did not answer; nothing was signed.
    """

    @property
    def verified_with(self) -> str:
        """The options of `harness verify` that name it."""
        ...

    @property
    def identity(self) -> str:
        """What an entry of the ledger names it by."""
        ...

    def sign(self, message: bytes) -> bytes:
        """A signature over exactly this message."""
        ...

    def seal(self, payload: bytes) -> bytes:
        """The file of an in-toto statement and a signature over it."""
        ...


Trust = Mapping[str, PublicKey | Identities]
"""Whom a caller believes, by the names of keys; all identities of Sigstore are one entry, named `sigstore`."""


def unseal(raw: bytes, trusted: Trust, where: str) -> tuple[bytes, str, str | None]:
    """The in-toto statement in a file, the key or identity that signed it, and who vouched for the identity.

    Raises:
        RecordError: nobody in `trusted` signed it; begins with `where`.
    """
    if not sigstorebundle.is_bundle(raw):
        keys = {name: key for name, key in trusted.items() if isinstance(key, PublicKey)}
        return (*dsse.unseal(raw, dsse.IN_TOTO, keys, where), None)
    identities = trusted.get(sigstorebundle.KEYID)
    if not isinstance(identities, Identities):
        raise _stranger(where, sigstorebundle.KEYID)
    payload, who = identities.unseal(raw, dsse.IN_TOTO, where)
    return payload, who.identity, who.issuer


def check_signature(message: bytes, signature: bytes, signer: str, trusted: Trust, where: str) -> None:
    """Hold a message against the signature of somebody in `trusted`, who is named `signer`.

    Raises:
        RecordError: it was not signed so; begins with `where`.
    """
    known = trusted.get(signer)
    if known is None:
        raise _stranger(where, signer)
    known.check(message, signature, where)


def payload_of(raw: bytes, where: str) -> bytes:
    """The statement in a file, whoever signed it: for integrity, never for trust."""
    read = sigstorebundle.payload_of if sigstorebundle.is_bundle(raw) else dsse.payload_of
    return read(raw, where)


def _stranger(where: str, signer: str) -> RecordError:
    if signer == sigstorebundle.KEYID:
        return RecordError(f"{where}signed without a key, by Sigstore; say who may have signed it with "
                           "--certificate-identity NAME --certificate-oidc-issuer URL")  # fmt: skip
    return RecordError(f"{where}signed by {signer[:16]}, which is no key that you trust; see --key FILE")
