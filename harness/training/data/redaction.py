"""Personal data and secrets in text: found by pattern and, where there is one, by checksum; named, never shown.

The patterns are bounded: each starts only where a token starts, every repetition has an upper limit, and the long ones
are possessive, so that no text takes more than a constant number of steps a character. What they find is what is
written in a usual form. They cannot know names, places or birthdays; Presidio (`presidio.py`) looks for those.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """A find: `text[start:end]` is of `kind`."""

    start: int
    end: int
    kind: str


Finder = Callable[[str], Iterable[Span]]


def find(text: str, more: Sequence[Finder] = ()) -> list[Span]:
    """What is in a text, without overlaps, in order; a surer kind outranks a vaguer one. `more` come last."""
    digits = _DIGITS.search(text) is not None
    taken = _Taken(len(text))
    for detector in _DETECTORS:
        if any(need in text for need in detector.needs) or (not detector.needs and digits):
            for match in detector.pattern.finditer(text):
                where = detector.accept(match)
                if where is not None:
                    taken.add(Span(*where, detector.kind))
    for finder in more:
        for span in finder(text):
            taken.add(span)
    return sorted(taken.spans)


def redact(text: str, more: Sequence[Finder] = ()) -> tuple[str, Counter[str]]:
    """The text with `<KIND>` in place of every find, and how many there were of each kind.

    Repeated until nothing is found (a second look is nearly always the last, and there are eight at most), since what
    stood next to a find can be one itself: redacting twice changes nothing more, as far as the built-in patterns go.
    `more` look once, at the original.
    """
    counts: Counter[str] = Counter()
    spans = find(text, more)
    for _ in range(_LOOKS):
        if not spans:
            break
        counts.update(span.kind for span in spans)
        text = _replaced(text, spans)
        spans = find(text)
    return text, counts


class _Taken:
    """Spans that do not overlap; a byte for each character of the text, so that a question takes no search."""

    def __init__(self, length: int) -> None:
        self.spans: list[Span] = []
        self._length, self._marks = length, bytearray()

    def add(self, span: Span) -> None:
        """Add a span unless it is empty or overlaps with one before it."""
        self._marks = self._marks or bytearray(self._length)
        if span.start < span.end and self._marks.find(1, span.start, span.end) < 0:
            self._marks[span.start : span.end] = b"\1" * (span.end - span.start)
            self.spans.append(span)


def _replaced(text: str, spans: Sequence[Span]) -> str:
    pieces, end = [], 0
    for span in spans:
        pieces += [text[end : span.start], f"<{span.kind.upper()}>"]
        end = span.end
    return "".join([*pieces, text[end:]])


# ---------------------------------------------------------------- what a match has to be besides


Bounds = tuple[int, int]


def _whole(match: re.Match[str]) -> Bounds:
    return match.span()


def _iban(match: re.Match[str]) -> Bounds | None:
    """ISO 13616: the length of its country, and 1 modulo 97 once the first four characters come last."""
    start, candidate = match.start(1), match[1]
    end = _cut(candidate, _IBAN_LENGTHS.get(candidate[:2], 0))
    if not end or match.string[start + end : start + end + 1].isalnum():
        return None
    compact = candidate[:end].replace(" ", "")
    number = "".join(str(int(c, 36)) for c in compact[4:] + compact[:4])
    return (start, start + end) if int(number) % 97 == 1 else None


def _card(match: re.Match[str]) -> Bounds | None:
    """A number of an issuer's range and length with a valid Luhn digit (ISO/IEC 7812)."""
    start, candidate = match.start(1), match[1]
    ends = [index for index, character in enumerate(candidate, 1) if character.isdigit()]
    number = "".join(c for c in candidate if c.isdigit())
    for issuer, lengths in _ISSUERS:
        for length in lengths if issuer.match(number) else ():
            if length <= len(ends) and _luhn(number[:length]):
                end = start + ends[length - 1]
                if not match.string[end : end + 1].isalnum():
                    return start, end
    return None


def _cut(candidate: str, length: int) -> int:
    """Where the first `length` characters that are no separators end, or 0."""
    count = 0
    for index, character in enumerate(candidate, 1):
        count += character not in " -"
        if count == length:
            return index
    return 0


