"""Sigstore, verifying: whether an identity that the caller names has signed, by a root of trust on this machine

A bundle holds a certificate that was good for minutes, in which an authority (Fulcio) names whom an identity provider
has just vouched for, and the proof that a public log (Rekor) took the signature within those minutes. So it is held
against a root of trust, which has the keys of the authority and of the logs, and against the identity and the issuer
that the caller expects. There is no way to expect nobody: anybody can have a certificate.

Nothing is asked of a network. The library is sigstore-python, the extra `sigstore`; this module is imported without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, InfrastructureError, RecordError
from harness.plugins import missing_extra
from harness.registry import sigstorebundle
from harness.registry.sigstorebundle import KEYID, Signatory

if TYPE_CHECKING:
    from sigstore.models import Bundle, ClientTrustConfig
    from sigstore.verify import Verifier

_MAX_CONFIG = 4 * 2**20  # bytes; that of the public instance has 10 kB
_WHEN = "%Y-%m-%d %H:%M:%S"
_RENEW = ("Where the signature is newer than the root of trust on this machine, renew that with: python -m sigstore "
          "plumbing update-trust-root; for a private instance give --trust-config FILE")  # fmt: skip
_UNKNOWN_KEY = ("verified time", "keyring")  # in what the library says where the root of trust lacks a key
_TOLD = 300  # characters of what a library or a server said


@dataclass(frozen=True, slots=True)
class Identities:
    """Whom to believe: any of `expected`, by a root of trust that `verifier` holds.

    Raises:
        ConfigError: nobody is expected, or somebody whom anybody may have vouched for.
    """

    expected: tuple[Signatory, ...]
    verifier: Verifier

    def __post_init__(self) -> None:
        # The library takes an empty issuer for any issuer.
        if not self.expected or not all(one.identity.strip() and one.issuer.strip() for one in self.expected):
            raise ConfigError("an identity counts only together with who vouches for it: give both "
                              "--certificate-identity NAME and --certificate-oidc-issuer URL")  # fmt: skip

    def check(self, message: bytes, signature: bytes, where: str) -> None:
        """Hold a message against a bundle over its bytes that stands for a signature.

        Raises:
            RecordError: none of `expected` has signed it so; begins with `where`.
        """
        bundle = sigstorebundle.from_signature(signature, where)
        self._prove(bundle, where, lambda b: self.verifier.verify_artifact(message, b, self._policy(where)))

    def unseal(self, raw: bytes, kind: str, where: str) -> tuple[bytes, Signatory]:
        """The payload of the envelope in a bundle, and which of `expected` has signed it.

        Raises:
            RecordError: none has, or it is an envelope of another kind; begins with `where`.
        """
        (found, payload), who = self._prove(raw, where, lambda b: self.verifier.verify_dsse(b, self._policy(where)))
        if found != kind:
            raise RecordError(f"{where}holds a {str(found)[:80]!r}, not a {kind!r}")
        return payload, who

    def _prove(self, raw: bytes, where: str, prove: Callable[[Bundle], Any]) -> tuple[Any, Signatory]:
        from sigstore.errors import CertValidationError

        bundle = _read(raw, where)
        try:
            return prove(bundle), sigstorebundle.signatory(bundle.signing_certificate)
        except RecordError:
            raise
        except CertValidationError as error:
            raise RecordError(f"{where}{_why_not_held(bundle, raw)}") from error
        except Exception as error:  # the library has no one base for what a damaged bundle makes it raise
            way_out = f". {_RENEW}" if any(sign in str(error) for sign in _UNKNOWN_KEY) else ""
            raise RecordError(f"{where}Sigstore does not vouch for it: {told(error)}{way_out}") from error

    def _policy(self, where: str) -> _AnyOf:
        return _AnyOf(self.expected, where)


@dataclass(frozen=True, slots=True)
class _AnyOf:
    """A policy of sigstore-python that takes any of some identities, each with its issuer, and says who it was else."""

    expected: tuple[Signatory, ...]
    where: str

    def verify(self, certificate: Any) -> None:
        """Raise RecordError unless the certificate names one of `expected`."""
        from sigstore.errors import VerificationError
        from sigstore.verify.policy import Identity

        for one in self.expected:
            try:
                Identity(identity=one.identity, issuer=one.issuer).verify(certificate)
            except VerificationError:
                continue
            return
        wanted = " or ".join(map(str, self.expected))
        signer = sigstorebundle.signatory(certificate)
        raise RecordError(f"{self.where}signed by {signer}, where {wanted} was expected")


def trusted_identities(expected: Sequence[tuple[str, str]], trust_config: Path | None = None) -> dict[str, Identities]:
    """Whom to believe beside keys, as `harness.registry.verifying.verify` takes it.

    Args:
        expected: pairs of an identity, as the certificate has it, and the URL of the issuer that vouches for it.
        trust_config: ClientTrustConfig (JSON) of a private instance; by default the root of trust of the public one,
            as sigstore-python has it on this machine. Nothing is asked of a network.

    Raises:
        ConfigError: no pair, or half of one; the library is not installed; the root of trust cannot be read.
    """
    root = read_trust(trust_config, offline=True).trusted_root
    return {KEYID: Identities(tuple(Signatory(*pair) for pair in expected), verifier_of(root))}


def read_trust(path: Path | None, *, offline: bool) -> ClientTrustConfig:
    """The trust configuration in a file, or that of the public instance: renewed first, unless `offline`.

    Raises:
        ConfigError: the library is not installed, or the file is no such configuration.
        InfrastructureError: the public one could not be renewed, or not be kept on this machine.
    """
    try:
        from sigstore.errors import Error
        from sigstore.models import ClientTrustConfig
    except ImportError as error:
        raise ConfigError(missing_extra("signing and verifying without keys", error)) from error
    # Without a handler of any kind, warnings of the library, such as that this is offline, would go to the terminal.
    logging.getLogger("sigstore").addHandler(_SILENT)
    if path is None:
        try:
            return ClientTrustConfig.production(offline=offline)
        except (Error, OSError, ValueError) as error:
            raise InfrastructureError(f"the root of trust of sigstore.dev: {told(error)}") from error
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_CONFIG + 1)
        if len(content) > _MAX_CONFIG:
            raise ConfigError(f"{path}: larger than {_MAX_CONFIG // 2**20} MiB, so no trust configuration")
        config = ClientTrustConfig.from_json(content.decode())
        config.trusted_root.get_fulcio_certs()
    except OSError as error:
        raise ConfigError(f"{path}: the trust configuration cannot be read: {error.strerror}") from error
    except (Error, ValueError) as error:
        raise ConfigError(f"{path}: not a ClientTrustConfig of Sigstore (JSON): {told(error)}") from error
    return config


def verifier_of(root: Any) -> Verifier:
    """The library's verifier by a root of trust.

    Raises:
        ConfigError: the root has no log.
    """
    from sigstore.errors import Error
    from sigstore.verify import Verifier

    try:
        return Verifier(trusted_root=root)
    except Error as error:
        raise ConfigError(f"the root of trust: {told(error)}") from error


def told(error: BaseException, *, secret: str | None = None) -> str:
    """What an error of somebody else's says, on one line of bounded length, and without a `secret`."""
    text = str(error) if secret is None else str(error).replace(secret, "…")
    said = " ".join(text.split()) or type(error).__name__
    return "".join(c if c.isprintable() else "�" for c in said[:_TOLD])


