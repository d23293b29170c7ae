"""Requests to token ids, with what cannot be put to the model sorted out first: the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.engine import Answers, CausalModel
from harness.engine._answers import Prompt
from harness.engine._encoding import Pair, rolling_windows
from harness.engine._likelihood import Piece, Tally
from harness.records import Generate, LogLikelihood, Output, Request, RollingLogLikelihood


class Unanswerable(Exception):
    """A request that cannot be put to the model; the text becomes the output's failure."""


@dataclass(slots=True)
class Work:
    """What there is to do: pieces with the tallies that they fill, prompts to continue, and what was refused."""

    refused: Answers = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    tallies: dict[int, Tally] = field(default_factory=dict)
    prompts: list[Prompt] = field(default_factory=list)


class Intake:
    """Turns requests into work for one model; `cuts` drops the oldest tokens of a prompt that does not fit."""

    def __init__(self, model: CausalModel, *, cuts: bool) -> None:
        """Keep the model; nothing is computed yet."""
        self._model = model
        self._encoder = model.encoder
        self._cuts = cuts

    def sort(self, requests: Sequence[Request], drafts: Mapping[int, Sequence[int]]) -> Work:
        """All of `requests`; `drafts` maps an index to token ids that its answer may turn out to have."""
        asked = {i: (self._context(r), r.continuation) for i, r in enumerate(requests) if isinstance(r, LogLikelihood)}
        self._encoder.prime(list(asked.values()))
        work = Work()
        for index, request in enumerate(requests):
            try:
                if isinstance(request, Generate):
                    work.prompts.append(self._prompt(index, request, tuple(drafts.get(index, ()))))
                elif isinstance(request, LogLikelihood):
                    self._score(work, index, [self._encoder.pair(*asked[index])])
                else:
                    self._score(work, index, self._windows(request))
            except Unanswerable as reason:
                work.refused.append((index, Output(failure=str(reason))))
        return work

    def _context(self, request: LogLikelihood) -> str:
        return request.context if isinstance(request.context, str) else self._model.render(request.context)

    def _score(self, work: Work, index: int, pairs: Sequence[Pair]) -> None:
        made = [self._piece(index, pair) for pair in pairs]
        work.tallies[index] = Tally(len(made), truncated=any(cut for _, cut in made))
        work.pieces += [piece for piece, _ in made]

    def _windows(self, request: RollingLogLikelihood) -> list[Pair]:
        prefix, ids = self._encoder.prefix, self._encoder.text(request.text)
        if prefix is None:
            raise Unanswerable("the tokenizer has neither a BOS nor an EOS token to start the text from")
        if not ids:
            raise Unanswerable("the text has no tokens")
        return list(rolling_windows(ids, prefix, self._model.room))

    def _piece(self, index: int, pair: Pair) -> tuple[Piece, bool]:
        """A piece, and whether its context was cut to fit."""
        context, continuation = pair
        if not continuation:
            raise Unanswerable("the continuation has no token of its own: it merges into the context")
        if not context:
            raise Unanswerable("the tokenizer has neither a BOS nor an EOS token to condition on")
        over = len(context) + len(continuation) - 1 - self._model.room
        if over > 0 and (not self._cuts or len(continuation) > self._model.room):
            raise Unanswerable(
                f"prompt of {len(context)} tokens + continuation of {len(continuation)} exceeds the context of "
                f"{self._model.room}"
            )
        return Piece(index, context[over:] if over > 0 else context, continuation), over > 0

    def _prompt(self, index: int, request: Generate, draft: tuple[int, ...]) -> Prompt:
        text = request.prompt if isinstance(request.prompt, str) else self._model.render(request.prompt)
        ids = self._encoder.prompt(text)
        if not ids and self._encoder.prefix is not None:
            ids = (self._encoder.prefix,)
        if not ids:
            raise Unanswerable("the prompt has no tokens")
        room, wanted = self._model.room, request.max_tokens
        if self._cuts:
            if wanted >= room:
                raise Unanswerable(f"{wanted} new tokens leave nothing of the context of {room} for a prompt")
            kept = ids[-(room - wanted) :]
            return Prompt(index, kept, request, wanted, truncated=len(kept) < len(ids), draft=draft)
        if len(ids) >= room:
            raise Unanswerable(f"prompt of {len(ids)} tokens leaves no room in the context of {room}")
        return Prompt(index, ids, request, min(wanted, room - len(ids)), draft=draft)
