"""What to propose next while an answer is decoded, given a guess at the whole of it.

A proposal costs its verification whether it is right or not, so its length follows the odds: how often tokens of
drafts were right so far, over all answers of this subject. A row that has left its draft may come back to it behind a
pair of tokens that the draft has too (prompt lookup, Saxena 2023, with the draft in the prompt's place).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_PRIOR = (4, 1)  # right and wrong tokens imagined before the first draft is verified
_RETURN = 4  # tokens proposed when a row first comes back
_TRUST = 4  # tokens that a row must have right before its own record counts as much as everybody's
_PAIR = 2  # tokens that must agree before a row comes back


class Odds:
    """How often a drafted token was right, and from what odds on a proposal pays."""

    def __init__(self, worth: float) -> None:
        """`worth` is the cost of verifying a token relative to generating it: a smaller chance does not pay."""
        self._worth = worth
        self._right, self._wrong = _PRIOR

    def learn(self, right: int, wrong: int) -> None:
        """`right` tokens were accepted, `wrong` (0 or 1) ended the proposal."""
        self._right += right
        self._wrong += wrong

    @property
    def share(self) -> float:
        """The share of proposed tokens that were right."""
        return self._right / (self._right + self._wrong)

    @property
    def length(self) -> int:
        """How many tokens to propose: up to where the chance that all before were right falls below `worth`."""
        # One token is proposed whatever the odds: with the prompt it costs next to nothing, and odds can change.
        return max(1, int(math.log(self._worth) / math.log(min(self.share, 1 - 1e-6))))


class Guide:
    """One row's way along its draft. `at` is the place of the next token to propose; None where the row has left."""

    def __init__(self, draft: Sequence[int], vocabulary: int) -> None:
        """A draft ends at the first token that the model does not know."""
        unknown = next((i for i, token in enumerate(draft) if not 0 <= token < vocabulary), len(draft))
        self._draft = list(draft[:unknown])
        self.at: int | None = 0 if self._draft else None
        self._length = 0
        self._run = 0  # tokens that were right since the row last came to its draft
        self._needed = _PAIR
        self._pairs: dict[tuple[int, int], list[int]] = {}

    def proposal(self, odds: Odds, most: int) -> list[int]:
        """The next tokens of the draft, at most `most`; none where the row has left it."""
        if self.at is None or most <= 0:
            return []
        length = self._length or odds.length
        return self._draft[self.at : self.at + min(length, most)]

    def expected(self, odds: Odds, count: int) -> float:
        """How many of the next `count` proposed tokens are right, by what the row itself has shown and all others."""
        chance = min((odds.share * _TRUST + self._run) / (_TRUST + self._run), 1 - 1e-6)
        return float(chance * (1 - chance**count) / (1 - chance))

    def heed(self, written: Sequence[int], proposed: int, right: int) -> None:
        """Of `proposed` tokens `right` were accepted, and `written` is all of the answer, the last token included."""
        if self.at is not None:
            if right < proposed:
                self._leave(right)
            else:
                # The token after the proposal came for free; it belongs to the draft or the row has left.
                after = self.at + right
                self.at = after + 1 if after < len(self._draft) and self._draft[after] == written[-1] else None
                self._length = 2 * max(self._length, right)
                self._run += right
        if self.at is None:
            self._come_back(written)
        elif self.at >= len(self._draft):
            self.at = None

    def _leave(self, right: int) -> None:
        if not right and self._length:  # it had come back, and wrongly
            self._needed += 1
        self.at, self._length, self._run = None, 0, 0

    def _come_back(self, written: Sequence[int]) -> None:
        """Look for the latest tokens in the draft; of several places the one nearest to the row's own position."""
        if len(written) < self._needed:
            return
        if not self._pairs:
            for i in range(1, len(self._draft)):
                self._pairs.setdefault((self._draft[i - 1], self._draft[i]), []).append(i + 1)
        tail = list(written[-self._needed :])
        places = [p for p in self._pairs.get((tail[-2], tail[-1]), ()) if self._draft[p - self._needed : p] == tail]
        places = [place for place in places if self._needed <= place < len(self._draft)]
        if places:
            self.at = min(places, key=lambda place: abs(place - len(written)))
            self._length = _RETURN
