"""The patterns of personal data and secrets, the surest first, and what a match has to be besides

Formats of tokens are those that their providers publish or that secret scanners agree on (GitHub's secret scanning
patterns, detect-secrets, gitleaks); checks are those of the standards that each function names.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

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
    return match.span("value") if looks_random(match["value"]) else None


def looks_random(value: str) -> bool:
    """Letters and digits, with at least 2.75 bits of entropy a character."""
    mixed = re.search("[0-9]", value) and re.search("[A-Za-z]", value)
    return bool(mixed) and _entropy(value) >= 2.75


def _authorization(match: re.Match[str]) -> Bounds | None:
    """A credential of RFC 9110: behind a header's name any; behind a bare scheme one that is no word."""
    value = match["value"]
    if match["header"]:
        return match.span("value")
    real = _is_basic(value) if match["scheme"].lower() == "basic" else looks_random(value)
    return match.span("value") if real and len(value) >= 8 else None


def _is_basic(value: str) -> bool:
    """RFC 7617: base64 of `user:password`."""
    try:
        return b":" in base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False


def _entropy(text: str) -> float:
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares)


# ---------------------------------------------------------------- patterns, the surest first


@dataclass(frozen=True, slots=True)
class Detector:
    """A kind, the place (`_places.py`) in which its pattern can match, and what a match has to be besides."""

    kind: str
    place: str
    pattern: re.Pattern[str]
    accept: Callable[[re.Match[str]], Bounds | None] = _whole


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
_SENSITIVE = r"(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|credential)"
_VALUE = r"[\w+/=!@#$%^&*.~-]"
SECRET_NAME = re.compile(_SENSITIVE + r"[\w-]{0,32}$", re.IGNORECASE)
SECRET_VALUE = re.compile(_VALUE + "{8,256}+")

# Prefixes that say whose a token is, by the alphabet; `sk-` is that of OpenAI, Anthropic and many more.
_API_KEYS = (
    r"AIza[\w-]{35}",  # Google
    r"(?:AC|SK)[0-9a-f]{32}",  # Twilio
    r"dapi[0-9a-f]{32}",  # Databricks
    r"do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean
    r"GOCSPX-[\w-]{28}",  # Google OAuth client
    r"gsk_[A-Za-z0-9]{40,80}+",  # Groq
    r"hf_[A-Za-z0-9]{30,60}+",  # Hugging Face
    r"lsv2_[ps][tk]_[0-9a-f]{32}_[0-9a-f]{10}",  # LangSmith
    r"npm_[A-Za-z0-9]{36}",
    r"pcsk_[A-Za-z0-9_]{50,100}+",  # Pinecone
    r"pplx-[A-Za-z0-9]{40,64}+",  # Perplexity
    r"pypi-AgEI[\w-]{50,300}+",
    r"r8_[A-Za-z0-9]{30,50}+",  # Replicate
    r"SG\.[\w-]{16,32}\.[\w-]{32,64}+",  # SendGrid
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",  # Shopify
    r"sk-(?=[\w-]{0,200}[0-9])[\w-]{20,200}+",
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,200}+",  # Stripe
    r"whsec_[A-Za-z0-9+/=]{24,100}+",  # Stripe and Svix webhooks
    r"xai-[A-Za-z0-9]{40,100}+",
    r"ya29\.[\w-]{20,400}+",  # Google OAuth access
)

