"""Training rows that overlap with a frozen set: compared exactly and by runs of 13 words, as text and as chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness import contamination
from harness.contamination import Kind
from harness.errors import DataError
from harness.records import Sample
from harness.training.data.formats import conversational
from harness.training.data.reading import Origin
from harness.training.data.rows import strings
from harness.training.objectives import Row

Render = Callable[[Row], str]
"""The text that training sees of a conversational row: what the chat template makes of it."""

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Overlap:
    """A row and a frozen sample that it overlaps with; `shared` is the beginning of the shared text."""

    origin: Origin
    set: str
    sample_id: str
    kind: Kind
    shared: str

    def __str__(self) -> str:
        return f"{self.origin} ↔ {self.set}/{self.sample_id} ({self.kind}): {self.shared!r}"


class FrozenSets:
    """Every frozen set of a gate, ready to be compared with rows. See `harness.contamination` for what counts."""

    def __init__(self, sets: Mapping[str, Sequence[Sample]], render: Render | None = None) -> None:
        """`sets`: samples by the name of their suite. `render` is asked for the chat text of a row, if given."""
        self._indexes = {name: contamination.Index(samples) for name, samples in sets.items()}
        self._render = render

    def overlaps(self, origin: Origin, row: Row) -> list[Overlap]:
        """Every sample that a row overlaps with, one a sample; exact outranks 13-gram."""
        if not self._indexes:
            return []
        found: dict[tuple[str, str], Overlap] = {}
        for texts in self._readings(origin, row):
            words = contamination.words_of(texts)
            for name, index in self._indexes.items():
                for (sample_id, kind), shared in index.matches(words).items():
                    key = (name, sample_id)
                    if key not in found or kind == "exact":
                        found[key] = Overlap(origin, name, sample_id, kind, shared)
        return list(found.values())

    def _readings(self, origin: Origin, row: Row) -> list[list[str]]:
        texts = list(strings(row))
        if self._render is None or not conversational(row):
            return [texts]
        try:
            return [texts, [self._render(row)]]
        except Exception as error:  # a template is a program of its own
            raise DataError(f"{origin}: the chat template cannot be applied to this row: {error}") from error


def refuse(overlaps: Sequence[Overlap], listed_in: str | None = None) -> None:
    """Raise if there are any.

    Raises:
        DataError: with the rows and what they overlap with; all of them if they are few, else the first ones.
    """
    if not overlaps:
        return
    rows = len({o.origin for o in overlaps})
    shown = "\n".join(f"  {overlap}" for overlap in overlaps[:_SHOWN])
    rest = len(overlaps) - _SHOWN
    more = f"\n  … and {rest} more" + (f", all in {listed_in}" if listed_in else "") if rest > 0 else ""
    raise DataError(
        f"{rows} training rows overlap with frozen samples, so that the gate could not tell learning from "
        f"remembering. Take them out, say `contaminated: drop`, or name those that may stay in "
        f"`allow_contaminated`:\n{shown}{more}"
    )