def _read(raw: bytes, where: str) -> Bundle:
    """The library's bundle, where the file is written as we write it and has nothing that the library does not read."""
    from sigstore.models import Bundle

    sigstorebundle.parse(raw, where)
    try:
        bundle = Bundle.from_json(raw)
        if sigstorebundle.written(bundle.to_json()) != raw:
            raise ValueError("not as it was written")
    except Exception as error:  # the library has no one base for what a damaged bundle makes it raise
        raise RecordError(f"{where}not a Sigstore bundle that can be verified offline: {told(error)}") from error
    return bundle


def _why_not_held(bundle: Bundle, raw: bytes) -> str:
    """Why no chain of certificates could be built at the time of the signature, as far as that can be told."""
    certificate = bundle.signing_certificate
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    data = bundle.verification_material.timestamp_verification_data
    stamped = [] if data is None else [stamp.tst_info.gen_time for stamp in data.rfc3161_timestamps]
    outside = [time for time in (sigstorebundle.logged_at(raw), *stamped) if time and not start <= time <= end]
    if outside:
        return (f"the certificate had expired when this was signed, or did not hold yet: it holds from {start:{_WHEN}} "
                f"to {end:{_WHEN}} UTC, and the signature is of {outside[0]:{_WHEN}}")  # fmt: skip
    return f"no authority in the root of trust has made the certificate. {_RENEW}"


_SILENT = logging.NullHandler()
