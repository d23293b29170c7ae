"""The reference engine: padded batches, one forward pass a row, the model's own `generate`.

Simple enough to be believed, and equal to lm-eval's Hugging Face backend item by item (log-likelihoods within 1e-4 and
the same greedy text in float32), with three differences on purpose: log-softmax is always taken in float32; a request
that does not fit the context is a failure unless truncation is asked for; and every row stops by itself, where lm-eval
lets a finished row run on until its whole batch is done.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.engine import Answers, CausalModel
from harness.engine._batches import OUT_OF_MEMORY, in_batches
from harness.engine._decoding import Prompt, decode_batch
from harness.engine._encoding import Encoder, Pair, rolling_windows
from harness.engine._likelihood import Piece, Row, Tally, read_batch, rows_of, settle
from harness.records import Generate, LogLikelihood, Output, Request, RollingLogLikelihood


class Options(BaseModel):
    """How requests are batched and what becomes of one that is too long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(16, ge=1, description="rows of a batch; halved by itself when memory runs out")
    truncate: Literal["refuse", "left"] = Field(
        "refuse", description="left drops the oldest tokens of a prompt that does not fit, as lm-eval does"
    )


def build(options: Options, model: CausalModel) -> PlainEngine:
    """The engine plugin contract."""
    return PlainEngine(options, model)


class Unanswerable(Exception):
    """A request that cannot be put to the model; the text becomes the output's failure."""


class PlainEngine:
    """See the module. Nothing is kept between calls."""

    def __init__(self, options: Options, model: CausalModel) -> None:
        """Keep the model; nothing is computed yet."""
        self._model = model
        self._size = options.batch_size
        self._cuts = options.truncate == "left"
        self._encoder = Encoder(model.tokenizer)

    def remarks(self) -> Sequence[str]:
        """Nothing to tell."""
        return ()

    def answer(self, requests: Sequence[Request], drafts: Mapping[int, Sequence[int]]) -> Iterator[Answers]:
        """See `Engine.answer`: likelihoods first, longest first, then generations, without any draft."""
        refused: Answers = []
        pieces: list[Piece] = []
        tallies: dict[int, Tally] = {}
        prompts: list[Prompt] = []
        for index, request in enumerate(requests):
            try:
                if isinstance(request, Generate):
                    prompts.append(self._prompt(index, request))
                else:
                    mine, truncated = self._pieces(index, request)
                    tallies[index] = Tally(len(mine), truncated)
                    pieces += mine
            except Unanswerable as reason:
                refused.append((index, Output(failure=str(reason))))
        if refused:
            yield refused
        yield from self._likelihoods(pieces, tallies)
        yield from self._generations(prompts)

    # ---------------------------------------------------------------- likelihoods

    def _pieces(self, index: int, request: LogLikelihood | RollingLogLikelihood) -> tuple[list[Piece], bool]:
        """The pieces of one request, and whether its context was cut to fit."""
        if isinstance(request, RollingLogLikelihood):
            return [self._piece(index, pair)[0] for pair in self._windows(request.text)], False
        context = request.context if isinstance(request.context, str) else self._model.render(request.context)
        piece, truncated = self._piece(index, self._encoder.pair(context, request.continuation))
        return [piece], truncated

    def _windows(self, text: str) -> list[Pair]:
        prefix, ids = self._encoder.prefix, self._encoder.text(text)
        if prefix is None:
            raise Unanswerable("the tokenizer has neither a BOS nor an EOS token to start the text from")
        if not ids:
            raise Unanswerable("the text has no tokens")
        return list(rolling_windows(ids, prefix, self._model.room))

    def _piece(self, index: int, pair: Pair) -> tuple[Piece, bool]:
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
        return Piece(index, tuple(context[max(over, 0) :]), tuple(continuation)), over > 0

    def _likelihoods(self, pieces: Sequence[Piece], tallies: dict[int, Tally]) -> Iterator[Answers]:
        def run(rows: Sequence[Row]) -> Answers:
            with self._model.activate() as model:
                read = read_batch(model, rows, self._model.device)
            return settle(read, tallies)

        def give_up(row: Row) -> Answers:
            indices = dict.fromkeys(p.index for p in row.pieces if tallies[p.index].pending > 0)
            for index in indices:
                tallies[index].pending = -1  # the request's other pieces can no longer complete it
            return [(index, Output(failure=OUT_OF_MEMORY)) for index in indices]

        yield from filter(None, in_batches(rows_of(pieces), self._size, run, give_up))

    # ---------------------------------------------------------------- generations

    def _prompt(self, index: int, request: Generate) -> Prompt:
        text = request.prompt if isinstance(request.prompt, str) else self._model.render(request.prompt)
        ids = self._encoder.prompt(text)
        if not ids and self._encoder.prefix is not None:
            ids = [self._encoder.prefix]
        if not ids:
            raise Unanswerable("the prompt has no tokens")
        room, wanted = self._model.room, request.max_tokens
        if self._cuts:
            if wanted >= room:
                raise Unanswerable(f"{wanted} new tokens leave nothing of the context of {room} for a prompt")
            kept = tuple(ids[-(room - wanted) :])
            return Prompt(index, kept, request, wanted, truncated=len(kept) < len(ids))
        if len(ids) >= room:
            raise Unanswerable(f"prompt of {len(ids)} tokens leaves no room in the context of {room}")
        return Prompt(index, tuple(ids), request, min(wanted, room - len(ids)))

    def _generations(self, prompts: Sequence[Prompt]) -> Iterator[Answers]:
        ordered = sorted(prompts, key=lambda p: (-len(p.ids), p.index))
        for group in self._paddable(ordered):
            yield from in_batches(
                group,
                self._size,
                lambda batch: decode_batch(self._model, batch),
                lambda prompt: [(prompt.index, Output(failure=OUT_OF_MEMORY))],
            )

    def _paddable(self, ordered: Sequence[Prompt]) -> list[Sequence[Prompt]]:
        """The prompts in groups that may be padded to one length.

        PEFT puts virtual tokens before the padding and then drops the position ids that would step over it, so with
        a prompt-learning adapter an answer would depend on how much padding its row got: only equal lengths mix.
        """
        if not self._model.virtual_tokens:
            return [ordered]
        return [list(group) for _, group in itertools.groupby(ordered, key=lambda p: len(p.ids))]
