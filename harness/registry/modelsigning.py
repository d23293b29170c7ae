"""A second signature in the form of OpenSSF's model-signing (v1.0), for those who verify with its own tool

It is a Sigstore bundle around the same DSSE envelope, whose predicate lists the files of the model. Its tool takes
elliptic keys and no Ed25519 ones, so the signature is written when the signing key is a P-256 one:

    harness key new --kind p256 --out signing.pem
    model_signing verify key DIR --signature DIR/promotion/model.sig --public_key signing.pub
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping

from harness.errors import RecordError
from harness.registry.dsse import IN_TOTO, pae
from harness.registry.keys import PublicKey, SigningKey, is_p256

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PREDICATE = "https://model_signing/signature/v1.0"


def can_sign(key: SigningKey) -> bool:
    """Whether model-signing can verify what this key signs."""
    return is_p256(key.raw)


def signature(name: str, files: Mapping[str, str], key: SigningKey) -> bytes:
    """The file with the signature over `files` (SHA-256 in hex by name); `name` is what the model is called in it."""
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in sorted(files.items()))).hexdigest()
    resources = [{"name": file, "algorithm": "sha256", "digest": digest} for file, digest in sorted(files.items())]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ["promotion"],
            },
            "resources": resources,
        },
    }
    payload = json.dumps(statement).encode()
    return _file(payload, key.sign(pae(IN_TOTO, payload)), key.public)


def _file(payload: bytes, proof: bytes, key: PublicKey) -> bytes:
    # Its key hint is the hash of the PEM text, where our name of a key is that of the key itself.
    hint = hashlib.sha256(key.pem()).hexdigest()
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": IN_TOTO,
            "signatures": [{"sig": base64.b64encode(proof).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, indent=1).encode() + b"\n"


def check(raw: bytes, files: Mapping[str, str], trusted: Mapping[str, PublicKey], where: str) -> None:
    """Hold a signature file against the files of a bundle.

    Raises:
        RecordError: it is not what a trusted key wrote about these files.
    """
    try:
        bundle = json.loads(raw)
        envelope = bundle["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        proof = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        statement = json.loads(payload)
        signed = {r["name"]: r["digest"] for r in statement["predicate"]["resources"]}
        name = statement["subject"][0]["name"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise RecordError(f"{where}not a signature of a model ({error}): it was changed") from error
    signer = next((key for key in trusted.values() if key.verifies(pae(IN_TOTO, payload), proof)), None)
    if signer is None or signed != dict(files) or raw != _file(payload, proof, signer) or not isinstance(name, str):
        raise RecordError(f"{where}not what a trusted key signed: it was changed")
