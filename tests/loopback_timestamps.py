"""A timestamp authority (RFC 3161) in as much DER as it takes: it answers one kind of query with one kind of token."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEARS = timedelta(days=3650)
_SHA256 = "2.16.840.1.101.3.4.2.1"
_ECDSA_SHA256 = "1.2.840.10045.4.3.2"
_SIGNED_DATA, _TST_INFO = "1.2.840.113549.1.7.2", "1.2.840.113549.1.9.16.1.4"
_CONTENT_TYPE, _DIGEST, _CERTIFICATE = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4", "1.2.840.113549.1.9.16.2.47"


class TimestampAuthority:
    """A root, and a certificate under it that signs timestamps."""

    def __init__(self) -> None:
        root, self._key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        above, below = _name("stamps root"), _name("stamps")
        self.root = (
            certificate_for(above, root.public_key(), above, _YEARS, since=timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(root, hashes.SHA256())
        )
        self.certificate = (
            certificate_for(below, self._key.public_key(), above, _YEARS, since=timedelta(days=1))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
            .sign(root, hashes.SHA256())
        )

    def answer(self, query: bytes, now: datetime) -> bytes:
        """The response to a query (TimeStampReq) with the time `now` in it."""
        _, imprint, *rest = _children(_children(query)[0][1])
        nonce = [_der(tag, content) for tag, content in rest if tag == 2 and len(content) > 1]
        time = _der(24, now.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode())
        info = _der(48, _int(1), _oid("1.3.6.1.4.1.57264.2"), _der(*imprint), _int(7), time, *nonce)
        return _der(48, _der(48, _int(0)), self._token(info))

    def _token(self, info: bytes) -> bytes:
        """SignedData (RFC 5652) around the information, with the attributes that RFC 3161 demands."""
        der = self.certificate.public_bytes(Encoding.DER)
        certified = _der(48, _der(48, _der(48, _der(4, hashlib.sha256(der).digest()))))
        attributes = b"".join(sorted([
            _der(48, _oid(_CONTENT_TYPE), _der(49, _oid(_TST_INFO))),
            _der(48, _oid(_DIGEST), _der(49, _der(4, hashlib.sha256(info).digest()))),
            _der(48, _oid(_CERTIFICATE), _der(49, certified)),
        ], key=lambda a: (len(a), a)))  # fmt: skip
        signature = self._key.sign(_der(49, attributes), ec.ECDSA(hashes.SHA256()))
        issuer = self.certificate.issuer.public_bytes()
        signer = _der(
            48, _int(1), _der(48, issuer, _int(self.certificate.serial_number)), _der(48, _oid(_SHA256)),
            _der(0xA0, attributes), _der(48, _oid(_ECDSA_SHA256)), _der(4, signature),
        )  # fmt: skip
        wrapped = _der(48, _oid(_TST_INFO), _der(0xA0, _der(4, info)))
        data = _der(
            48, _int(3), _der(49, _der(48, _oid(_SHA256))), wrapped, _der(0xA0, der), _der(49, signer)
        )  # fmt: skip
        return _der(48, _oid(_SIGNED_DATA), _der(0xA0, data))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate_for(
    subject: x509.Name, public: ec.EllipticCurvePublicKey, issuer: x509.Name, lives: timedelta,
    since: timedelta = timedelta(seconds=1),
) -> x509.CertificateBuilder:  # fmt: skip
    """What every certificate has; it has been valid `since`."""
    start = datetime.now(UTC) - since
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + lives)
    )


def _der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(length)]) + length + content


def _int(value: int) -> bytes:
    return _der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    encoded = [40 * first + second]
    for number in rest:
        digits = [number & 127]
        while number := number >> 7:
            digits.append(number & 127 | 128)
        encoded += reversed(digits)
    return _der(6, bytes(encoded))


def _children(content: bytes) -> list[tuple[int, bytes]]:
    """The (tag, content) pairs in a row, none longer than 65,535 bytes."""
    found = []
    while content:
        size, start = content[1], 2
        if size & 128:
            start += size & 127
            size = int.from_bytes(content[2:start], "big")
        found.append((content[0], content[start : start + size]))
        content = content[start + size :]
    return found
