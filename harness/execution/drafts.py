"""Drafts for greedy answers: what other subjects have answered to the very same request.

They come from the output cache, so it does not matter whose turn was first, nor whether the other subject is still
loaded: a candidate is helped by its baseline and by the candidates before it, and a changed baseline by the candidate
that has stayed the same. Where several have answered, the one that has agreed most so far is followed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.cache import OutputCache
from harness.drift import common_prefix
from harness.records import Draft, Generate, Output, Request
from harness.subjects import Answers, Subject


@dataclass(frozen=True, slots=True)
class Source:
    """A subject as far as drafts need it: the key of its answers, and the hash of the tokenizer that their ids mean."""

    fingerprint: str
    tokenizer: str

    @classmethod
    def of(cls, subject: Subject) -> Source:
        """What is known of `subject`; one that shows no tokenizer still gives its text."""
        return cls(subject.fingerprint, str(subject.describe().get("tokenizer_sha256") or ""))


@dataclass(slots=True)
class Agreement:
    """How many characters of a subject's answers a source had foretold, of how many that it could have."""

    foretold: int = 0
    said: int = 0

    @property
    def share(self) -> float:
        """Between 0 and 1; 0 while nothing is known."""
        return self.foretold / self.said if self.said else 0.0


@dataclass(frozen=True, slots=True)
class Offers:
    """What each source has answered, by index in the list of requests, with its agreement so far."""

    answers: Sequence[tuple[Source, Agreement, Mapping[int, Output]]]

    def drafts(self, count: int) -> list[Draft | None]:
        """One draft or None for each of `count` requests; nothing at all where there is no draft."""
        best: dict[int, Draft] = {}
        # The weakest source comes first, so that a stronger one's draft is put in its place.
        for source, _, given in sorted(self.answers, key=lambda offer: offer[1].share):
            best |= {i: Draft(output.text or "", output.ids, source.tokenizer) for i, output in given.items()}
        return [best.get(i) for i in range(count)] if best else []

    def learn(self, batch: Answers) -> None:
        """Hold what the subject has now answered against what each source had."""
        for _, agreement, given in self.answers:
            for index, output in batch:
                if output.text is not None and index in given:
                    agreement.foretold += common_prefix(output.text, given[index].text or "")
                    agreement.said += len(output.text)


@dataclass(frozen=True, slots=True)
class Drafting:
    """Finds drafts for subjects. Of two sources that have agreed alike, the earlier of `sources` is followed."""

    cache: OutputCache
    sources: Sequence[Source]
    _agreements: dict[tuple[str, Source], Agreement] = field(default_factory=dict)

    def offers(self, subject: Subject, requests: Sequence[Request]) -> Offers:
        """What the other sources have answered to those of `requests` that ask for greedy text."""
        greedy = [i for i, r in enumerate(requests) if isinstance(r, Generate) and r.temperature == 0]
        others = [s for s in reversed(self.sources) if s.fingerprint != subject.fingerprint] if greedy else []
        return Offers([self._offer(subject, source, requests, greedy) for source in others])

    def _offer(
        self, subject: Subject, source: Source, requests: Sequence[Request], greedy: Sequence[int]
    ) -> tuple[Source, Agreement, Mapping[int, Output]]:
        known = self.cache.get(source.fingerprint, [requests[i] for i in greedy])
        agreement = self._agreements.setdefault((subject.fingerprint, source), Agreement())
        return source, agreement, {greedy[place]: o for place, o in known.items() if o.text is not None}
