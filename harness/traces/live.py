"""The live page of receiver and mirror: drawn by the server, readable without JavaScript, and only for who may see it

Every text goes through the template's escaping, as text. A content security policy lets one style sheet and one script
in, by their hashes; the script asks this server for the page again and puts the new `main` in the place of the old. In
a browser the token is the password of HTTP's basic authentication, which needs no script and no cookie.
"""

from __future__ import annotations

import base64
import ipaddress
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from harness.report._text import clipped, one_line
from harness.report.html import asset, content_security_policy, environment

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_TEXT = 4000
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 520.0, 190.0, 46.0, 22.0
_WIDE, _LOW = 1040.0, 100.0
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_NO_SITES = (".localhost", ".internal")  # reserved, so that no public name ends so; containers call their host by one


@dataclass(frozen=True, slots=True)
class Series:
    """A confidence sequence: (sessions, difference, low, high) in the unit shown, and the threshold to be cleared."""

    points: Sequence[tuple[float, float, float, float]]
    threshold: float
    unit: str


@dataclass(frozen=True, slots=True)
class Row:
    """One guard in words."""

    label: str
    standing: str
    outcome: str
    outcome_word: str
    baseline: str
    candidate: str
    difference: str
    interval: str
    margin: str
    used: str
    remark: str = ""
    series: Series | None = None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two answers to one request; the texts are redacted."""

    when: str
    metrics: str
    run_id: str
    asked: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page. The first column is a heading, the others are numbers or words."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    intro: str = ""
    empty: str = "Nothing yet."


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page shows. `decision` is empty where nothing is compared."""

    title: str
    when: str
    facts: Sequence[tuple[str, str]]
    decision: str = ""
    headline: str = ""
    reasons: Sequence[str] = ()
    checks: Sequence[tuple[str, bool, str]] = ()
    rows: Sequence[Row] = ()
    minutes: Sequence[tuple[str, int, int]] = ()
    tables: Sequence[Table] = ()
    disagreements: Sequence[Disagreement] | None = None
    left: str = "Champion"
    right: str = "Candidate"
    seconds: int = 5
    notes: Sequence[str] = field(default=())


def render(page: Page) -> tuple[str, str]:
    """The document and the Content-Security-Policy that it is sent with."""
    style, script = asset("report.css") + asset("live.css"), asset("live.js")
    html = (
        environment()
        .get_template("live.html.j2")
        .render(
            page=page,
            bars=_bars(page.minutes),
            charts=[(row, _chart(row.series)) for row in page.rows if row.series is not None and row.series.points],
            shown=[_shown(d) for d in page.disagreements or ()],
            line=lambda text: one_line(str(text), 600),
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704
        )
    )
    return html, content_security_policy(style, script) + "; connect-src 'self'; frame-ancestors 'none'"


# ---------------------------------------------------------------- pictures


def _bars(minutes: Sequence[tuple[str, int, int]]) -> dict[str, Any] | None:
    """Traffic by minute: (label, compared or taken, not) as stacked bars."""
    most = max((a + b for _, a, b in minutes), default=0)
    if not most:
        return None
    width, room = _WIDE / len(minutes), _LOW - 1
    bars = []
    for index, (label, first, second) in enumerate(minutes):
        low, high = room * first / most, room * second / most
        bars.append({
            "x": index * width + 0.5, "width": max(width - 1, 1), "first": low, "second": high,
            "y": room - low, "top": room - low - high, "label": label, "n": first, "rest": second,
        })  # fmt: skip
    return {"bars": bars, "most": f"{most:,}", "width": _WIDE, "height": _LOW, "base": room,
            "from": minutes[0][0], "to": minutes[-1][0]}  # fmt: skip


def _chart(series: Series | None) -> dict[str, Any]:
    """The interval as a band over the number of sessions, with the threshold; both axes are linear."""
    assert series is not None  # noqa: S101 - asked before
    points = series.points
    # What the beginning did not know would flatten all that came after, so the scale is that of the later half.
    later = points[len(points) // 2 :]
    low, high = min(series.threshold, *(p[2] for p in later)), max(0.0, *(p[3] for p in later))
    pad = 0.08 * (high - low or 1.0)
    low, high = low - pad, high + pad
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    across, down = _WIDTH - _LEFT - 8, _HEIGHT - _BOTTOM - 6

    def place(n: float, value: float) -> tuple[float, float]:
        inside = min(max(value, low), high)
        return (
            round(_LEFT + across * (n - first) / (last - first), 1),
            round(6 + down * (high - inside) / (high - low), 1),
        )

    upper, lower = [place(p[0], p[3]) for p in points], [place(p[0], p[2]) for p in points]
    line = [place(p[0], p[1]) for p in points]
    ticks = [(place(first, v)[1], f"{v:+.{_digits(high - low)}f}".replace("-", "−")) for v in _ticks(low, high)]
    return {
        "band": _path([*upper, *lower[::-1]]), "line": _path(line), "width": _WIDTH, "height": _HEIGHT, "ticks": ticks,
        "threshold": place(first, series.threshold)[1], "zero": place(first, 0.0)[1], "left": _LEFT,
        "right": _WIDTH - 8,
        "from": f"{int(first):,}", "to": f"{int(points[-1][0]):,} sessions", "last": line[-1], "unit": series.unit,
    }  # fmt: skip


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if (high - low) / s <= 6)
    start = math.ceil(low / step)
    return [step * i for i in range(start, math.floor(high / step) + 1)]


def _digits(span: float) -> int:
    return 0 if span > 8 else 1 if span > 0.8 else 2 if span > 0.08 else 3


def _shown(d: Disagreement) -> dict[str, str]:
    return {
        "when": d.when, "metrics": one_line(d.metrics, 200), "run_id": one_line(d.run_id, 64),
        "asked": clipped(d.asked, _TEXT), "left": clipped(d.left, _TEXT), "right": clipped(d.right, _TEXT),
    }  # fmt: skip


# ---------------------------------------------------------------- who may see it, and how it is sent

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def response(html: str | bytes, policy: str) -> Response:
    """The page as it is sent."""
    from starlette.responses import Response

    headers = {**_HEADERS, "Content-Security-Policy": policy}
    return Response(html, 200, headers, "text/html; charset=utf-8")


def locked() -> Response:
    """The answer to who has not said a token; a browser asks its user for one, as the password."""
    from starlette.responses import Response

    headers = {**_HEADERS, "WWW-Authenticate": 'Basic realm="harness: any name, and a token as the password"'}
    return Response("send a token as bearer or as the password\n", 401, headers, "text/plain; charset=utf-8")


def token_of(request: Request) -> str:
    """The token of a request: a bearer, or the password of basic authentication; empty where there is none."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(given.strip(), validate=True).decode("utf-8").partition(":")[2]
    except ValueError:
        return ""


def same_machine(request: Request) -> bool:
    """Whether a request without a token names this machine: no other site's name can be made to point here."""
    return _name(request.headers) in _LOOPBACK and not page_elsewhere(request.headers)


def page_elsewhere(headers: Mapping[str, str]) -> bool:
    """Whether a page of another site asks, as its browser says, who has no token; headers by lower-case name.

    A site can have its own name point to this machine, and its pages are then of one origin with whatever listens here.
    So a host is an address, or a name that no site can have. Programs send neither Origin nor Sec-Fetch-Site.
    """
    name, origin = _name(headers), headers.get("origin")
    ours = "." not in name or name.endswith(_NO_SITES) or _is_address(name)
    foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    return not ours or foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _name(headers: Mapping[str, str]) -> str:
    """The host that a request names, without the port."""
    host = headers.get("host", "")
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