def _luhn(number: str) -> bool:
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(number)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _address(match: re.Match[str]) -> Bounds | None:
    """An IP address that can be somebody's; in version 6 one with a digit, since `add::bed` is rather a name."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return None
    groups = [group for group in match[0].split(":") if group]
    named = address.version == 6 and not (re.search("[0-9]", match[0]) and (len(groups) > 2 or len(groups[0]) == 4))
    nobody = address.is_loopback or address.is_unspecified or address.is_multicast or match[0].startswith("255.")
    return None if named or nobody else match.span()


def _phone(match: re.Match[str]) -> Bounds | None:
    """E.164 has at most 15 digits; a national number with its separators 9 to 12."""
    count = sum(c.isdigit() for c in match[0])
    return match.span() if (8 <= count <= 15 if match[0].startswith("+") else 9 <= count <= 12) else None


def _assigned(match: re.Match[str]) -> Bounds | None:
    """A value of letters and digits that looks random: at least 2.75 bits of entropy a character."""
    value = match["value"]
    mixed = re.search("[0-9]", value) and re.search("[A-Za-z]", value)
    return match.span("value") if mixed and _entropy(value) >= 2.75 else None


def _entropy(text: str) -> float:
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares)


# ---------------------------------------------------------------- patterns, the surest first


@dataclass(frozen=True, slots=True)
class _Detector:
    """`needs`: one of these is in any text with a match; none: six digits or separators in a row are."""

    kind: str
    pattern: re.Pattern[str]
    accept: Callable[[re.Match[str]], Bounds | None] = _whole
    needs: tuple[str, ...] = ()


_LOOKS = 8
_DIGITS = re.compile(r"[0-9][0-9 ().:/A-Fa-f-]{5}")
_ISSUERS = (
    (re.compile("3[47]"), (15,)),
    (re.compile("4"), (19, 16, 13)),
    (re.compile("5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|35"), (16,)),
    (re.compile("6(?:011|5|4[4-9]|2)"), (19, 18, 17, 16)),
    (re.compile("3(?:0[0-5]|[68])"), (14,)),
)
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "NO", "16": "BE", "18": "DK FI FO GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV", "22": "BG BH CR DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ DZ ES MD PK RO SA SE SK TN VG", "25": "LY PT ST", "26": "IS TR",
        "27": "BI DJ FR GR IT MC MR SM", "28": "AL AZ BY CY DO GT HN HU LB NI PL SV", "29": "BR EG PS QA UA",
        "30": "JO KW MU YE", "31": "MT SC", "32": "LC", "33": "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_PREFIXES = "sk-", "AIza", "hf_", "glpat-", "sk_live_", "rk_live_", "npm_"

_DETECTORS = (
    _Detector(
        "private_key",
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:(?:[^-]|-(?!----)){0,16384}+"
            r"-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s]{0,16384}+)"
        ),
        needs=("PRIVATE KEY",),
    ),
    _Detector(
        "jwt",
        re.compile(r"(?<![\w.-])eyJ[\w-]{8,4096}+\.eyJ[\w-]{8,8192}+\.[\w-]{8,2048}+(?![\w-])"),
        needs=("eyJ",),
    ),
    _Detector(
        "aws_key",
        re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])"),
        needs=("AKIA", "ASIA"),
    ),
    _Detector(
        "github_token",
        re.compile(r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,255}+|github_pat_\w{22,255}+)(?!\w)"),
        needs=("gh", "github_pat_"),
    ),
    _Detector("slack_token", re.compile(r"(?<![A-Za-z0-9])xox[a-z]-[A-Za-z0-9-]{10,250}+(?!\w)"), needs=("xox",)),
    _Detector(
        "api_key",
        re.compile(
            r"(?<![A-Za-z0-9])(?:sk-(?=[\w-]{0,200}[0-9])[\w-]{20,200}+|AIza[\w-]{35}|hf_[A-Za-z0-9]{30,60}+"
            r"|glpat-[\w-]{20,60}+|[sr]k_live_[A-Za-z0-9]{16,200}+|npm_[A-Za-z0-9]{36})(?![\w-])"
        ),
        needs=_PREFIXES,
    ),
    _Detector(
        "email",
        re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}+@(?:[\w-]{1,63}+\.){1,8}[A-Za-z]{2,24}(?![\w-])"),
        needs=("@",),
    ),
    _Detector("iban", re.compile(r"(?<![A-Za-z0-9])(?=([A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}+))"), _iban),
    _Detector("credit_card", re.compile(r"(?<![\w.])(?=([2-6](?:[ -]?[0-9]){12,18}+))"), _card),
    _Detector(
        "ssn",
        re.compile(r"(?<![\w-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![\w-])"),
    ),
    _Detector(
        "ip",
        re.compile(
            r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}"
            r"(?:(?<=:)(?:[0-9]{1,3}\.){3}[0-9]{1,3})?(?!\.?[\w:])"
        ),
        _address,
        needs=(":",),
    ),
    _Detector("ip", re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\.?\w)"), _address),
    _Detector(
        "secret",
        re.compile(
            r"(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|credential)"
            r"[\w-]{0,32}+[\"']?\s{0,4}(?::=|=>|[:=])\s{0,4}[\"']?(?P<value>[\w+/=!@#$%^&*.~-]{8,256}+)(?![\w+/=!@#$%^&*.~-])",
            re.IGNORECASE,
        ),
        _assigned,
        needs=("=", ":"),
    ),
    _Detector(
        "phone",
        re.compile(
            r"(?<![\w.+/-])(?:\+[0-9]{1,3}(?:[ .()/-]{0,2}[0-9]){6,13}"
            r"|\(?[2-9][0-9]{2}\)?[ .-]{1,2}[0-9]{3}[ .-][0-9]{4}"
            r"|0[0-9]{1,4}[ /-][0-9]{3,4}[ -]?[0-9]{2,5})(?![\w-])"
        ),
        _phone,
    ),
)  # fmt: skip
