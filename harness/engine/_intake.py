"""Requests to token ids, with what cannot be put to the model sorted out first: the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.engine import Answers, CausalModel
from harness.engine._answers import Prompt
from harness.engine._encoding import Pair, rolling_windows
from harness.engine._likelihood import Piece, Tally
from harness.errors import SubjectError
from harness.records import Generate, LogLikelihood, Message, Output, Request


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
        self._complete = len(model.tokenizer) <= model.vocabulary  # then no id can be unknown

    def sort(self, requests: Sequence[Request], drafts: Mapping[int, Sequence[int]]) -> Work:
        """All of `requests`; `drafts` maps an index to token ids that its answer may turn out to have."""
        work = Work()
        texts: dict[int, tuple[str, str]] = {}
        for index, request in enumerate(requests):
            try:
                texts[index] = self._texts(request)
            except Unanswerable as reason:
                work.refused.append((index, Output(failure=str(reason))))
        self._encoder.prime([texts[i] for i in texts if isinstance(requests[i], LogLikelihood)])
        for index, text in texts.items():
            try:
                self._admit(work, index, requests[index], text, drafts)
            except Unanswerable as reason:
                work.refused.append((index, Output(failure=str(reason))))
        return work

    def _admit(
        self, work: Work, index: int, request: Request, text: tuple[str, str], drafts: Mapping[int, Sequence[int]]
    ) -> None:
        if isinstance(request, Generate):
            work.prompts.append(self._prompt(index, request, text[0], tuple(drafts.get(index, ()))))
        elif isinstance(request, LogLikelihood):
            self._score(work, index, [self._encoder.pair(*text)])
        else:
            self._score(work, index, self._windows(text[0]))

    def _texts(self, request: Request) -> tuple[str, str]:
        """What the tokenizer is given: a context or text, and what follows it."""
        if isinstance(request, LogLikelihood):
            texts = (self._rendered(request.context), request.continuation)
        else:
            texts = (self._asked(request) if isinstance(request, Generate) else request.text, "")
        try:
            for text in texts:
                text.encode()
        except UnicodeEncodeError as error:
            raise Unanswerable(f"its text is no valid Unicode: {error}") from error
        return texts

    def _asked(self, request: Generate) -> str:
        if request.response_format:
            raise Unanswerable("a local model cannot be held to a response format; ask without, or serve it")
        return self._rendered(request.prompt, request.tools)

    def _rendered(self, prompt: str | tuple[Message, ...], tools: str = "") -> str:
        if isinstance(prompt, str):
            return prompt
        if any(message.pictures for message in prompt):
            raise Unanswerable("a local text model takes no pictures; serve a model that does, or leave such calls out")
        try:
            return self._model.render(prompt, tools)
        except SubjectError as error:
            if not getattr(self._model.tokenizer, "chat_template", None):
                raise  # then no conversation can be asked at all
            raise Unanswerable(str(error)) from error  # a template may refuse one conversation, and take others

    def _score(self, work: Work, index: int, pairs: Sequence[Pair]) -> None:
        made = [self._piece(index, pair) for pair in pairs]
        work.tallies[index] = Tally(len(made), truncated=any(cut for _, cut in made))
        work.pieces += [piece for piece, _ in made]

    def _windows(self, text: str) -> list[Pair]:
        if self._model.room < 1:
            raise Unanswerable(f"virtual tokens leave nothing of the context of {self._model.max_length}")
        prefix, ids = self._encoder.prefix, self._encoder.text(text)
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
        self._refuse_unknown(context + continuation)
        over = len(context) + len(continuation) - 1 - self._model.room
        if over > 0 and (not self._cuts or len(continuation) > self._model.room):
            raise Unanswerable(
                f"prompt of {len(context)} tokens + continuation of {len(continuation)} exceeds the context of "
                f"{self._model.room}"
            )
        return Piece(index, context[over:] if over > 0 else context, continuation), over > 0

    def _refuse_unknown(self, ids: tuple[int, ...]) -> None:
        """Tokens that were added to a tokenizer and not to its model; a GPU would fail for all that comes after."""
        if self._complete or max(ids) < self._model.vocabulary:
            return
        token = self._model.tokenizer.convert_ids_to_tokens(max(ids))
        raise Unanswerable(f"token {max(ids)} ({token!r}) is none of the {self._model.vocabulary} that the model knows")

    def _prompt(self, index: int, request: Generate, text: str, draft: tuple[int, ...]) -> Prompt:
        ids = self._encoder.prompt(text)
        if not ids and self._encoder.prefix is not None:
            ids = (self._encoder.prefix,)
        if not ids:
            raise Unanswerable("the prompt has no tokens")
        self._refuse_unknown(ids)
        room, wanted = self._model.room, request.max_tokens
        if self._cuts:
            if wanted >= room:
                raise Unanswerable(f"{wanted} new tokens leave nothing of the context of {room} for a prompt")
            kept = ids[-(room - wanted) :]
            return Prompt(index, kept, request, wanted, truncated=len(kept) < len(ids), draft=draft)
        if len(ids) >= room:
            raise Unanswerable(f"prompt of {len(ids)} tokens leaves no room in the context of {room}")
        return Prompt(index, ids, request, min(wanted, room - len(ids)), draft=draft)
