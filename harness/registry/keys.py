"""Keys: Ed25519 by default, P-256 where OpenSSF's model-signing is to read the signature too

A private key is a PEM file (PKCS #8) that only its owner may read; the public one lies beside it as `.pub` (PEM,
SubjectPublicKeyInfo). A key is named by the SHA-256 (hex) of its public part, DER.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from harness.errors import ConfigError, RecordError, StorageError, UsageError
from harness.registry import dsse

Kind = Literal["ed25519", "p256"]
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies; `raw` is the library's own."""

    raw: Any
    identity: str

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether the private half signed exactly this message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.raw.verify(signature, message, *_scheme(self.raw))
        except InvalidSignature:
            return False
        return True

    def check(self, message: bytes, signature: bytes, where: str) -> None:
        """Raise RecordError, beginning with `where`, unless the private half signed exactly this message."""
        if not self.verifies(message, signature):
            raise RecordError(f"{where}the signature is wrong: it was changed after {self.identity[:16]} signed it")

    def pem(self) -> bytes:
        """The file of a public key."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        raw: bytes = self.raw.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return raw


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs. It is never printed: `raw` shows nothing of itself."""

    verified_with: ClassVar[str] = "--key signing.pub"

    raw: Any
    public: PublicKey

    @property
    def identity(self) -> str:
        """The name of the pair."""
        return self.public.identity

    def sign(self, message: bytes) -> bytes:
        """The signature of a message."""
        signature: bytes = self.raw.sign(message, *_scheme(self.raw))
        return signature

    def seal(self, payload: bytes) -> bytes:
        """The file of an in-toto statement in a DSSE envelope with one signature."""
        return dsse.seal(dsse.IN_TOTO, payload, self)


def default_path() -> Path:
    """Where this user's own key is kept: `signing.pem` in the configuration folder of Harness."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "harness" / "signing.pem"


def public_path(path: Path) -> Path:
    """Where the public half of the key at `path` lies."""
    return path.with_suffix(".pub")


def new_key(path: Path, kind: Kind = "ed25519") -> SigningKey:
    """Make a pair of keys and write both files; a key that is there is never overwritten.

    Raises:
        UsageError: there is a key already.
        StorageError: the folder cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    public = public_path(path)
    if public == path or public.exists():
        raise UsageError(f"{public}: there is a key already, or this is the name of both; give another, as signing.pem")
    raw = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    key = SigningKey(raw, _named(raw.public_key()))
    secret = raw.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _make_folder(path.parent)
    try:
        # O_EXCL: nothing is overwritten, and nobody can have put a link there.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(secret)
            os.fsync(stream.fileno())
        with public.open("xb") as stream:
            stream.write(key.public.pem())
    except FileExistsError as error:
        raise UsageError(
            f"{path}: there is a key already, and what it signed could not be verified without it"
        ) from error
    except OSError as error:
        raise StorageError(f"{path}: the key could not be written: {error}") from error
    return key


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"{folder}: no folder for the key can be made: {error.strerror}") from error


def read_signing_key(path: Path | None) -> SigningKey:
    """The private key at `path`, or this user's own.

    Raises:
        ConfigError: there is none, others may read it, or it is no key that signs here.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    place = path or default_path()
    try:
        mode = place.stat().st_mode & 0o777
        content = place.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{place}: no signing key ({error.strerror}); make one with: harness key new"
            + (f" --out {path}" if path else "")
        ) from error
    if mode & 0o077:
        raise ConfigError(f"{place}: others may read this private key (mode {mode:o}); chmod 600 {place}")
    try:
        raw = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise ConfigError(f"{place}: the key is encrypted; give one that is not, from your secret store") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{place}: not a private key in PEM") from error
    return SigningKey(raw, _checked(raw.public_key(), place))


def trusted_keys(paths: Iterable[Path] | None) -> dict[str, PublicKey]:
    """Public keys by name: those in `paths` (PEM, several to a file), or this user's own.

    Raises:
        ConfigError: a file holds no public key, or there is no file.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    given = list(paths or [])
    if not given and not public_path(default_path()).is_file():
        raise ConfigError("no key to verify with: give the signer's public key with --key FILE")
    found: dict[str, PublicKey] = {}
    for place in given or [public_path(default_path())]:
        try:
            with place.open("rb") as stream:
                blocks = _PUBLIC.findall(stream.read(_MAX_BYTES))
            keys = [_checked(load_pem_public_key(block), place) for block in blocks]
        except OSError as error:
            raise ConfigError(f"{place}: the public key cannot be read: {error.strerror}") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{place}: not a public key in PEM: {error}") from error
        if not keys:
            raise ConfigError(f"{place}: holds no public key; it is the .pub file that `harness key new` wrote")
        found |= {key.identity: key for key in keys}
    return found


def is_p256(key: Any) -> bool:
    """Whether the library's key is of the curve P-256, which model-signing reads."""
    from cryptography.hazmat.primitives.asymmetric import ec

    elliptic = isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey)
    return elliptic and isinstance(key.curve, ec.SECP256R1)


def _scheme(key: Any) -> tuple[Any, ...]:
    """What signing and verifying take beside the message."""
    if not is_p256(key):
        return ()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    return (ec.ECDSA(SHA256()),)


def _checked(public: Any, place: Path) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    if not isinstance(public, ed25519.Ed25519PublicKey) and not is_p256(public):
        raise ConfigError(f"{place}: neither an Ed25519 nor a P-256 key; make one with: harness key new")
    return _named(public)


def _named(public: Any) -> PublicKey:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(public, hashlib.sha256(der).hexdigest())
