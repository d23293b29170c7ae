"""Pictures in traces are fetched from hosts that are named and from nowhere else, within bounds."""

from __future__ import annotations

import http.server
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.goldens.pictures import name_of
from harness.traces.freezing import _fetching
from harness.traces.freezing._album import Album, LeftOut
from harness.traces.freezing._fetching import Fetcher, Host, NotFetched, hosts_of
from harness.traces.records import Part
from tests.loopback_pictures import PNG, Pictures, Reply, dripping, sent


@pytest.fixture
def server() -> Iterator[Pictures]:
    with Pictures({"/a.png": sent()}) as running:
        yield running


def fetch(server: Pictures, path: str, **options: Any) -> bytes:
    return Fetcher((Host.parse(server.host),), most_bytes=options.pop("most_bytes", 4096), **options).get(
        server.url + path
    )


# ---------------------------------------------------------------- which hosts


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("cdn.example.com", Host("cdn.example.com")), ("CDN.Example.com:8443", Host("cdn.example.com", 8443)),
        ("127.0.0.1:8000", Host("127.0.0.1", 8000)), ("[::1]:80", Host("::1", 80)), ("bücher.example",
        Host("xn--bcher-kva.example")),
    ],
)  # fmt: skip
def test_a_host_is_named_exactly(text: str, host: Host) -> None:
    assert Host.parse(text) == host


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.example.com", "https://example.com", "example.com/a", "a@example.com", "example.com:", "a b",
     "example.com:99999", "example.com:0", ".example.com", "[::1", "exa\tmple.com"],
)  # fmt: skip
def test_a_pattern_or_an_address_is_no_host(text: str) -> None:
    with pytest.raises(ConfigError, match="name each exactly"):
        hosts_of([text])


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/a.png", "https://example.com.evil.example/a.png", "https://sub.example.com/a.png",
        "https://example.com:444/a.png", "https://user:key@example.com/a.png", "https://example.com\\@evil.example/a",
        "https://example.com \n.evil.example/a.png", "//example.com/a.png", "file:///etc/passwd", "gopher://example.com",
        "https://example.com" + "/a" * 5000, "https://[::1", "x", "", "https://example.com/\ud800",
    ],
)  # fmt: skip
def test_whatever_is_not_of_a_host_that_is_named_is_not_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))
    with pytest.raises(NotFetched):
        Fetcher(hosts_of(["example.com"]), 4096).get(address)


def test_plain_http_is_for_this_machine_alone() -> None:
    with pytest.raises(NotFetched, match="not https"):
        Fetcher((Host("example.com", 80),), 4096).get("http://example.com:80/a.png")


