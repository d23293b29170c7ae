"""Strata of stored calls: by model, use of tools, length, error, service, dialect, day, or a key of their metadata"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError, nearest

_MOST = 20  # values of one dimension; the rarer ones are one stratum together
_OTHER = "other"
_LONGEST = 60  # characters of a value in a tag
_METADATA = "metadata."
_KEY = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_DAY_NS = 86_400 * 10**9

Labels = tuple[NDArray[np.int64], list[str]]
"""For each call the index of its label, and the labels."""


def _words(column: str) -> Callable[[Any], Labels]:
    return lambda table: _of_words(table[column])


def _length(table: Any) -> Labels:
    edges = [3, 7, 15]
    codes = np.searchsorted(edges, table["n_messages"].to_numpy(), side="right")
    return codes.astype(np.int64), ["1–2 messages", "3–6 messages", "7–14 messages", "15 or more messages"]


def _flag(column: str, yes: str, no: str) -> Callable[[Any], Labels]:
    def labels(table: Any) -> Labels:
        values = table[column].to_numpy(zero_copy_only=False)
        return (values > 0 if column == "n_tools" else values != "").astype(np.int64), [no, yes]

    return labels


def _day(table: Any) -> Labels:
    days, codes = np.unique(table["start_ns"].to_numpy() // _DAY_NS, return_inverse=True)
    return codes.astype(np.int64), [str(np.datetime64(int(day), "D")) for day in days]


_DIMENSIONS: Mapping[str, Callable[[Any], Labels]] = {
    "model": _words("model"),
    "tools": _flag("n_tools", "with", "without"),
    "length": _length,
    "error": _flag("error", "failed", "answered"),
    "service": _words("service"),
    "dialect": _words("dialect"),
    "day": _day,
}
DEFAULT = ("model", "tools", "length", "error")


def columns_of(by: Sequence[str]) -> list[str]:
    """What has to be read for the dimensions beside the usual columns, in the store's own SQL.

    Raises:
        ConfigError: there is no such dimension, or a key of metadata holds other than letters, digits and `_.-`.
    """
    wanted = []
    for place, name in enumerate(by):
        key = name.removeprefix(_METADATA)
        if name in _DIMENSIONS:
            continue
        if key == name:
            known = [*_DIMENSIONS, f"{_METADATA}KEY"]
            raise ConfigError(f"--by {name}: {nearest(name, known)}; a key of the metadata is {_METADATA}KEY")
        if not _KEY.fullmatch(key):
            raise ConfigError(f"--by {name[:80]}: a key of the metadata is letters, digits, '_', '.' and '-'")
        # The key is of these letters only, so it can end neither the path nor the text around it.
        wanted.append(f"coalesce(json_extract_string(call, '$.metadata.\"{key}\"'), '') AS metadata_{place}")
    return wanted


class Strata:
    """`codes` holds each call's stratum, `labels` what a stratum is in each dimension."""

    def __init__(self, table: Any, by: Sequence[str]) -> None:
        self.by = tuple(by)
        self.codes = np.zeros(len(table), dtype=np.int64)
        self.labels: list[tuple[str, ...]] = [()]
        for place, name in enumerate(by):
            made = _DIMENSIONS.get(name) or _words(f"metadata_{place}")
            self._cross(*_bounded(*made(table)))

    def tags(self, code: int) -> list[str]:
        """A stratum as tags, one a dimension that tells calls apart: what is true of all of them is no slice."""
        told = zip(self.by, self.labels[code], zip(*self.labels, strict=True), strict=True)
        return [f"{name}: {label}" for name, label, every in told if len(set(every)) > 1]

    def name(self, code: int) -> str:
        """A stratum in words."""
        return ", ".join(self.tags(code)) or "all calls"

    def _cross(self, codes: NDArray[np.int64], labels: Sequence[str]) -> None:
        both = self.codes * len(labels) + codes
        present, self.codes = np.unique(both, return_inverse=True)
        self.labels = [(*self.labels[int(p) // len(labels)], labels[int(p) % len(labels)]) for p in present]


def _of_words(column: Any) -> Labels:
    encoded = column.combine_chunks().dictionary_encode()
    indices = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    return indices.astype(np.int64), [_shown(value) for value in encoded.dictionary.to_pylist()]


def _shown(value: str | None) -> str:
    """A value as part of a tag: it came from outside, and stands in reports."""
    text = " ".join((value or "").split())
    return text[:_LONGEST] if text and text.isprintable() else "none" if not text else _OTHER


def _bounded(codes: NDArray[np.int64], labels: Sequence[str]) -> Labels:
    """The frequent labels, equal ones together, and the rest as `other`."""
    if not len(codes):
        return codes, ["none"]
    counts = np.bincount(codes, minlength=len(labels))
    by_label: dict[str, int] = {}
    for label, count in zip(labels, counts, strict=True):
        by_label[label] = by_label.get(label, 0) + int(count)
    kept = sorted(by_label, key=lambda label: (-by_label[label], label))
    kept = kept if len(kept) <= _MOST else kept[: _MOST - 1]
    places = {label: place for place, label in enumerate(kept)}
    names = kept if len(places) == len(by_label) else [*kept, *([] if _OTHER in places else [_OTHER])]
    other = places.get(_OTHER, len(kept))
    return np.array([places.get(label, other) for label in labels], dtype=np.int64)[codes], names
