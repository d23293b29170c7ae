"""Fetches a picture from a host that is allowed by name, within bounds, and from nowhere else

An address in a trace was written by whoever wrote the trace, and this machine stands where they do not. So a host must
be named exactly, its certificate must be its own, and every address that its name stands for must be a public one; the
connection goes to the address that was looked at, so that the name cannot come to mean another in between. A redirect
is followed to the same host alone. Nothing of this machine goes along: no cookie, no login, no proxy.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from harness.errors import ConfigError

_LONGEST = 8192  # characters of an address
_REDIRECTS = 3
_VISIBLE = re.compile(r"[^\x00-\x20\x7f\\]+")  # what urlsplit would silently drop, or read in two ways, is no address
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")
_KEPT = "%/:=&?~+!$,;'@()*[]"
_EMBEDDING = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")))
"""IPv6 networks whose addresses stand for IPv4 ones, private ones too."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotFetched(Exception):
    """There is no picture; the text says why, in words that are counted and hold nothing of the address."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host that may be asked, by https; one of this machine also by http. A port of None is the scheme's own."""

    name: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Host:
        """From `cdn.example.com`, `cdn.example.com:8443`, `127.0.0.1:8000` or `[::1]:8000`.

        Raises:
            ConfigError: it is an address with more than that, or a pattern.
        """
        parts = _split(f"//{text}")
        name = _ascii(parts.hostname or "") if parts is not None else ""
        written = parts is not None and parts.netloc == text and not parts.username and not text.endswith(":")
        if not written or parts is None or not (_NAME.fullmatch(name) or _literal(name)):
            raise ConfigError(
                f"--allow-images {text[:200]!r} is no host; name each exactly, as cdn.example.com or 127.0.0.1:8000"
            )
        return cls(name, parts.port)

    @property
    def loopback(self) -> bool:
        """Whether it is this machine, by a name that cannot mean another."""
        address = _literal(self.name)
        return self.name == "localhost" if address is None else address.is_loopback

    def takes(self, url: SplitResult) -> bool:
        """Whether an address is of this host."""
        return _ascii(url.hostname or "") == self.name and _port(url) == (self.port or _usual(url.scheme))


@dataclass(slots=True)
class Fetcher:
    """Fetches from hosts that are allowed.

    `most_bytes` bounds a picture and `seconds` the time that it may take, redirects included. A host that did not
    answer `most_silent` times in a row is not asked any more. Names are looked up for as long as the system does that.
    """

    hosts: tuple[Host, ...]
    most_bytes: int
    seconds: float = 10.0
    most_silent: int = 5
    _silent: dict[Host, int] = field(default_factory=dict)

    def get(self, address: str) -> bytes:
        """What is at an address, not yet known to be a picture.

        Raises:
            NotFetched: it may not be fetched, or could not be.
        """
        url = _split(address)
        host = next((h for h in self.hosts if url is not None and h.takes(url)), None)
        if url is None or host is None:
            raise NotFetched("its host is not allowed")
        if self._silent.get(host, 0) >= self.most_silent:
            raise NotFetched("its host does not answer")
        end = time.monotonic() + self.seconds
        for _ in range(_REDIRECTS + 1):
            try:
                found = _exchange(host, url, end, self.most_bytes)
            except (OSError, http.client.HTTPException) as error:
                self._silent[host] = self._silent.get(host, 0) + 1
                raise NotFetched(_why(error, end)) from None
            self._silent[host] = 0
            if isinstance(found, bytes):
                return found
            url = _within(url, found)
        raise NotFetched("it leads on and on")


def hosts_of(named: Iterable[str]) -> tuple[Host, ...]:
    """The hosts that are allowed.

    Raises:
        ConfigError: one is no host.
    """
    return tuple(dict.fromkeys(map(Host.parse, named)))


# ---------------------------------------------------------------- addresses


def _split(address: str) -> SplitResult | None:
    """An address in its parts; None where it is none, or says a login."""
    if len(address) > _LONGEST or not _VISIBLE.fullmatch(address):
        return None
    try:
        address.encode()
        parts = urlsplit(address)
        return parts if parts.hostname and parts.port != 0 and "@" not in parts.netloc else None
    except ValueError:
        return None


def _within(url: SplitResult, location: str) -> SplitResult:
    """Where a redirect leads, within the same host.

    Raises:
        NotFetched: to another host, port or scheme, or nowhere.
    """
    try:
        there = _split(urljoin(url.geturl(), location))
    except ValueError:
        there = None
    if there is None or (there.scheme, there.hostname, _port(there)) != (url.scheme, url.hostname, _port(url)):
        raise NotFetched("it leads elsewhere")
    return there


