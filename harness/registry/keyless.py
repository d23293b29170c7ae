"""Sigstore, signing: without a key of one's own, as whoever an identity provider says that one is

A token of the provider says who signs. For it Sigstore's authority (Fulcio) gives a certificate for a key that is made
here, used for minutes and thrown away, and its log (Rekor) takes the signature down, where everybody can read who
signed something of which hash, and when. The statement is not published, though a log of version 1 is sent it.

The token is the CI job's own where there is one (GitHub Actions with `id-token: write`, GitLab, Buildkite, CircleCI,
Google Cloud), or is read from a file or from SIGSTORE_ID_TOKEN. A browser is opened for whoever asks for one only.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, HarnessError, InfrastructureError
from harness.registry import sigstorebundle
from harness.registry.identities import read_trust, told, verifier_of

if TYPE_CHECKING:
    from sigstore.models import Bundle, ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import Signer

TOKEN = "SIGSTORE_ID_TOKEN"  # noqa: S105 - the name of a variable, which cosign and GitLab use too
_MAX_TOKEN = 2**16
_PATIENCE = 120.0  # seconds for a certificate, or for an entry of the log; the library itself waits for ever
_WAYS_OUT = (
    f"give one in a file with --identity-token FILE or in the variable {TOKEN}; in GitHub Actions give the job the "
    "permission id-token: write; or log in with --browser"
)


class KeylessSigner:
    """Signs as the identity of a token; see `harness.registry.signed.Signer`. The first signature is the first request.

    Each signature is proved here, by the same root of trust, before it is handed on: a log or an authority that
    answers with something else changes nothing.
    """

    identity = sigstorebundle.KEYID
    verified_with = "--certificate-identity NAME --certificate-oidc-issuer URL"

    def __init__(self, token: IdentityToken, config: ClientTrustConfig) -> None:
        from sigstore.sign import SigningContext

        self._token, self._config = token, config
        self._context = SigningContext.from_trust_config(config)
        self._signer: Signer | None = None

    def sign(self, message: bytes) -> bytes:
        """A bundle over the bytes of a message, as it stands for a signature."""
        bundle = self._asked(lambda signer: signer.sign_artifact(message), lambda v: v.verify_artifact, message)
        return sigstorebundle.as_signature(bundle)

    def seal(self, payload: bytes) -> bytes:
        """The file of a bundle around an in-toto statement in a DSSE envelope."""
        from sigstore.dsse import Statement

        return self._asked(lambda signer: signer.sign_dsse(Statement(payload)), lambda v: v.verify_dsse)

    def _asked(self, sign: Callable[[Signer], Bundle], proving: Callable[[Any], Any], *message: bytes) -> bytes:
        from sigstore.verify.policy import UnsafeNoOp

        try:
            bundle: Bundle = _within(_PATIENCE, lambda: sign(self._certified()))
            # How the authority names whom a token is about is its own affair: whoever verifies says whom to expect.
            proving(verifier_of(self._config.trusted_root))(*message, bundle, UnsafeNoOp())
            sigstorebundle.signatory(bundle.signing_certificate)
        except HarnessError:
            raise
        except Exception as error:  # errors of HTTP, of the authority and of the log share no base
            raise _failed(error, self._token) from error
        return sigstorebundle.written(bundle.to_json())

    def _certified(self) -> Signer:
        """The library's signer with its certificate, one for all signatures of a promotion."""
        if self._signer is None:
            with self._context.signer(self._token) as signer:
                self._signer = signer
        return self._signer


def keyless_signer(
    token: Path | None = None, *, browser: bool = False, trust_config: Path | None = None
) -> KeylessSigner:
    """Who signs by Sigstore.

    Args:
        token: a file with an OIDC token for the audience `sigstore`; by default the variable SIGSTORE_ID_TOKEN, or
            what the CI server gives the job.
        browser: log in with a browser instead.
        trust_config: ClientTrustConfig (JSON) of a private instance; by default the public one.

    Raises:
        ConfigError: there is no token, or it is none, expired or for somebody else; the library is not installed; the
            file is no trust configuration.
        InfrastructureError: the identity provider or the public root of trust could not be asked.
    """
    config = read_trust(trust_config, offline=False)
    from sigstore.errors import Error
    from sigstore.oidc import IdentityError, IdentityToken

    try:
        if browser:
            return KeylessSigner(_logged_in(config), config)
        return KeylessSigner(IdentityToken(_found(token)), config)
    except IdentityError as error:
        raise ConfigError(f"the identity token: {told(error)}; tokens live for minutes, get a new one") from error
    except (Error, ValueError) as error:
        raise ConfigError(f"{trust_config or 'sigstore.dev'}: nothing can be signed with it: {told(error)}") from error


def _found(path: Path | None) -> str:
    """The token in a file, in the environment, or of the CI job."""
    from sigstore.oidc import IdentityError, detect_credential

    if path is None:
        try:
            raw = os.environ.get(TOKEN) or detect_credential()
        except IdentityError as error:
            raise ConfigError(f"the CI job's own token: {told(error)}; {_WAYS_OUT}") from error
        if not raw:
            raise ConfigError(f"no token says who signs; {_WAYS_OUT}")
        return raw.strip()
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_TOKEN).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the identity token cannot be read: {told(error)}") from error


def _logged_in(config: ClientTrustConfig) -> IdentityToken:
    """The token of whoever logs in with a browser."""
    from sigstore.errors import NetworkError
    from sigstore.oidc import Issuer, IssuerError

    try:
        issuer = Issuer(config.signing_config.get_oidc_url())
        with contextlib.redirect_stdout(sys.stderr):  # where no browser opens, the library asks for a code
            return issuer.identity_token()
    except (NetworkError, IssuerError) as error:
        raise InfrastructureError(f"the identity provider could not be asked: {told(error)}") from error


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What a call returns, or an error where it takes too long; it is left to itself then, and ends with us."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise InfrastructureError(f"Sigstore has not answered for {seconds:.0f} s; repeat the command")
    return results[0]


def _failed(error: Exception, token: IdentityToken) -> HarnessError:
    """Nothing was signed, and why; a server's words do not bring the token into a log."""
    from sigstore.oidc import ExpiredIdentity

    if isinstance(error, ExpiredIdentity):
        return ConfigError("the identity token has expired; tokens live for minutes, get a new one")
    said = told(error, secret=str(token))
    return InfrastructureError(f"Sigstore did not sign ({type(error).__name__}: {said}); repeat the command")
