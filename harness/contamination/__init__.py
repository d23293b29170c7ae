"""Which frozen samples were in the training data, by exact match and by word overlap.

*Exact*: a whole training text, or one string of a training row, equals the sample's prompt, or its prompt followed by a
target, up to case, punctuation and white space. *13-gram*: the two share a run of 13 words, the length used for GPT-3
(Brown et al. 2020, appendix C). As there, runs that are common are taken for boilerplate and left out: those that
occur in more than ten samples of the set, such as an instruction that begins each of its prompts. A sample of fewer
than 13 words is compared exactly only.

A row of JSON lines or Parquet is read string by string, at any depth (`prompt`, `text`, `messages[].content` …), and
neighbouring strings are joined for the 13-grams, so that a prompt split over two fields is found. A text file is read
by paragraph, and for exact matches by line too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from harness.contamination import files as _files
from harness.errors import at
from harness.records import Sample

N = 13
_COMMON = 10
_SHOWN = 80
_WORD = re.compile(r"\w+")

Kind = Literal["exact", "13-gram"]
Words = list[list[str]]
"""The words of each string of a training row."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A frozen sample that training saw: where first, and in how many rows. `shared` is the beginning of the text."""

    sample_id: str
    kind: Kind
    path: Path
    line: int
    shared: str
    rows: int = 1

    def __str__(self) -> str:
        more = f" and {self.rows - 1} more rows" if self.rows > 1 else ""
        return f"{at(self.path, self.line)}{self.kind} match with sample {self.sample_id!r}{more}: {self.shared!r}"


def find(files: Iterable[Path], samples: Sequence[Sample]) -> list[Finding]:
    """Every sample that is in one of `files`, one finding a sample and kind, in the order of the samples.

    A folder stands for the files in it that can be read (`.jsonl`, `.json`, `.parquet`, `.csv`, `.txt`, `.md`).

    Raises:
        DataError: a file is missing, of another kind, or damaged; with file and line.
    """
    index = Index(samples)
    found: dict[tuple[str, Kind], Finding] = {}
    for path in _files.expand(files, _files.STRINGS):
        for line, strings in _files.strings(path):
            for key, shared in index.matches(words_of(strings)).items():
                known = found.get(key)
                found[key] = replace(known, rows=known.rows + 1) if known else Finding(*key, path, line, shared)
    # An exact match says more than the runs that it consists of.
    kept = [f for f in found.values() if f.kind == "exact" or (f.sample_id, "exact") not in found]
    return sorted(kept, key=lambda f: index.order[f.sample_id])


def words_of(strings: Iterable[str]) -> Words:
    """What `Index.matches` compares, made once for all indexes that a row is held against."""
    return [_words(s) for s in strings]


class Index:
    """The frozen side: whole prompts and runs of 13 words, each leading to the samples that hold them.

    Holds about 150 bytes a word of the samples. `order` is each sample's place in the list that it was made of.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.order = {sample.id: i for i, sample in enumerate(samples)}
        self._exact: dict[str, list[str]] = defaultdict(list)
        runs: dict[str, set[str]] = defaultdict(set)
        for sample in samples:
            for text in _frozen_texts(sample):
                words = _words(text)
                if words:
                    self._exact[" ".join(words)].append(sample.id)
                for run in _runs(words):
                    runs[run].add(sample.id)
        self._runs = {run: ids for run, ids in runs.items() if len(ids) <= _COMMON}
        # A run can only be shared where twelve pairs of neighbours in a row are the samples': cheap to rule out.
        self._neighbours = {pair for run in self._runs for pair in pairwise(run.split(" "))}

    def matches(self, row: Words) -> Mapping[tuple[str, Kind], str]:
        """What one training row shares: (sample id, kind) → the beginning of the shared text."""
        hits: dict[tuple[str, Kind], str] = {}
        joined = [word for piece in row for word in piece]
        for words in (*row, joined):
            text = " ".join(words)
            for sample_id in self._exact.get(text, ()):
                hits.setdefault((sample_id, "exact"), text[:_SHOWN])
        for run in self._candidate_runs(joined):
            for sample_id in self._runs.get(run, ()):
                hits.setdefault((sample_id, "13-gram"), run[:_SHOWN])
        return hits

    def _candidate_runs(self, words: list[str]) -> Iterator[str]:
        known = self._neighbours
        start = 0
        for i, pair in enumerate(pairwise(words), 1):
            if pair not in known:
                start = i
            elif i - start + 1 >= N:
                yield " ".join(words[i - N + 1 : i + 1])


def _frozen_texts(sample: Sample) -> list[str]:
    texts = [sample.prompt, *(f"{sample.prompt} {target}" for target in sample.targets)]
    # One short turn ("Hello!") says nothing; the last question of a conversation does.
    asked = [m.content for m in sample.messages if m.role == "user"]
    return list(dict.fromkeys([*texts, *asked[-1:]]))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: list[str]) -> Iterator[str]:
    for i in range(len(words) - N + 1):
        yield " ".join(words[i : i + N])
