"""What a manifest says about a run, found by the names that reports know; anything else is shown as it is.

Known names: `run_id`, `baseline` and `candidate` (a text, or a mapping with `name`, `path` and `fingerprint`),
`base`, `adapter`, `golden_lock`, `suites`, `policy`, `seed`, `harness`, `command` (what to type to get the same
verdict). All are optional, and a mapping without a fingerprint of its own is named by the hash of its content.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.records import content_hash
from harness.report._text import one_line, without_secrets

_LABELS = {
    "baseline": "Baseline",
    "candidate": "Candidate",
    "base": "Base",
    "adapter": "Adapter",
    "golden_lock": "Golden lock",
    "suites": "Suites",
    "policy": "Policy",
    "seed": "Seed",
    "run_id": "Run",
    "harness": "Harness",
}
_NAMES = ("name", "path", "model", "id")
_HASHES = ("fingerprint", "sha256", "hash", "digest")
_HEX = re.compile(r"(?:sha256:)?([0-9a-f]{16,})\Z")


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of what was compared: a name, a shortened hash, or both; `full` is the hash unshortened."""

    label: str
    name: str = ""
    short: str = ""
    full: str = ""


def facts(manifest: Mapping[str, Any]) -> list[Fact]:
    """The facts that identify a run, in reading order."""
    safe = without_secrets(manifest)
    return [_fact(label, safe[key]) for key, label in _LABELS.items() if safe.get(key) not in (None, "", {}, [])]


def command(manifest: Mapping[str, Any]) -> str:
    """What to type to get the same verdict again, on one line."""
    given = without_secrets(manifest).get("command") or "harness gate gate.yaml"
    text = shlex.join(str(part) for part in given) if isinstance(given, list) else str(given)
    return one_line(text, 400)


def _fact(label: str, value: Any) -> Fact:
    if isinstance(value, Mapping):
        name = _first(value, _NAMES)
        full = _first(value, _HASHES) or content_hash(value)
        return Fact(label, one_line(name, 120), _shortened(full), one_line(full, 80))
    text = str(value)
    if _HEX.match(text):
        return Fact(label, "", _shortened(text), one_line(text, 80))
    return Fact(label, one_line(text, 120))


def _first(value: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((str(value[key]) for key in keys if value.get(key)), "")


def _shortened(text: str) -> str:
    found = _HEX.match(text)
    return found.group(1)[:12] if found else one_line(text, 24)
