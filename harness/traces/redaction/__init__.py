"""Redaction of telemetry before it reaches a disk: every text of a span or log record, in place, or not stored at all

What is found is replaced by a placeholder that is the same for the same value of one tenant, so that several turns,
and several models, are seen to speak of one thing. Names of attributes are kept; their values, events, links, status,
span names, log bodies, resources and scopes are redacted. Users' ids become pseudonyms, also where they stand in the
texts of the same span. A span whose redaction fails, or exceeds its bounds, is removed and counted by its reason.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from harness.redaction import Finder
from harness.traces.redaction._fields import Role, role
from harness.traces.redaction._pseudonyms import Pseudonyms, is_pseudonym, store_key
from harness.traces.redaction._texts import Texts, TooDeep, TooSlow, may_be_card

__all__ = ["Bounds", "Pseudonyms", "Redactor", "Unredacted", "is_pseudonym", "store_key"]

Unredacted = Literal["redaction-too-large", "redaction-too-slow", "redaction-too-deep", "redaction-failed"]
"""Why a record could not be redacted and was not stored."""

_SMALLEST_CARD = 10**12
_CHUNK = 2**20  # characters searched as one
_DISTINCT = re.compile("[0-9@]")
_FIELDS = ("name", "trace_state", "event_name", "severity_text", "schema_url", "version", "message")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one record may take: characters of its texts, levels of its values, values, seconds of redaction."""

    characters: int = 2**20
    depth: int = 32
    values: int = 8192
    seconds: float = 0.5


class Redactor:
    """Redacts the OTLP messages of one tenant.

    `finders` look at every text besides the patterns (`harness.redaction.presidio.finder()`); they are slow.
    """

    def __init__(self, names: Pseudonyms, bounds: Bounds | None = None, finders: Sequence[Finder] = ()) -> None:
        self.names = names
        self._bounds, self._finders = bounds or Bounds(), finders

    def traces(self, message: Any) -> Counter[Unredacted]:
        """Redact an ExportTraceServiceRequest in place; what is removed is counted."""
        message.DiscardUnknownFields()  # what a later version added is in no place that is looked at
        return self._groups(message.resource_spans, "scope_spans", "spans")

    def logs(self, message: Any) -> Counter[Unredacted]:
        """Redact an ExportLogsServiceRequest in place; what is removed is counted."""
        message.DiscardUnknownFields()
        return self._groups(message.resource_logs, "scope_logs", "log_records")

    def _groups(self, groups: Any, scopes: str, records: str) -> Counter[Unredacted]:
        gathered: list[_Record] = []
        holders: list[tuple[Any, Sequence[tuple[_Record, ...]]]] = []
        for group in groups:
            group.resource.ClearField("entity_refs")  # ids and schemas of a resource once more, in a form nobody reads
            resource = self._gathered(group.resource, group)
            gathered.append(resource)
            for scoped in getattr(group, scopes):
                scope = self._gathered(scoped.scope, scoped)
                inside = getattr(scoped, records)
                items = [(self._gathered(item), resource, scope) for item in inside]
                gathered += [scope, *(item[0] for item in items)]
                holders.append((inside, items))
        self._redact(gathered)
        counts = _removed(holders)
        _prune(groups, scopes, records)
        return counts

    def _gathered(self, *messages: Any) -> _Record:
        record = _Record(self.names, self._bounds)
        record.run(partial(record.gather, *messages))
        return record

    def _redact(self, records: Sequence[_Record]) -> None:
        for chunk in _chunks([r for r in records if r.unredacted is None and r.texts]):
            try:
                suspects = self._suspects(chunk)
            except Exception:
                suspects = [None] * len(chunk)
            for record, chosen in zip(chunk, suspects, strict=True):
                if chosen is None or chosen or record.named or record.users:
                    record.run(partial(self._one, record, chosen))

    def _suspects(self, chunk: Sequence[_Record]) -> list[set[int] | None]:
        texts = [text for record in chunk for text in record.texts]
        chosen = Texts(self.names, self._bounds.seconds, self._finders).suspects(texts)
        found = sorted(chosen)
        split: list[set[int] | None] = []
        start = place = 0
        for record in chunk:
            end = start + len(record.texts)
            upto = bisect.bisect_left(found, end, place)
            split.append({index - start for index in found[place:upto]})
            start, place = end, upto
        return split

    def _one(self, record: _Record, chosen: set[int] | None) -> None:
        if chosen is not None and not chosen and not record.named and not record.mentions_users():
            return
        texts = Texts(self.names, self._bounds.seconds, self._finders, frozenset(record.users))
        if chosen is None:
            chosen = texts.suspects(record.texts)
        for index in chosen | record.named | texts.mentions(record.texts):
            record.put(index, texts.redacted(record.texts[index], record.slots[index][2]))


