"""Rows that are there twice: by their exact text, and by nearly all of it.

Exact: equal after Unicode composition and collapsed white space. Near: the Jaccard similarity of the sets of five
neighbouring words (shingles; Lee et al. 2022 use the same) is at least the threshold. Candidates are found by MinHash
(Broder 1997; datasketch's, with a fixed seed), in bands chosen so that a pair right at the threshold is found with
a probability of about 97 %, rising quickly above it. datasketch's own default would find fewer than half. Every
candidate is then verified by the exact similarity, so that no pair counts that does not have it. Clusters are the
connected components of the verified pairs; they do not depend on the order of the rows.

Memory: 512 bytes a row for the signatures (0.5 GB for a million rows) and the shingles of a few rows at a time.
Bands are grouped with numpy rather than kept in datasketch's index, which takes some 10 KB a row. Time: about 0.3 ms a
row of 200 words. A band in which m rows meet that are not alike takes m²/2 comparisons of signatures.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness import plugins
from harness.errors import PluginError

WORDS = 5
_PERMUTATIONS = 128
_RECALL_WEIGHTS = (0.02, 0.98)  # false candidates only cost time, missed ones are lost
_HIGHEST = 0.95  # above it, datasketch finds no more than one band; a lower threshold only adds candidates
_SLACK = 0.15  # 4.7 standard deviations of the similarity that 128 permutations estimate at 0.85
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # Thai, Lao, Japanese, Chinese: no spaces between words
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")

Signatures = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Twice:
    """Which rows stay, which are exact duplicates (row, the first of its kind), and which contradict an earlier row."""

    kept: list[int]
    duplicates: list[tuple[int, int]]
    contradictions: list[tuple[int, int]]


def exact(identities: Sequence[bytes], labels: Sequence[str]) -> Twice:
    """Rows of one identity and label are duplicates; of one identity and another label, contradictions. O(n) memory."""
    first: dict[tuple[bytes, str], int] = {}
    seen: dict[bytes, int] = {}
    result = Twice([], [], [])
    for index, key in enumerate(zip(identities, labels, strict=True)):
        if key in first:
            result.duplicates.append((index, first[key]))
            continue
        first[key] = index
        result.kept.append(index)
        if key[0] in seen:
            result.contradictions.append((index, seen[key[0]]))
        seen.setdefault(key[0], index)
    return result


def shingles(text: str) -> frozenset[str]:
    """The sets that are compared: every five neighbouring words, or the whole of a shorter text; case counts."""
    words = _TOKEN.findall(text)
    count = max(1, len(words) - WORDS + 1)
    return frozenset(" ".join(words[i : i + WORDS]) for i in range(count))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """|A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    shared = len(first & second)
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


def clusters(count: int, text: Callable[[int], str], threshold: float) -> list[int]:
    """For each of `count` rows the first row of its cluster; `text` gives the text that is compared.

    Raises:
        PluginError: datasketch is not installed.
    """
    pool = _Pool(count)
    if count < 2:
        return pool.roots()
    signatures, bands, width = _sign((shingles(text(i)) for i in range(count)), count, threshold)
    sets = functools.lru_cache(maxsize=4096)(lambda index: shingles(text(index)))

    def alike(first: int, second: int) -> bool:
        return jaccard(sets(first), sets(second)) >= threshold

    for band in range(bands):
        for group in _groups(signatures[:, band * width : (band + 1) * width]):
            _unite(group, signatures, threshold - _SLACK, alike, pool)
    return pool.roots()


class _Pool:
    """Union-find in which the smallest member is the root."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, index: int) -> int:
        parent = self._parent
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    def join(self, first: int, second: int) -> None:
        first, second = sorted((self.root(first), self.root(second)))
        self._parent[second] = first

    def roots(self) -> list[int]:
        return [self.root(i) for i in range(len(self._parent))]


def _sign(sets: Iterator[frozenset[str]], count: int, threshold: float) -> tuple[Signatures, int, int]:
    """MinHash signatures (count × 128), and how many bands of how many columns to group them by."""
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise PluginError(plugins.missing_extra("finding near-duplicates", error)) from error
    model = MinHash(num_perm=_PERMUTATIONS, seed=1)
    signatures = np.empty((count, _PERMUTATIONS), dtype=np.uint32)
    for index, members in enumerate(sets):
        one = MinHash(num_perm=_PERMUTATIONS, permutations=model.permutations, scheme=model.scheme)
        one.update_batch([member.encode() for member in members])
        signatures[index] = one.hashvalues
    return signatures, *_bands(threshold)


@functools.cache  # it integrates numerically over all choices
def _bands(threshold: float) -> tuple[int, int]:
    from datasketch import MinHashLSH

    chosen = MinHashLSH(min(threshold, _HIGHEST), num_perm=_PERMUTATIONS, weights=_RECALL_WEIGHTS)
    return chosen.b, chosen.r


def _groups(band: Signatures) -> Iterator[npt.NDArray[np.intp]]:
    """Rows whose columns are all equal, two or more at a time, each in rising order."""
    keys = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:  # folded into 64 bits; a collision only adds a candidate
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    order = np.argsort(keys, kind="stable")
    starts = np.concatenate(([0], np.flatnonzero(np.diff(keys[order])) + 1, [len(order)]))
    for which in np.flatnonzero(np.diff(starts) > 1):
        yield order[starts[which] : starts[which + 1]]


def _unite(
    group: npt.NDArray[np.intp], signatures: Signatures, least: float, alike: Callable[[int, int], bool], pool: _Pool
) -> None:
    """Join the verified pairs of one group. A row that found its cluster is compared with the others left only."""
    left = group
    while len(left) > 1:
        frontier, left = [left[0]], left[1:]
        while frontier and len(left):
            one = frontier.pop()
            found = (signatures[left] == signatures[one]).mean(axis=1) >= least
            for likely in np.flatnonzero(found):
                found[likely] = _joined(int(one), int(left[likely]), alike, pool)
            frontier += list(left[found])
            left = left[~found]


def _joined(first: int, second: int, alike: Callable[[int, int], bool], pool: _Pool) -> bool:
    if pool.root(first) == pool.root(second):
        return True
    if not alike(first, second):
        return False
    pool.join(first, second)
    return True
