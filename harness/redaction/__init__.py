"""Personal data and secrets in text: found by pattern and, where there is one, by checksum; named, never shown.

What training rows and production traces are cleaned with: one set of patterns (`_patterns.py`), tried only where
something in the text suggests them (`_suspicion.py`, `_places.py`), so that text without any costs little more than
reading it. The
patterns are bounded: each starts only where a token starts, every repetition has an upper limit, and the long ones are
possessive, so that no text takes more than a constant number of steps a character. What they find is what is written
in a usual form. They cannot know names, addresses or birthdays; Presidio (`presidio.py`) looks for those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from harness.redaction import _patterns
from harness.redaction._places import places
from harness.redaction._suspicion import suspicious

__all__ = ["KINDS", "Finder", "Namer", "Span", "by_kind", "find", "names_secret", "redact", "replaced", "suspicious"]


class Span(NamedTuple):
    """A find: `text[start:end]` is of `kind`."""

    start: int
    end: int
    kind: str


Finder = Callable[[str], Iterable[Span]]
Namer = Callable[[str, str], str]

KINDS: tuple[str, ...] = tuple(dict.fromkeys(detector.kind for detector in _patterns.DETECTORS))


def by_kind(kind: str, value: str) -> str:
    """The placeholder `<KIND>`, the same for every value."""
    return f"<{kind.upper()}>"


def _unwatched() -> None:
    """No bound on time."""


def find(text: str, more: Sequence[Finder] = (), watch: Callable[[], None] = _unwatched) -> list[Span]:
    """What is in a text, without overlaps, in order; a surer kind outranks a vaguer one. `more` come last.

    `watch` is called before every look and after every match; what it raises ends the search.
    """
    taken = _Taken(len(text))
    found = places(text)
    for detector in _patterns.DETECTORS:
        for start, end in found.get(detector.place, ()):
            watch()
            for match in detector.pattern.finditer(text, start, end):
                watch()
                where = detector.accept(match)
                if where is not None:
                    taken.add(Span(*where, detector.kind))
    for finder in more:
        for span in finder(text):
            taken.add(span)
    return sorted(taken.spans)


def redact(text: str, more: Sequence[Finder] = (), name: Namer = by_kind) -> tuple[str, Counter[str]]:
    """The text with `name(kind, value)` in place of every find, and how many there were of each kind.

    Repeated until nothing is found (a second look is nearly always the last, and there are eight at most), since what
    stood next to a find can be one itself: redacting twice changes nothing more, as far as the built-in patterns go.
    `more` look once, at the original. A placeholder that `name` makes must not itself look like anything.
    """
    counts: Counter[str] = Counter()
    spans = find(text, more)
    for _ in range(_LOOKS):
        if not spans:
            break
        counts.update(span.kind for span in spans)
        text = replaced(text, spans, name)
        spans = find(text)
    return text, counts


def names_secret(name: str, value: str) -> bool:
    """Whether a field of this name (`password`, `api_key` …) with this value holds a secret: what `find` sees in
    `name=value`, for data in which the two are apart.
    """
    if not _patterns.SECRET_NAME.search(name):
        return False
    match = _patterns.SECRET_VALUE.fullmatch(value)
    return match is not None and _patterns.looks_random(value)


def replaced(text: str, spans: Sequence[Span], name: Namer = by_kind) -> str:
    """The text with `name(kind, value)` in place of each of `spans`, which are in order and do not overlap."""
    pieces, end = [], 0
    for span in spans:
        pieces += [text[end : span.start], name(span.kind, text[span.start : span.end])]
        end = span.end
    return "".join([*pieces, text[end:]])


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


_LOOKS = 8
