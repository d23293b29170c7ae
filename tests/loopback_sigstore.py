"""A whole Sigstore on 127.0.0.1: identity provider, certificate authority, transparency logs, timestamps.

    with LoopbackSigstore() as sigstore:
        config = sigstore.trust_config(folder)      # ClientTrustConfig, which points at this server
        token = sigstore.token()

Everything is signed with keys of its own and nothing is recorded: sigstore-python's real client speaks to it over HTTP.
It speaks what the client asks for: Fulcio's v2 signingCert, Rekor's v1 and v2 entries, RFC 3161, OpenID Connect.
`fails` are HTTP statuses that the next requests are answered with, 0 for none; `log_ahead` is by how much the clock of
log and timestamps runs ahead; `silent` makes the authority wait instead of answering; `asked` lists the paths.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.registry.keyless import KeylessSigner, keyless_signer
from tests.loopback_server import LoopbackServer
from tests.loopback_timestamps import TimestampAuthority, certificate_for

_SECRET = "between the identity provider and the authority, which here are one"  # noqa: S105 - of a test's server
_SCTS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER_V1 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_USAGE = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
          "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip

ISSUER = "https://accounts.example.org"
GITHUB = "https://token.actions.githubusercontent.com"
ADA = "ada@example.org"
WORKFLOW = "https://github.com/team/model/.github/workflows/promote.yml@refs/heads/main"


class LoopbackSigstore(LoopbackServer):
    """See the module. `rekor` is the version of the log's API, `stamps` whether signatures get a timestamp."""

    def __init__(self, *, rekor: int = 1, stamps: bool = False) -> None:
        self.rekor, self.stamps = rekor, stamps or rekor == 2
        self.fails: list[int] = []
        self.log_ahead = timedelta()
        self.silent = threading.Event()
        self.asked: list[str] = []
        self.authority, self.ct, self.log = Authority(), _key(), Log()
        self.tsa = TimestampAuthority()
        super().__init__(_handler(self))
        self._server.daemon_threads = True  # so that a silent answer is not waited for

    def token(self, lives: timedelta = timedelta(minutes=10), audience: str = "sigstore", **claims: str) -> str:
        """What the identity provider gives Ada, or whoever `claims` are about."""
        now = datetime.now(UTC)
        who = claims or {"iss": ISSUER, "sub": ADA, "email": ADA}
        return jwt.encode({"aud": audience, "iat": now - timedelta(hours=1), "exp": now + lives, **who}, _SECRET)

    def workflow_token(self) -> str:
        """What GitHub gives a job with the permission `id-token: write`."""
        reference = WORKFLOW.removeprefix("https://github.com/")
        return self.token(iss=GITHUB, sub="repo:team/model:ref:refs/heads/main", job_workflow_ref=reference)

    def trust_config(self, folder: Path) -> Path:
        path = folder / "trust-config.json"
        path.write_text(json.dumps(self._trust()), encoding="utf-8")
        return path

    def _trust(self) -> dict[str, Any]:
        from_then = {"start": "2020-01-01T00:00:00Z"}
        service = {"majorApiVersion": 1, "validFor": from_then, "operator": "loopback"}
        log = {"baseUrl": self.endpoint, "hashAlgorithm": "SHA2_256"}
        name = {"subject": {"organization": "loopback", "commonName": "loopback"}, "uri": self.endpoint}
        authorities = [{**name, "certChain": _chain(self.authority.certificate), "validFor": from_then}]
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [{**log, **_public(self.log.key)}],
                "ctlogs": [{**log, **_public(self.ct)}],
                "certificateAuthorities": authorities,
                "timestampAuthorities": [
                    {**name, "certChain": _chain(self.tsa.certificate, self.tsa.root), "validFor": from_then}
                ],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [{"url": self.endpoint, **service}],
                "oidcUrls": [{"url": self.endpoint, **service}],
                "rekorTlogUrls": [{"url": self.endpoint, **service, "majorApiVersion": self.rekor}],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [{"url": f"{self.endpoint}/stamp", **service}] if self.stamps else [],
                "tsaConfig": {"selector": "ANY"},
            },
        }

    # ------------------------------------------------------------ answers

    def certify(self, request: dict[str, Any], token: str) -> dict[str, Any]:
        """Fulcio: a certificate for whom a token is about."""
        claims = jwt.decode(token, _SECRET, algorithms=["HS256"], audience="sigstore")
        csr = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        assert csr.is_signature_valid
        made = self.authority.certify(csr.public_key(), claims, self.ct)
        pem = [c.public_bytes(Encoding.PEM).decode() for c in (made, self.authority.certificate)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": pem}}}

    def enter(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """Rekor v1: an entry with its promise and its proof."""
        spec = proposed["spec"]
        if proposed["kind"] == "dsse":
            envelope = json.loads(spec["proposedContent"]["envelope"])
            payload = base64.b64decode(envelope["payload"])
            spec = {
                "envelopeHash": _hash(spec["proposedContent"]["envelope"].encode()),
                "payloadHash": _hash(payload),
                "signatures": [
                    {"signature": envelope["signatures"][0]["sig"], "verifier": spec["proposedContent"]["verifiers"][0]}
                ],
            }
        body = _canonical({"apiVersion": proposed["apiVersion"], "kind": proposed["kind"], "spec": spec})
        index, proof = self.log.append(body)
        integrated = int((datetime.now(UTC) + self.log_ahead).timestamp())
        said = {"body": _b64(body), "integratedTime": integrated, "logID": self.log.identity.hex(), "logIndex": index}
        hashes_ = [h.hex() for h in proof.pop("hashes")]
        proof |= {"rootHash": proof["rootHash"].hex(), "hashes": hashes_}
        promise = _b64(_sign(self.log.key, _canonical(said)))
        return {"f" * 64: {**said, "verification": {"inclusionProof": proof, "signedEntryTimestamp": promise}}}

    def enter_v2(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """Rekor v2: an entry with its proof; when it was made only a timestamp says."""
        asked = proposed["hashedRekordRequestV002"]
        data = {"algorithm": "SHA2_256", "digest": asked["digest"]}
        spec = {"hashedRekordV002": {"data": data, "signature": asked["signature"]}}
        body = _canonical({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": spec})
        index, proof = self.log.append(body)
        return {
            "logIndex": str(index),
            "logId": {"keyId": _b64(self.log.identity)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "inclusionProof": {
                "logIndex": str(index),
                "treeSize": str(proof["treeSize"]),
                "rootHash": _b64(proof["rootHash"]),
                "hashes": [_b64(h) for h in proof["hashes"]],
                "checkpoint": {"envelope": proof["checkpoint"]},
            },
            "canonicalizedBody": _b64(body),
        }

    def stamp(self, request: bytes) -> bytes:
        """The timestamp authority's answer to an RFC 3161 query."""
        return self.tsa.answer(request, datetime.now(UTC) + self.log_ahead)


def signer(sigstore: LoopbackSigstore, folder: Path, token: str | None = None) -> KeylessSigner:
    """Who signs by a token, Ada's by default, with the trust configuration in the folder."""
    path = folder / "token"
    path.write_text(token or sigstore.token(), encoding="utf-8")
    return keyless_signer(path, trust_config=sigstore.trust_config(folder))


class Authority:
    """A root that certifies by itself, as a Fulcio without an intermediate."""

    def __init__(self) -> None:
        self.key = _key()
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "loopback")])
        self.certificate = (
            certificate_for(name, self.key.public_key(), name, timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def certify(self, public: Any, claims: dict[str, Any], ct: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """A certificate that holds for ten minutes, with the promise of a log of certificates in it."""
        workflow = claims.get("job_workflow_ref")
        named: x509.GeneralName = (
            x509.RFC822Name(claims["email"])
            if workflow is None
            else x509.UniformResourceIdentifier(f"https://github.com/{workflow}")
        )
        issuer = claims["iss"].encode()
        builder = (
            certificate_for(x509.Name([]), public, self.certificate.subject, timedelta(minutes=10))
            .add_extension(_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([named]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V1, issuer), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V2, bytes([12, len(issuer)]) + issuer), critical=False)
        )
        promised = self._promise(builder.sign(self.key, hashes.SHA256()).tbs_certificate_bytes, ct)
        return builder.add_extension(x509.UnrecognizedExtension(_SCTS, promised), critical=False).sign(
            self.key, hashes.SHA256()
        )

    def _promise(self, precertificate: bytes, ct: ec.EllipticCurvePrivateKey) -> bytes:
        """The list with one SCT (RFC 6962, 3.2 and 3.3) for a certificate that does not have it yet."""
        now = int(datetime.now(UTC).timestamp() * 1000)
        entry = hashlib.sha256(_spki(self.key)).digest() + len(precertificate).to_bytes(3, "big") + precertificate
        signature = _sign(ct, struct.pack("!BBQH", 0, 0, now, 1) + entry + b"\0\0")
        sct = struct.pack("!B32sQH", 0, hashlib.sha256(_spki(ct)).digest(), now, 0)
        sct += struct.pack("!BBH", 4, 3, len(signature)) + signature  # SHA-256, ECDSA
        listed = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        return bytes([4, len(listed)] if len(listed) < 128 else [4, 129, len(listed)]) + listed


class Log:
    """A Merkle tree of entries (RFC 6962, 2.1) whose head is signed as a checkpoint."""

    def __init__(self) -> None:
        self.key = _key()
        self.identity = hashlib.sha256(_spki(self.key)).digest()
        self._leaves = [hashlib.sha256(b"\0" + b"what somebody else entered before").digest()]
        self._lock = threading.Lock()

    def append(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """The index of a new entry, and the proof that it is in the tree."""
        with self._lock:
            self._leaves.append(hashlib.sha256(b"\0" + body).digest())
            size = len(self._leaves)
            root = _root(self._leaves)
            note = f"loopback - 1\n{size}\n{_b64(root)}\n"
            signature = _b64(self.identity[:4] + _sign(self.key, note.encode()))
            return size - 1, {
                "logIndex": size - 1,
                "treeSize": size,
                "rootHash": root,
                "hashes": _path(size - 1, self._leaves),
                "checkpoint": f"{note}\n— loopback {signature}\n",
            }


def _root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return hashlib.sha256(b"\1" + _root(leaves[:split]) + _root(leaves[split:])).digest()


def _path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*_path(index, leaves[:split]), _root(leaves[split:])]
    return [*_path(index - split, leaves[split:]), _root(leaves[:split])]


def _split(size: int) -> int:
    """The largest power of two below a size."""
    return 1 << ((size - 1).bit_length() - 1)


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    said = {"rawBytes": _b64(_spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": {"start": "2020-01-01T00:00:00Z"}}  # fmt: skip
    return {"publicKey": said, "logId": {"keyId": _b64(hashlib.sha256(_spki(key)).digest())}}


def _chain(*certificates: x509.Certificate) -> dict[str, Any]:
    return {"certificates": [{"rawBytes": _b64(c.public_bytes(Encoding.DER))} for c in certificates]}


def _usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in _USAGE})


def _hash(content: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _handler(sigstore: LoopbackSigstore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given: Any) -> None:
            """Nothing is printed."""

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            sigstore.asked.append(asked.path)
            query = {name: values[0] for name, values in parse_qs(asked.query).items()}
            if asked.path == "/.well-known/openid-configuration":
                there = {
                    "authorization_endpoint": f"{sigstore.endpoint}/auth",
                    "token_endpoint": f"{sigstore.endpoint}/token",
                }
                self._answer(200, json.dumps(there).encode())
            elif asked.path == "/auth":  # the person says yes at once
                back = f"{query['redirect_uri']}?{urlencode({'code': 'granted', 'state': query['state']})}"
                self._answer(302, b"", Location=back)
            elif asked.path == "/github" and self.headers["Authorization"] == "bearer of-the-job":
                self._answer(200, json.dumps({"value": sigstore.workflow_token()}).encode())
            else:
                self._answer(404, b"{}")

        def do_POST(self) -> None:
            sigstore.asked.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if status := sigstore.fails.pop(0) if sigstore.fails else 0:
                self._answer(status, b'{"code": 1, "message": "no"}')
                return
            if self.path == "/stamp":
                self._answer(200, sigstore.stamp(body))
                return
            if self.path == "/token":
                self._answer(200, json.dumps({"access_token": sigstore.token()}).encode())
                return
            if self.path == "/api/v2/signingCert":
                sigstore.silent.wait(0) and threading.Event().wait(30)
                token = self.headers["Authorization"].removeprefix("Bearer ")
                self._answer(200, json.dumps(sigstore.certify(json.loads(body), token)).encode())
                return
            enter = {"/api/v1/log/entries": sigstore.enter, "/api/v2/log/entries": sigstore.enter_v2}[self.path]
            self._answer(201, json.dumps(enter(json.loads(body))).encode())

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler
