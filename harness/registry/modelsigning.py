"""A second signature in the form of OpenSSF's model-signing (v1.0), for those who verify with its own tool

It is a Sigstore bundle around the same DSSE envelope, whose predicate lists the files of the model. Its tool takes
elliptic keys and no Ed25519 ones, so the signature is written when the signing key is a P-256 one, or Sigstore signs:

    harness key new --kind p256 --out signing.pem
    model_signing verify key DIR --signature DIR/promotion/model.sig --public_key signing.pub
    model_signing verify sigstore DIR --signature DIR/promotion/model.sig --identity NAME --identity_provider URL
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping

from harness.errors import RecordError
from harness.registry.dsse import IN_TOTO, pae
from harness.registry.keys import PublicKey, SigningKey, is_p256
from harness.registry.signed import Signer, Trust, unseal
from harness.registry.sigstorebundle import MEDIA_TYPE, is_bundle

_PREDICATE = "https://model_signing/signature/v1.0"


def signature(name: str, files: Mapping[str, str], signer: Signer) -> bytes | None:
    """The file with the signature over `files`, or None where model-signing could not verify what `signer` signs.

    `files` maps names to SHA-256 (hex); `name` is what the model is called in the signature.
    """
    payload = _statement(name, files)
    if not isinstance(signer, SigningKey):
        return signer.seal(payload)
    if not is_p256(signer.raw):
        return None
    return _file(payload, signer.sign(pae(IN_TOTO, payload)), signer.public)


def _statement(name: str, files: Mapping[str, str]) -> bytes:
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
    return json.dumps(statement).encode()


def _file(payload: bytes, proof: bytes, key: PublicKey) -> bytes:
    # Its key hint is the hash of the PEM text, where our name of a key is that of the key itself.
    hint = hashlib.sha256(key.pem()).hexdigest()
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": IN_TOTO,
            "signatures": [{"sig": base64.b64encode(proof).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, indent=1).encode() + b"\n"


def check(raw: bytes, name: str, files: Mapping[str, str], trusted: Trust, where: str) -> None:
    """Hold a signature file against the name and the files of a bundle.

    Raises:
        RecordError: it is not what somebody trusted wrote about these files.
    """
    if is_bundle(raw):
        signed = unseal(raw, trusted, where)[0] == _statement(name, files)
    else:
        signed = _signed_by_key(raw, _statement(name, files), trusted)
    if not signed:
        raise RecordError(f"{where}not what a trusted key signed: it was changed")


def _signed_by_key(raw: bytes, payload: bytes, trusted: Trust) -> bool:
    """Whether the file is what one of the keys writes about a statement, byte for byte."""
    try:
        proof = base64.b64decode(json.loads(raw)["dsseEnvelope"]["signatures"][0]["sig"], validate=True)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return False
    keys = [key for key in trusted.values() if isinstance(key, PublicKey)]
    return any(key.verifies(pae(IN_TOTO, payload), proof) and raw == _file(payload, proof, key) for key in keys)