def _port(url: SplitResult) -> int:
    return url.port or _usual(url.scheme)


def _usual(scheme: str) -> int:
    return 80 if scheme == "http" else 443


def _ascii(name: str) -> str:
    try:
        return name.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return ""


def _literal(name: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _public(address: IPAddress) -> bool:
    """Whether it is an address of the internet, by itself and in what it may stand for."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        if inner is not None or any(address in network for network in _EMBEDDING):
            return inner is not None and _public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _resolved(host: Host, port: int) -> list[str]:
    """The addresses of a host, all of which may be asked.

    Raises:
        NotFetched: it has none, or one that is not public (of this machine, for a host that is).
    """
    try:
        found = socket.getaddrinfo(host.name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotFetched("its host is not known") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in addresses:
        address = _literal(text.partition("%")[0])
        fine = address is not None and (address.is_loopback if host.loopback else _public(address))
        if not fine:
            raise NotFetched("its host has a private address")
    return addresses


# ---------------------------------------------------------------- one exchange


def _exchange(host: Host, url: SplitResult, end: float, most: int) -> bytes | str:
    """What a host answers: content, or where it says that this is.

    Raises:
        NotFetched, OSError, http.client.HTTPException: there is none.
    """
    if url.scheme != "https" and not (url.scheme == "http" and host.loopback):
        raise NotFetched("its address is not https")
    with _connected(host, url, end) as connection:
        target = quote(url.path or "/", safe=_KEPT) + (f"?{quote(url.query, safe=_KEPT)}" if url.query else "")
        shown = f"[{host.name}]" if ":" in host.name else host.name
        headers = {"Host": f"{shown}:{url.port}" if url.port else shown, "User-Agent": "harness",
                   "Accept": "image/png, image/jpeg, image/gif, image/webp", "Accept-Encoding": "identity",
                   "Connection": "close"}  # fmt: skip
        connection.request("GET", target, headers=headers)
        with contextlib.closing(connection.getresponse()) as response:
            if response.status in (301, 302, 303, 307, 308):
                return response.getheader("Location", "")
            content = _content(response, most)
        if time.monotonic() >= end:  # without a length, what was cut off looks whole
            raise TimeoutError
        return content


def _content(response: http.client.HTTPResponse, most: int) -> bytes:
    if response.status != 200:
        raise NotFetched(f"the answer was {response.status}")
    if not response.getheader("Content-Type", "").strip().lower().startswith("image/"):
        raise NotFetched("it is no picture")
    if response.getheader("Content-Encoding", "identity").strip().lower() != "identity":
        raise NotFetched("it came packed")
    content = b"" if (response.length or 0) > most else response.read(most + 1)
    if (response.length or 0) > most or len(content) > most:
        raise NotFetched("it is too large")
    if response.length:
        raise http.client.IncompleteRead(content, response.length)
    return content


@contextlib.contextmanager
def _connected(host: Host, url: SplitResult, end: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to an address that was looked at. It is cut at the time `end`, whatever is under way on it."""
    port = _port(url)
    plain = _first_that_answers(_resolved(host, port), port, end)
    held = [plain]
    watchdog = threading.Timer(max(0.0, end - time.monotonic()), _cut, (held,))
    watchdog.daemon = True
    watchdog.start()
    try:
        if url.scheme == "https":
            context = ssl.create_default_context()
            held[0] = context.wrap_socket(plain, server_hostname=host.name, do_handshake_on_connect=False)
            held[0].do_handshake()  # type: ignore[attr-defined]
        connection = http.client.HTTPConnection(host.name, port)
        connection.sock = held[0]
        yield connection
    finally:
        watchdog.cancel()
        held[0].close()


def _first_that_answers(addresses: list[str], port: int, end: float) -> socket.socket:
    error: OSError = TimeoutError()
    for address in addresses:
        left = end - time.monotonic()
        if left <= 0:
            break
        try:
            return socket.create_connection((address, port), left)
        except OSError as problem:
            error = problem
    raise error


def _cut(held: list[socket.socket]) -> None:
    with contextlib.suppress(OSError):
        held[0].shutdown(socket.SHUT_RDWR)


def _why(error: Exception, end: float) -> str:
    if isinstance(error, TimeoutError) or time.monotonic() >= end:
        return "it did not come in time"
    return "its host has no valid certificate" if isinstance(error, ssl.SSLError) else "the connection failed"
