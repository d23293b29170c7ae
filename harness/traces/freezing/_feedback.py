"""Whether somebody liked an answer, from the feedback that its trace holds"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.traces.records import Feedback

_YES = frozenset({
    "positive", "good", "like", "liked", "up", "thumbs_up", "thumbs-up", "thumbsup", "👍", "yes", "correct", "helpful",
    "accepted", "true",
})  # fmt: skip
_NO = frozenset({
    "negative", "bad", "dislike", "disliked", "down", "thumbs_down", "thumbs-down", "thumbsdown", "👎", "no",
    "incorrect", "unhelpful", "rejected", "false",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Liking:
    """What counts as liking. Only what people said does, and only what is clear.

    By default that is feedback on the answer itself which says that it is a person's, with a label such as `good` or
    `thumbs_down` or a score of 1 (liked), 0 or −1 (not): what another number means depends on its scale. With `name`
    only feedback of that name counts, also where it does not say whose it is, or was said of the trace that the answer
    is in; with `at_least` a score from there on is liked, one below not.
    """

    name: str = ""
    at_least: float | None = None

    def of(self, feedback: Iterable[Feedback]) -> bool | None:
        """Whether the answer was liked; None where nobody said, or people disagree."""
        said = {self._one(f) for f in feedback if self._counts(f)} - {None}
        return said.pop() if len(said) == 1 else None

    def _counts(self, feedback: Feedback) -> bool:
        if self.name:
            return feedback.name == self.name and feedback.source in ("human", "")
        return feedback.about == "call" and feedback.source == "human"

    def _one(self, feedback: Feedback) -> bool | None:
        if self.at_least is not None and feedback.score is not None:
            return feedback.score >= self.at_least
        label = feedback.label.strip().lower()
        if label in _YES or label in _NO:
            return label in _YES
        return feedback.score == 1 if feedback.score in (-1, 0, 1) else None
