"""The reference engine: padded batches, one forward pass a row, the model's own `generate`.

Simple enough to be believed, and equal to lm-eval's Hugging Face backend item by item (log-likelihoods within 1e-4 and
the same greedy text in float32), with three differences on purpose: log-softmax is always taken in float32; a request
that does not fit the context is a failure unless truncation is asked for; and every row stops by itself, where lm-eval
lets a finished row run on until its whole batch is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.engine import Answers, CausalModel
from harness.engine._answers import Prompt
from harness.engine._batches import OUT_OF_MEMORY, in_batches
from harness.engine._decoding import alike, decode_batch, rules_of, trial
from harness.engine._intake import Intake
from harness.engine._likelihood import Piece, Row, Tally, read_batch, rows_of, settle
from harness.engine._rope import relax
from harness.records import Output, Request


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


class PlainEngine:
    """See the module. Nothing is kept between calls."""

    def __init__(self, options: Options, model: CausalModel) -> None:
        """Keep the model; nothing is computed yet."""
        self._model = model
        self._size = options.batch_size
        self._intake = Intake(model, cuts=options.truncate == "left")
        self._tried = self._lonely = False

    @property
    def usage(self) -> Counter[str]:
        """Nothing is counted."""
        return Counter()

    def remarks(self) -> Sequence[str]:
        """See `Engine.remarks`."""
        if not self._lonely:
            return ()
        return ["prompts are answered one by one: a trial showed that in a batch this model's answers are others"]

    def answer(self, requests: Sequence[Request], drafts: Mapping[int, Sequence[int]]) -> Iterator[Answers]:
        """See `Engine.answer`: likelihoods first, longest first, then generations, without any draft."""
        work = self._intake.sort(requests, {})
        if work.refused:
            yield work.refused
        yield from self.likelihoods(work.pieces, work.tallies)
        yield from self.generations(work.prompts)

    def likelihoods(self, pieces: Sequence[Piece], tallies: dict[int, Tally]) -> Iterator[Answers]:
        """The answers of the requests that `pieces` complete, longest first; `tallies` receive what is read."""

        def run(rows: Sequence[Row]) -> Answers:
            with self._model.activate() as model:
                if len(rows[0].inputs) > self._model.sociable:
                    relax(model, self._model.device)
                read = read_batch(model, rows, self._model.device)
            return settle(read, tallies)

        def give_up(row: Row) -> Answers:
            indices = dict.fromkeys(p.index for p in row.pieces if tallies[p.index].pending > 0)
            for index in indices:
                tallies[index].pending = -1  # the request's other pieces can no longer complete it
            return [(index, Output(failure=OUT_OF_MEMORY)) for index in indices]

        rows = rows_of(pieces)
        alone = sum(len(row.inputs) > self._model.sociable for row in rows)  # they come first
        yield from filter(None, in_batches(rows[:alone], 1, run, give_up))
        yield from filter(None, in_batches(rows[alone:], self._size, run, give_up))

    def generations(self, prompts: Sequence[Prompt]) -> Iterator[Answers]:
        """The answers to `prompts`, longest first."""
        ordered = sorted(prompts, key=lambda p: (-len(p.ids), p.index))
        size = 1 if min(len(prompts), self._size) > 1 and self._lonely_generation() else self._size
        for group in self._companies(ordered):
            yield from in_batches(
                group,
                size,
                lambda batch: decode_batch(self._model, batch),
                lambda prompt: [(prompt.index, Output(failure=OUT_OF_MEMORY))],
            )

    def _lonely_generation(self) -> bool:
        """Whether prompts must be decoded one by one, found out once: some models ignore the padding's mask."""
        if not self._tried:
            prompts = trial(self._model)
            together = decode_batch(self._model, prompts)
            alone = [answer for prompt in prompts for answer in decode_batch(self._model, [prompt])]
            self._lonely = not all(
                alike(a, b, self._model.dtype) for (_, a), (_, b) in zip(together, alone, strict=True)
            )
            self._tried = True  # last: a trial that was interrupted has shown nothing
        return self._lonely

    def _companies(self, ordered: Sequence[Prompt]) -> Iterator[list[Prompt]]:
        """The prompts in groups that may be padded to one length and decoded together.

        A row runs on until its whole batch is done, so the longest prompt with the longest answer must stay within
        what the model knows: behind it, learned positions end and some rotary ones change for all rows.
        PEFT puts virtual tokens before the padding and then drops the position ids that would step over it, so with
        a prompt-learning adapter an answer would depend on how much padding its row got: only equal lengths mix.
        Rules of a generation config may count the padding, and the longest answer's limit, as a row's own.
        """
        with self._model.activate() as model:
            ruled = bool(rules_of(model))
        even = ruled or bool(self._model.virtual_tokens)
        if ruled:
            ordered = sorted(ordered, key=lambda p: (-len(p.ids), p.limit, p.index))
        group: list[Prompt] = []
        limit = 0
        for prompt in ordered:
            limit = max(limit, prompt.limit)
            unlike = bool(group) and even and len(group[0].ids) != len(prompt.ids)
            unlike = unlike or (bool(group) and ruled and group[0].limit != prompt.limit)
            if group and (unlike or len(group[0].ids) + limit > self._model.sociable):
                yield group
                group, limit = [], prompt.limit
            group.append(prompt)
        if group:
            yield group
