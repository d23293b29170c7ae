"""A signature under which near-duplicates are near: SimHash of what was asked last

64 bits, by the sign of the summed hashes of all runs of three words (Charikar 2002, STOC, "Similarity Estimation
Techniques from Rounding Algorithms"); texts that are nearly the same differ in few bits (Manku, Jain and Das Sarma
2007, WWW: at most three of 64 for web pages). Case, punctuation and digits do not count, nor do placeholders.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

from harness.traces.records import Call

_WORD = re.compile(r"[^\W\d_]+")
_PLACEHOLDER = re.compile(r"<[A-Z_]{1,32}_[0-9a-f]{8,32}>")
_LONG = 1200  # characters; of a longer text only both ends are looked at
_ENDS = 64  # words from the beginning and from the end: what is between them is seldom all that differs


def signature(call: Call) -> int:
    """The signature of a call's last user message, or of its last message where no user spoke; 0 without words."""
    said = [m.text for m in call.messages if m.role == "user"] or [m.text for m in call.messages[-1:]]
    return of_text(said[-1]) if said else 0


def of_text(text: str) -> int:
    """The signature of a text, 0 ≤ signature < 2⁶⁴."""
    words = _WORD.findall(_PLACEHOLDER.sub(" ", text).lower()) if len(text) < _LONG else _ends(text)
    if len(words) > 2 * _ENDS:
        words = words[:_ENDS] + words[-_ENDS:]
    if not words:
        return 0
    codes = np.array([0, *map(zlib.crc32, " ".join(words).encode("utf-8", "replace").split(b" ")), 0], dtype=np.uint64)
    runs = np.unique(
        _mixed(codes[:-2] * np.uint64(31) + _mixed(codes[1:-1]) * np.uint64(37) + codes[2:] * np.uint64(41))
    )
    bits = np.unpackbits(runs.astype(">u8").view(np.uint8).reshape(len(runs), 8), axis=1)
    majority = bits.sum(axis=0) * 2 > len(runs)
    return int(np.packbits(majority).view(">u8")[0])


def _ends(text: str) -> list[str]:
    half = _LONG // 2
    return [word for part in (text[:half], text[-half:]) for word in _WORD.findall(_PLACEHOLDER.sub(" ", part).lower())]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread 32 bits over 64 (the finaliser of SplitMix64, Steele et al. 2014): SimHash asks for bits that are even."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