@dataclass(slots=True)
class _Record:
    """One span, log record, resource or scope: its texts and where each is from."""

    names: Pseudonyms
    bounds: Bounds
    texts: list[str] = field(default_factory=list)
    slots: list[tuple[Any, str, str]] = field(default_factory=list)
    """(message, its field, the attribute's name) of each text."""
    named: set[int] = field(default_factory=set)
    """Texts that have to be looked at for their attribute's name."""
    users: set[str] = field(default_factory=set)
    size: int = 0
    unredacted: Unredacted | None = None

    def run(self, step: Callable[[], object]) -> None:
        """Take a step; whatever goes wrong in it makes the record one that is not stored."""
        try:
            step()
        except TooDeep:
            self.unredacted = "redaction-too-deep"
        except TooSlow:
            self.unredacted = "redaction-too-slow"
        except _TooLarge:
            self.unredacted = "redaction-too-large"
        except Exception:
            self.unredacted = "redaction-failed"

    def gather(self, *messages: Any) -> None:
        """Every text of messages; ids of users are replaced on the way."""
        for message in messages:
            self._gather(message)

    def _gather(self, message: Any) -> None:
        form = _form(message.DESCRIPTOR)
        for name in form.texts:
            if text := getattr(message, name):
                self._note(text, message, name, "", "text")
        if form.attributes:
            self._pairs(message.attributes)
        if form.body:
            self._value(message.body, "", self.bounds.depth)
        if form.status and message.HasField("status"):
            self.text(message.status, "message")
        for name in form.inner:
            for inner in getattr(message, name):
                self._gather(inner)

    def text(self, message: Any, name: str, attribute: str = "") -> None:
        """Note a text."""
        value = getattr(message, name)
        if value:
            text = value if isinstance(value, str) else value.decode("latin-1")
            self._note(text, message, name, attribute, role(attribute) if attribute else "text")

    def _note(self, text: str, message: Any, name: str, attribute: str, what: Role) -> None:
        self.size += len(text)
        if self.size > self.bounds.characters or len(self.texts) >= self.bounds.values:
            raise _TooLarge
        if what != "text":
            self.named.add(len(self.texts))
        self.texts.append(text)
        self.slots.append((message, name, attribute))

    def mentions_users(self) -> bool:
        """Whether an id of its users stands in one of its texts."""
        return any(user in text for user in self.users for text in self.texts)

    def put(self, index: int, new: str) -> None:
        """Write a text back if it differs."""
        if new != self.texts[index]:
            message, name, _ = self.slots[index]
            setattr(message, name, new.encode("latin-1", "replace") if name == "bytes_value" else new)

    def _pairs(self, pairs: Any) -> None:
        if len(pairs) > self.bounds.values:
            raise _TooLarge
        for pair in pairs:
            key, value = pair.key, pair.value
            what, kind = role(key), value.WhichOneof("value")
            if what == "user":
                self._user(value)
            elif kind == "string_value":  # nearly all of them; the rest takes the longer way
                text = value.string_value
                if text:
                    self._note(text, value, kind, key, what)
            elif kind != "double_value" and kind != "bool_value":
                self._value(value, key, self.bounds.depth)

    def _user(self, value: Any) -> None:
        kind = value.WhichOneof("value")
        user = str(getattr(value, kind)) if kind else ""
        if user:
            if 6 <= len(user) <= 256 and len(self.users) < 8 and _DISTINCT.search(user) and not is_pseudonym(user):
                self.users.add(user)
            value.string_value = self.names.user(user)

    def _value(self, value: Any, attribute: str, depth: int) -> None:
        kind = value.WhichOneof("value")
        if kind in ("string_value", "bytes_value"):
            self.text(value, kind, attribute)
        elif kind in ("array_value", "kvlist_value"):
            self._values(getattr(value, kind).values, attribute, depth, pairs=kind == "kvlist_value")
        elif kind == "int_value" and value.int_value > _SMALLEST_CARD:
            self._number(value, str(value.int_value))

    def _values(self, values: Any, attribute: str, depth: int, *, pairs: bool) -> None:
        if depth == 0:
            raise TooDeep
        if len(values) > self.bounds.values:
            raise _TooLarge
        for item in values:
            if not pairs:
                self._value(item, attribute, depth - 1)
            elif role(attribute) == "settings" and role(item.key) == "user":
                self._user(item.value)
            else:
                self.text(item, "key")
                self._value(item.value, item.key, depth - 1)

    def _number(self, value: Any, digits: str) -> None:
        """A card's number may be a number; it becomes a text, which the others need not be."""
        if may_be_card(digits):
            redacted = Texts(self.names, self.bounds.seconds).redacted(digits)
            if redacted != digits:
                value.string_value = redacted


class _TooLarge(Exception):
    """A record holds more than is redacted."""


@dataclass(frozen=True, slots=True)
class _Form:
    """What a kind of message has that is looked at: its texts, whether the rest is there, and lists of more."""

    texts: tuple[str, ...]
    attributes: bool
    body: bool
    status: bool
    inner: tuple[str, ...]


_FORMS: dict[str, _Form] = {}


def _form(descriptor: Any) -> _Form:
    known = _FORMS.get(descriptor.full_name)
    if known is None:
        has = descriptor.fields_by_name.__contains__
        known = _Form(
            tuple(filter(has, _FIELDS)), has("attributes"), has("body"), has("status"),
            tuple(filter(has, ("events", "links"))),
        )  # fmt: skip
        _FORMS[descriptor.full_name] = known
    return known


def _chunks(records: Sequence[_Record]) -> Iterator[list[_Record]]:
    chunk: list[_Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += record.size
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _removed(holders: Sequence[tuple[Any, Sequence[tuple[_Record, ...]]]]) -> Counter[Unredacted]:
    """Take out what was not redacted, or belongs to a resource or scope that was not."""
    counts: Counter[Unredacted] = Counter()
    for inside, items in holders:
        for index in range(len(items) - 1, -1, -1):
            reason = next((r.unredacted for r in items[index] if r.unredacted is not None), None)
            if reason is not None:
                del inside[index]
                counts[reason] += 1
    return counts


def _prune(groups: Any, scopes: str, records: str) -> None:
    """Take out scopes and resources that hold no record (any more): theirs may be what was not redacted."""
    for place in range(len(groups) - 1, -1, -1):
        inside = getattr(groups[place], scopes)
        for index in range(len(inside) - 1, -1, -1):
            if not getattr(inside[index], records):
                del inside[index]
        if not inside:
            del groups[place]
