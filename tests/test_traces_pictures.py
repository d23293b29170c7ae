"""Pictures in traces: fetched from hosts that are named and from nowhere else, frozen by content, replayed offline."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import goldens
from harness.config import load_gate
from harness.errors import ConfigError, DataError, LockError
from harness.gate import run_gates
from harness.goldens.pictures import MOST_IN_A_CALL, name_of
from harness.progress import Silent
from harness.records import Generate, Message, Picture, request_hash
from harness.served import Question
from harness.served._failures import Problem
from harness.served._payload import content
from harness.suites import SuiteContext
from harness.suites._questions import of_golden_set
from harness.suites.shadow import Options, build
from harness.traces.freezing import FreezeOptions, Freezing, _fetching, freeze
from harness.traces.freezing._album import Album, LeftOut
from harness.traces.freezing._fetching import Fetcher, Host, NotFetched, hosts_of
from harness.traces.records import Part
from harness.traces.replaying import Arm, Replay, document
from harness.traces.store import Store
from tests.loopback_model import LoopbackModel, Said
from tests.shadow_set import gate
from tests.shadow_store import call, plain, said, store_of

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 40
GIF = b"GIF89a" + b"g" * 40
WEBP = b"RIFF\x28\0\0\0WEBP" + b"w" * 40


# ---------------------------------------------------------------- a server of pictures


Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


def sent(body: bytes = PNG, kind: str = "image/png", status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **named}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def dripping(handler: http.server.BaseHTTPRequestHandler) -> None:
    """A byte at a time, so that no single wait is ever long; and no length, so that the end shows nothing."""
    handler.send_response(200)
    handler.send_header("content-type", "image/png")
    handler.end_headers()
    for byte in PNG * 100:
        try:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


@dataclass
class Pictures:
    """A server on a free port of 127.0.0.1 that answers paths as told, and remembers what was asked with what."""

    replies: dict[str, Reply] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    context: ssl.SSLContext | None = None

    def __enter__(self) -> Pictures:
        known = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                known.replies.get(self.path, sent(b"no", "text/plain", 404))(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if self.context is not None:
            self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


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


# ---------------------------------------------------------------- frozen


def data(picture: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def shown(text: str, *addresses: str, role: str = "user") -> dict[str, Any]:
    """A message as OpenTelemetry has it: the pictures stand before the text."""
    parts: list[dict[str, Any]] = [{"type": "uri", "modality": "image", "uri": a} for a in addresses]
    return {"role": role, "parts": [*parts, *([{"type": "text", "content": text}] if text else [])]}


def asked(number: int, *messages: dict[str, Any]) -> Any:
    return call(number, messages, said("assistant", "A cat."), session=f"p{number}")


def frozen(folder: Path, spans: list[Any], *hosts: str) -> tuple[Freezing, goldens.GoldenSet]:
    with Store.open(store_of(folder, spans)) as store:
        made = freeze(store, folder / "goldensets", FreezeOptions("production", images_from=hosts))
    return made, goldens.load(folder / "goldensets", "production@1")


def test_pictures_become_locked_files_of_the_set_named_by_their_content(tmp_path: Path, server: Pictures) -> None:
    spans = [*plain(2), asked(5, shown("What is this?", f"{server.url}/a.png")), asked(6, shown("", data(PNG))),
             asked(7, shown("And these?", data(JPEG, "image/jpeg"), data(GIF), data(WEBP)))]  # fmt: skip
    made, golden = frozen(tmp_path, spans, server.host)
    assert (made.samples, made.left_out) == (5, {})
    kept = {p.name: p.read_bytes() for p in (golden.folder / "pictures").iterdir()}
    assert sorted(kept.values()) == sorted([PNG, JPEG, GIF, WEBP])
    assert all(name.startswith(hashlib.sha256(content).hexdigest()) for name, content in kept.items())
    assert {f"pictures/{name}" for name in kept} <= set(golden.locked.files)
    provenance = json.loads((golden.folder / "provenance.json").read_text())
    assert (provenance["pictures"], provenance["drawn_by"]["images_from"]) == (4, [server.host])
    assert server.url not in (golden.folder / "samples.jsonl").read_text()
    (golden.folder / name_of(PNG)).write_bytes(JPEG)  # type: ignore[operator]
    with pytest.raises(LockError, match="pictures/"):
        goldens.load(tmp_path / "goldensets", "production@1")


def test_nothing_is_fetched_unless_a_host_is_named_whatever_a_text_says(tmp_path: Path, server: Pictures) -> None:
    spans = [
        *plain(1), asked(5, shown("What is this?", f"{server.url}/a.png")),
        asked(6, said("user", f"What is at {server.url}/a.png ? ![a]({server.url}/b.png)")),
    ]  # fmt: skip
    made, _ = frozen(tmp_path / "none", spans)
    assert (made.samples, made.left_out) == (2, {"a picture that was not fetched: its host is not allowed": 1})
    made, _ = frozen(tmp_path / "other", spans, "cdn.example.com")
    assert (made.samples, made.left_out) == (2, {"a picture that was not fetched: its host is not allowed": 1})
    assert server.asked == []
    made, _ = frozen(tmp_path / "named", spans, server.host)
    assert (made.samples, [path for path, _ in server.asked]) == (3, ["/a.png"])  # a link in a text is a text


LEFT_OUT: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a drawing that is a program": ([shown("?", data(b"<svg onload='x'/>", "image/svg+xml"))], "in a format"),
    "no picture": ([shown("?", data(b"hello"))], "in a format"),
    "a page": ([shown("?", "data:text/html,<b>")], "in a format"),
    "damaged": ([shown("?", "data:image/png;base64,iVBOR!!!")], "damaged"),
    "not a data URL": ([shown("?", "data:image/png;base64")], "in a format"),
    "of the assistant": ([shown("Here.", data(PNG), role="assistant"), said("user", "?")], "no user sent"),
    "too many": ([shown("?", *[data(PNG + bytes([i])) for i in range(MOST_IN_A_CALL + 1)])], "more than 16 pictures"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_no_picture_is_left_out_by_its_reason(tmp_path: Path, case: str) -> None:
    messages, reason = LEFT_OUT[case]
    made, _ = frozen(tmp_path, [*plain(1), asked(5, *messages)])
    (counted,) = made.left_out
    assert (made.samples, made.left_out[counted]) == (1, 1)
    assert reason in counted


def test_a_picture_that_could_not_be_fetched_is_counted_by_its_reason(tmp_path: Path, server: Pictures) -> None:
    server.replies["/gone.png"] = sent(b"", status=410)
    server.replies["/page.png"] = sent(b"<html></html>")  # a page that is called a picture
    names = ("gone", "page", "missing")
    spans = [*plain(1), *(asked(5 + i, shown(name, f"{server.url}/{name}.png")) for i, name in enumerate(names))]
    made, _ = frozen(tmp_path, spans, server.host)
    assert made.left_out == {
        "a picture that was not fetched: the answer was 410": 1,
        "a picture that was not fetched: the answer was 404": 1,
        "a picture in a format that is not taken, or none at all": 1,
    }


def test_one_question_on_two_pictures_is_two_questions(tmp_path: Path) -> None:
    words = "Please describe in detail everything that you can see on the photograph that I have taken of my garden"
    spans = [asked(i, shown(words, data(PNG + bytes([i % 3])))) for i in range(6)]
    made, _ = frozen(tmp_path, spans)
    assert (made.samples, made.left_out) == (3, {"nearly what another session asked": 3})


ROW = {"id": "a", "messages": [{"role": "user", "content": "Look: . And?"}]}


@pytest.mark.parametrize(
    ("pictures", "problem"),
    [
        ([], "1 to 16"), ("x", "1 to 16"), ([{"file": "pictures/a.png", "at": 0}], "SHA256.png"),
        ([{"file": "../../etc/passwd", "at": 0}], "SHA256.png"),
        ([{"file": f"pictures/{'0' * 64}.png", "at": 0}], "missing"),
        ([{"file": "OK", "at": 13}], "a place in the text"), ([{"file": "OK", "at": True}], "a place in the text"),
        ([{"file": "OK"}], "file and at"), ([{"file": "OK", "at": 6}, {"file": "OK", "at": 0}], "in the order"),
        ([{"file": "FALSE", "at": 0}], "another one than its name says"),
    ],
)  # fmt: skip
def test_a_row_that_names_no_picture_of_its_set_is_refused(tmp_path: Path, pictures: Any, problem: str) -> None:
    folder = _drafted(tmp_path, pictures)
    with pytest.raises(DataError, match=f"samples.jsonl:1: .*{problem}"):
        goldens.read_samples(folder / "samples.jsonl", goldens.load_card(folder))


def _drafted(root: Path, pictures: Any) -> Path:
    folder = root / "s" / "1"
    (folder / "pictures").mkdir(parents=True)
    held, false = name_of(PNG) or "", f"pictures/{'1' * 64}.png"
    (folder / held).write_bytes(PNG)
    (folder / false).write_bytes(PNG)
    text = json.dumps({**ROW, "messages": [{**ROW["messages"][0], "pictures": pictures}]})  # type: ignore[dict-item]
    (folder / "samples.jsonl").write_text(text.replace('"OK"', f'"{held}"').replace('"FALSE"', f'"{false}"') + "\n")
    (folder / "card.yaml").write_text(
        "{name: s, version: '1', description: d, licence: l, source: s, metrics: [exact_match]}"
    )
    return folder


# ---------------------------------------------------------------- asked again


def test_a_picture_goes_to_a_server_as_data_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(PNG)
    picture = Picture(hashlib.sha256(PNG).hexdigest(), "image/png", 6, str(tmp_path / "p"))
    question = Question((Message("user", "Look: . And?", pictures=(picture,)),))
    ((turn,),) = content(question).values()
    image = {"type": "image_url", "image_url": {"url": data(PNG)}}
    assert turn["content"] == [{"type": "text", "text": "Look: "}, image, {"type": "text", "text": ". And?"}]
    (tmp_path / "p").write_bytes(JPEG)
    with pytest.raises(Problem, match="not the one that was frozen"):
        content(question)


def test_a_request_is_known_by_what_its_pictures_are_and_not_by_where_they_lie() -> None:
    def keys(*pictures: Picture) -> tuple[str, str]:
        message = (Message("user", "?", pictures=pictures),)
        return request_hash(Generate(message)), Question(message).digest()

    first, elsewhere = (Picture("a" * 64, "image/png", 0, place) for place in ("x", "y"))
    assert keys(first) == keys(elsewhere)
    others = [keys(), keys(first), keys(Picture("b" * 64, "image/png")), keys(Picture("a" * 64, "image/png", 1))]
    assert len({key for pair in others for key in pair}) == 8


def test_a_replay_against_two_servers_needs_no_host_of_pictures_any_more(tmp_path: Path) -> None:
    with Pictures({"/a.png": sent()}) as server:
        spans = [*plain(30), *(asked(40 + i, shown(f"What is {i}?", f"{server.url}/a.png")) for i in range(30))]
        frozen(tmp_path, spans, server.host)
    seen: list[Any] = []

    def answer(messages: Any) -> Said:
        seen.append(messages[-1]["content"])
        return Said("A cat.")

    with LoopbackModel(answer) as model:
        served = {"kind": "served", "model": "openai/m", "api_base": model.base}
        path = gate(tmp_path, served, {**served, "revision": "2"}, metrics=["complied"])
        (result,) = run_gates([load_gate(path)], Silent())
    pictured = [said for said in seen if isinstance(said, list)]
    (compared,) = result.verdict.comparisons
    assert (compared.n_used, compared.n_failed, compared.lost) == (60, 0, 0)
    assert len(pictured) == 60
    assert all(parts[0]["image_url"]["url"] == data(PNG) for parts in pictured)


def test_a_local_model_refuses_pictures_and_a_local_replay_leaves_such_calls_out(tmp_path: Path) -> None:
    frozen(tmp_path, [*plain(3), asked(5, shown("?", data(PNG)))])
    context = SuiteContext(folder=tmp_path)
    everything, texts = (build(Options(set="production@1", pictures=p), context) for p in (True, False))
    assert (len(everything.samples()), len(texts.samples())) == (4, 3)
    assert everything.digest() != texts.digest()
    told = {check.name: check for check in texts.checks()}
    assert told["without-pictures"].passed
    assert "1 of 4 samples" in told["without-pictures"].detail
    root = tmp_path / "goldensets"
    local = Replay("production@1", root, Arm("base"), Arm("m", "http://127.0.0.1:1/v1"))
    both = Replay("production@1", root, Arm("a", "http://127.0.0.1:1/v1"), Arm("m", "http://127.0.0.1:1/v1"))
    assert document(tmp_path, local, pictures=True)["suites"][0]["pictures"] is False
    assert "pictures" not in document(tmp_path, both, pictures=True)["suites"][0]
    assert "pictures" not in document(tmp_path, local)["suites"][0]


def test_a_judge_is_not_asked_about_pictures_that_it_does_not_see(tmp_path: Path) -> None:
    frozen(tmp_path / "mixed", [*plain(3), asked(5, shown("?", data(PNG)))])
    questions = of_golden_set("production@1", None, SuiteContext(folder=tmp_path / "mixed"), chat=True)
    assert len(questions.samples) == 3
    assert any(c.name == "without-pictures" and "1 of 4" in c.detail for c in questions.checks())
    frozen(tmp_path / "alone", [asked(5, shown("?", data(PNG)))])
    with pytest.raises(DataError, match="which a judge does not see"):
        of_golden_set("production@1", None, SuiteContext(folder=tmp_path / "alone"), chat=True)