DETECTORS = (
    Detector(
        "private_key",
        "pem",
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:(?:[^-]|-(?!----)){0,16384}+"
            r"-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s]{0,16384}+)"
        ),
    ),
    Detector(
        "jwt",
        "runs",
        re.compile(r"(?<![\w.-])eyJ[\w-]{8,4096}+\.eyJ[\w-]{8,8192}+\.[\w-]{8,2048}+(?![\w-])"),
    ),
    Detector(
        "aws_key", "runs", re.compile(r"(?<![A-Za-z0-9])(?:A3T[0-9A-Z]|AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![A-Za-z0-9])")
    ),
    Detector("azure_key", "runs", re.compile(r"(?<![\w~.-])[\w~.-]{3}[0-9]Q~[\w~.-]{31,34}(?![\w~-])")),
    Detector(
        "azure_key",
        "words",
        re.compile(
            r"(?:(?<=AccountKey=)[A-Za-z0-9+/]{86}==|(?<=AccessKey=)[A-Za-z0-9+/]{43}="
            r"|(?<=[?&]sig=)[A-Za-z0-9%+/]{40,64}(?:%3D|=))(?![\w=])"
        ),
    ),
    Detector(
        "github_token",
        "runs",
        re.compile(r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,255}+|github_pat_\w{22,255}+)(?!\w)"),
    ),
    Detector(
        "gitlab_token",
        "runs",
        re.compile(r"(?<![A-Za-z0-9])gl(?:pat|rt|dt|ptt|cbt|oas|soat|agent|imt|ft|ffct)-[\w-]{20,80}+(?![\w-])"),
    ),
    Detector(
        "slack_token",
        "runs",
        re.compile(
            r"(?<![A-Za-z0-9])(?:xox[a-z]-[A-Za-z0-9-]{10,250}+|xapp-[0-9]-[A-Za-z0-9-]{10,250}+)(?!\w)"
            r"|(?<=hooks\.slack\.com/services/)[A-Z0-9]{6,16}/[A-Z0-9]{6,16}/[A-Za-z0-9]{16,40}"
        ),
    ),
    Detector("api_key", "runs", re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_API_KEYS)})(?![\w-])")),
    Detector(
        "authorization",
        "words",
        re.compile(
            r"(?<![\w-])(?P<header>(?:proxy-)?authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?)?"
            r"(?P<scheme>(?:bearer|basic|token|apikey|digest)\s{1,4})(?P<value>[\w.~+/=-]{6,4096}+)",
            re.IGNORECASE,
        ),
        _authorization,
    ),
    Detector(
        "url_credentials",
        "at",
        re.compile(r"(?<=://)[^\s/:@<>\"']{0,128}+:[^\s/@<>\"']{1,256}+(?=@)"),
    ),
    Detector(
        "email",
        "at",
        re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}+@(?:[\w-]{1,63}+\.){1,8}[A-Za-z]{2,24}(?![\w-])"),
    ),
    Detector("iban", "digits", re.compile(r"(?<![A-Za-z0-9])(?=([A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}+))"), _iban),
    Detector("credit_card", "digits", re.compile(r"(?<![\w.])(?=([2-6](?:[ -]?[0-9]){12,18}+))"), _card),
    Detector(
        "ssn",
        "digits",
        re.compile(r"(?<![\w-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![\w-])"),
    ),
    Detector(
        "ip",
        "colons",
        re.compile(
            r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}"
            r"(?:(?<=:)(?:[0-9]{1,3}\.){3}[0-9]{1,3})?(?!\.?[\w:])"
        ),
        _address,
    ),
    Detector("ip", "dots", re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\.?\w)"), _address),
    Detector(
        "secret",
        "words",
        re.compile(
            _SENSITIVE + r"[\w-]{0,32}+[\"']?\s{0,4}(?::=|=>|[:=])\s{0,4}[\"']?"
            rf"(?P<value>{_VALUE}{{8,256}}+)(?!{_VALUE})",
            re.IGNORECASE,
        ),
        _assigned,
    ),
    Detector(
        "phone",
        "digits",
        re.compile(
            r"(?<![\w.+/-])(?:\+[0-9]{1,3}(?:[ .()/-]{0,2}[0-9]){6,13}"
            r"|\(?[2-9][0-9]{2}\)?[ .-]{1,2}[0-9]{3}[ .-][0-9]{4}"
            r"|(?<![0-9][ -])(?:\(0[0-9]{1,4}\)|0[0-9]{1,4})[ /-][0-9]{3,4}[ -]?[0-9]{2,5}"
            r"|(?<![0-9][ -])0[1-9](?:[ .-][0-9]{2}){4})(?![\w-])(?![ -][0-9])"
        ),
        _phone,
    ),
)
