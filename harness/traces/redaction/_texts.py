"""Redaction of many texts at once: all are searched as one, and only those with a find are looked at one by one

JSON is redacted value by value and stays JSON; JSON inside its strings, such as the arguments of a tool, too.
"""

from __future__ import annotations

import bisect
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from harness.redaction import Finder, find, names_secret, replaced, suspicious
from harness.traces.redaction._fields import role
from harness.traces.redaction._pseudonyms import Pseudonyms

_DEPTH = 64  # levels of JSON, those inside strings included
_LOOKS = 8
_MANY = 2**15  # characters; below, looking for suspects takes longer than looking at all
_ESCAPE = re.compile(r'\\[ntr"bf]')
_ODD = ("\\u", "\\/", "\\\\")  # escapes behind which a find may hide until the JSON is read


class TooDeep(Exception):
    """JSON is nested more deeply than is read."""


class TooSlow(Exception):
    """Redaction took longer than it may."""


@dataclass(slots=True)
class Texts:
    """Redacts texts of one tenant within a time; `users` are ids that are replaced wherever they stand."""

    names: Pseudonyms
    seconds: float
    finders: Sequence[Finder] = ()
    users: frozenset[str] = frozenset()
    _deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.seconds

    def suspects(self, texts: Sequence[str]) -> set[int]:
        """Which of `texts` have to be looked at: never too few, seldom too many."""
        if self.finders:
            return set(range(len(texts)))
        chosen = {i for i, text in enumerate(texts) if "\\" in text and any(odd in text for odd in _ODD)}
        many = sum(map(len, texts)) > _MANY
        places = suspicious(texts) if many else list(range(len(texts)))
        masked = [_masked(texts[place]) for place in places]
        starts = [0, *accumulate(len(text) + 1 for text in masked)]
        for span in find("\0".join(masked), watch=self._watch):
            first, last = bisect.bisect_right(starts, span.start) - 1, bisect.bisect_left(starts, span.end)
            chosen.update(places[first:last])
        return chosen

    def mentions(self, texts: Sequence[str]) -> set[int]:
        """Which of `texts` a user's id stands in."""
        return {i for user in self.users for i, text in enumerate(texts) if user in text}

    def redacted(self, text: str, name: str = "", depth: int = _DEPTH) -> str:
        """One text, whose attribute or field is called `name`."""
        if depth == 0:
            raise TooDeep
        kind = role(name)
        if kind == "user" and text:
            return self.names.user(text)
        if kind == "secret" and names_secret(name, text):
            return self.names.value("secret", text)
        if text.lstrip()[:1] in ("{", "[", '"'):
            try:
                value = json.loads(text)
            except ValueError:
                return self._plain(text)
            except RecursionError:
                raise TooDeep from None
            return self._json(text, value, depth, settings=kind == "settings")
        return self._plain(text)

    def _plain(self, text: str) -> str:
        for user in self.users:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])", self.names.user(user), text)
        spans = find(_masked(text), self.finders, self._watch)
        for _ in range(_LOOKS):
            if not spans:
                break
            text = replaced(text, spans, self.names.value)
            spans = find(_masked(text), watch=self._watch)
        return text

    def _json(self, text: str, value: Any, depth: int, *, settings: bool) -> str:
        holder = [value]
        leaves: list[_Leaf] = []
        _collect(holder, "", depth, leaves)
        inside = [leaf.text for leaf in leaves]
        chosen = self.suspects(inside) | self.mentions(inside)
        changed = False
        for index, leaf in enumerate(leaves):
            by_name = role(leaf.name)
            if index in chosen or by_name == "secret" or (settings and by_name == "user"):
                name = leaf.name if settings or by_name != "user" else ""
                changed = leaf.put(self.redacted(leaf.text, name, depth - 1)) or changed
        if not changed:
            return text
        separators = (", ", ": ") if '": ' in text else (",", ":")
        return json.dumps(holder[0], ensure_ascii="\\u" in text or not text.isprintable(), separators=separators)

    def _watch(self) -> None:
        if time.monotonic() > self._deadline:
            raise TooSlow


@dataclass(slots=True)
class _Leaf:
    """A string, a long number or a key in a JSON value; `name` is the field that holds it."""

    holder: Any
    place: Any
    text: str
    name: str
    is_key: bool = False

    def put(self, new: str) -> bool:
        """Replace it if it differs; a number becomes a string."""
        if new == self.text:
            return False
        if self.is_key:
            self.holder[new] = self.holder.pop(self.place)
        else:
            self.holder[self.place] = new
        return True


def _collect(holder: Any, name: str, depth: int, leaves: list[_Leaf]) -> None:
    if depth == 0:
        raise TooDeep
    items = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
    for place, value in items:
        inner = str(place) if isinstance(holder, dict) else name
        if isinstance(value, str):
            leaves.append(_Leaf(holder, place, value, inner))
        elif isinstance(value, dict | list):
            _collect(value, inner, depth - 1, leaves)
        elif type(value) is int and may_be_card(number := str(value)):
            leaves.append(_Leaf(holder, place, number, inner))
    if isinstance(holder, dict):  # keys come last: renaming one moves its value
        leaves.extend(_Leaf(holder, key, key, "", is_key=True) for key in holder)


def may_be_card(digits: str) -> bool:
    """Whether an integer has the length and first digit of a card's number; no other find is without separators."""
    return 13 <= len(digits) <= 19 and digits[0] in "23456"


def _masked(text: str) -> str:
    """The text with JSON's short escapes blanked, so that the `n` of a line break is no letter before a token."""
    return _ESCAPE.sub("  ", text) if "\\" in text else text