PRIVATE = (
    "10.0.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.1", "224.0.0.1",
    "255.255.255.255", "::1", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "ff02::1",
    "::", "::7f00:1",
)  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_stands_for_a_private_address_is_not_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(0, 0, 0, "", ("93.184.215.14", 443)), (0, 0, 0, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was opened"))
    with pytest.raises(NotFetched, match="private address"):
        Fetcher(hosts_of(["example.com"]), 4096).get("https://example.com/a.png")


def test_the_connection_goes_to_the_address_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stands for another address a moment later (DNS rebinding) changes nothing."""
    looked: list[str] = []
    opened: list[Any] = []

    def look(name: str, *_: Any, **__: Any) -> list[Any]:
        looked.append(name)
        return [(0, 0, 0, "", ("93.184.215.14" if len(looked) == 1 else "127.0.0.1", 443))]

    def connect(address: Any, *_: Any) -> Any:
        opened.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", look)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(NotFetched, match="connection failed"):
        Fetcher(hosts_of(["example.com"]), 4096).get("https://example.com/a.png")
    assert (looked, opened) == (["example.com"], [("93.184.215.14", 443)])


def test_public_addresses_are_public() -> None:
    for text in ("93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8"):
        address = _fetching._literal(text)
        assert address is not None
        assert _fetching._public(address)


# ---------------------------------------------------------------- what comes back


def test_a_picture_is_fetched_once_and_nothing_of_this_machine_goes_along(
    server: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    album = Album(tmp_path, hosts_of([server.host]))
    part = Part("image", reference=f"{server.url}/a.png")
    assert {album.add(part) for _ in range(3)} == {name_of(PNG)}
    for _ in range(3):
        with pytest.raises(LeftOut, match="404"):
            album.add(Part("image", reference=f"{server.url}/gone.png"))
    (path, headers), _ = server.asked
    assert path == "/a.png"
    assert set(headers) == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert headers["host"] == server.host


REFUSED: dict[str, tuple[Reply, str]] = {
    "status": (sent(status=403), "the answer was 403"),
    "a page": (sent(b"<html>", "text/html"), "no picture"),
    "said to be long": (sent(content_length="5000"), "too large"),
    "long": (sent(b"\x89PNG" * 2000, content_length="8000"), "too large"),
    "packed": (sent(content_encoding="gzip"), "packed"),
    "cut off": (sent(content_length=str(len(PNG) + 5)), "connection failed"),
    "elsewhere": (sent(b"", status=302, location="http://169.254.169.254/latest/meta-data"), "leads elsewhere"),
    "another port": (sent(b"", status=307, location="http://127.0.0.1:1/a.png"), "leads elsewhere"),
    "another scheme": (sent(b"", status=301, location="file:///etc/passwd"), "leads elsewhere"),
    "nowhere": (sent(b"", status=302, location="http://[::1"), "leads elsewhere"),
    "in a circle": (sent(b"", status=302, location="/x"), "leads on and on"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_picture_within_the_bounds_is_refused(server: Pictures, case: str) -> None:
    server.replies["/x"], reason = REFUSED[case]
    with pytest.raises(NotFetched, match=reason):
        fetch(server, "/x")


def test_a_redirect_within_the_host_is_followed(server: Pictures) -> None:
    server.replies["/old"] = sent(b"", status=302, location="/a.png")
    assert fetch(server, "/old") == PNG


def test_a_body_without_a_length_is_bounded_too(server: Pictures) -> None:
    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "image/png")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(4096))
        except OSError:
            pass

    server.replies["/endless"] = endless
    with pytest.raises(NotFetched, match="too large"):
        fetch(server, "/endless")


def test_a_server_that_drips_is_cut_off_and_half_a_picture_is_none(server: Pictures) -> None:
    server.replies["/slow"] = dripping
    with pytest.raises(NotFetched, match="in time"):
        fetch(server, "/slow", seconds=0.4)


def test_a_host_that_does_not_answer_is_not_asked_for_ever() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, and nobody listens
        fetcher = Fetcher((Host.parse(host),), 4096, most_silent=2)
        reasons = []
        for number in range(4):
            with pytest.raises(NotFetched) as error:
                fetcher.get(f"http://{host}/{number}.png")
            reasons.append(str(error.value))
    assert reasons == ["the connection failed"] * 2 + ["its host does not answer"] * 2


def test_a_certificate_must_be_the_hosts_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pictures({"/a.png": sent()}, context=_certified(tmp_path, "localhost")) as server:
        port = server.host.rpartition(":")[2]
        named, other = (f"https://{host}:{port}/a.png" for host in ("localhost", "127.0.0.1"))
        hosts = hosts_of([f"localhost:{port}", f"127.0.0.1:{port}"])
        with pytest.raises(NotFetched, match="certificate"):
            Fetcher(hosts, 4096).get(named)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        assert Fetcher(hosts, 4096).get(named) == PNG
        with pytest.raises(NotFetched, match="certificate"):
            Fetcher(hosts, 4096).get(other)


def _certified(folder: Path, name: str) -> ssl.SSLContext:
    """A server's context with a certificate of its own making for `name`."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )  # fmt: skip
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    own = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "certificate.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context
