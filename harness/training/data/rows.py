"""A row in the normal form: the text in it, what tells it from another, and its hash."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.training.data.reading import Origin
from harness.training.objectives import Row, RowKind

_KEPT = ("role", "label")  # never text that is learned as such
_SPACE = re.compile(r"\s+")


@dataclass(slots=True)
class Item:
    """A row with where it is from; `source` is the number of its source, those of the replay after the others."""

    row: dict[str, Any]
    origin: Origin
    source: int


def strings(value: Any) -> Iterator[str]:
    """Every text in a row or in a part of it, in order, without roles and labels."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in _KEPT:
                yield from strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a row, or of a part of it, with every text that `strings` yields changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {k: v if k in _KEPT else map_strings(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [map_strings(inner, change) for inner in value]
    return value


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal for equal rows only."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def digest(row: Row) -> bytes:
    """16 bytes that identify a row by its content, wherever it stands."""
    return hashlib.blake2b(canonical(row).encode(), digest_size=16).digest()


def sha256(rows: Sequence[Row]) -> str:
    """SHA-256 (hex) of rows in their order, a line of canonical JSON each."""
    total = hashlib.sha256()
    for row in rows:
        total.update(canonical(row).encode() + b"\n")
    return total.hexdigest()


def normalised(text: str) -> str:
    """Unicode composed, white space collapsed. Case and punctuation stay: they can be all that a row teaches."""
    return _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()


def label(kind: RowKind, row: Row) -> str:
    """What may differ between two rows of the same text, so that neither is a duplicate; they contradict each other.

    For preference rows it says which of the two answers was chosen; most kinds have no label.
    """
    if kind == "preference":
        return str(canonical(row["chosen"]) < canonical(row["rejected"]))
    return str(row["label"]) if kind in ("labelled", "class") else ""


def identity(kind: RowKind, row: Row) -> bytes:
    """16 bytes of the normalised text, label aside: equal for exact duplicates and for rows that contradict."""
    parts = [_normal_part(part) for part in _parts(kind, row)]
    return hashlib.blake2b(canonical(parts).encode(), digest_size=16).digest()


def compared_text(kind: RowKind, row: Row) -> str:
    """What near-duplicates are judged by: all text but system turns, which whole sources share."""
    parts = _parts(kind, row)
    texts = [text for part in parts for text in _without_system(part)]
    return "\n".join(texts) or "\n".join(strings(parts))


def _parts(kind: RowKind, row: Row) -> list[Any]:
    if kind == "preference":
        return [row["prompt"], *sorted((row["chosen"], row["rejected"]), key=canonical)]
    if kind == "prompt":
        return [row["prompt"]]
    return [value for name, value in row.items() if name != "label"]


def _normal_part(part: Any) -> Any:
    if isinstance(part, str):
        return normalised(part)
    if isinstance(part, dict):
        return {key: _normal_part(value) for key, value in part.items()}
    return [_normal_part(inner) for inner in part] if isinstance(part, list | tuple) else part


def _without_system(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for turn in part:
            if not (isinstance(turn, dict) and turn.get("role") == "system"):
                yield from strings(turn)
    else:
        yield from strings(part)
