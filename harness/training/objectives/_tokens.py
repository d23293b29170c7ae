"""Rows into token ids, exactly as the gate's local subject will meet them when it asks the trained model.

TRL tokenises a prompt and its completion together and cuts where the two diverge, with no more than one warning when
they do so inside the prompt: what is trained then is not what is asked later. Here the prompt is encoded as it is
asked, by the same code, and the completion follows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from harness.engine._encoding import Encoder
from harness.errors import ConfigError

Ids = tuple[int, ...]
Messages = Sequence[Mapping[str, Any]]
Learn = Literal["assistant", "last", "all"]


class RowProblem(Exception):
    """Nothing can be learnt from a row as it is; the message says why, and the caller adds which row."""


@dataclass(frozen=True, slots=True)
class Tokenised:
    """A sequence, and which of its tokens carry a loss; both are of equal length.

    A `read` one is no more than that: a classifier's text, or a prompt; no token of it is predicted.
    """

    ids: Ids
    learnt: tuple[bool, ...]
    read: bool = False

    @classmethod
    def of(cls, prompt: Ids, completion: Ids) -> Tokenised:
        """A completion that is learnt behind a prompt that is not."""
        return cls(prompt + completion, (False,) * len(prompt) + (True,) * len(completion))

    @classmethod
    def to_read(cls, ids: Ids) -> Tokenised:
        """A sequence that something is said about, and nothing in it is predicted."""
        return cls(ids, (True,) * len(ids), read=True)

    @property
    def prompt(self) -> Ids:
        """What precedes the first token that is learnt."""
        return self.ids[: self._start]

    @property
    def completion(self) -> Ids:
        """Everything from the first token that is learnt."""
        return self.ids[self._start :]

    @property
    def labels(self) -> list[int]:
        """The ids, with −100 (no loss) where nothing is learnt."""
        return [token if learnt else -100 for token, learnt in zip(self.ids, self.learnt, strict=True)]

    @property
    def signal(self) -> int:
        """Tokens that are predicted and carry a loss, where nothing predicts the first one; all that are read."""
        return len(self.ids) if self.read else sum(self.learnt[1:])

    def cut(self, length: int) -> Tokenised:
        """The first `length` tokens."""
        return Tokenised(self.ids[:length], self.learnt[:length], self.read)

    @property
    def _start(self) -> int:
        return self.learnt.index(True) if True in self.learnt else len(self.ids)


class Tokens:
    """A tokenizer with the rules of training. `merged` counts prompts whose last token a completion would change."""

    def __init__(self, tokenizer: Any, ends: frozenset[int] = frozenset()) -> None:
        """Wrap the tokenizer of a model that generates; `ends` are further tokens that end an answer.

        Raises:
            ConfigError: the tokenizer has no end token, or puts one behind every prompt.
        """
        if tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer names no end token (eos_token), so no model could learn where to stop")
        if tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]:
            raise ConfigError(
                "the tokenizer puts its end token behind every text, prompts included; load it with add_eos_token: "
                "false"
            )
        self.tokenizer = tokenizer
        self.merged = 0
        self._end = int(tokenizer.eos_token_id)
        self._ends = ends | {self._end}
        self._encoder = Encoder(tokenizer)
        self._training_template: str | None = None

    def text(self, text: str) -> Tokenised:
        """A plain text, of which everything is learnt, the end token included."""
        ids = self._closed(self._encoder.prompt(text))
        return self._checked(Tokenised(ids, (True,) * len(ids)))

    def prompt(self, prompt: str | Messages) -> Ids:
        """A prompt that is to be answered, as the model will be asked it."""
        return self._encoder.prompt(prompt if isinstance(prompt, str) else self._render(prompt, prompt=True))

    def answered(self, prompt: str | Messages, completion: str | Messages) -> Tokenised:
        """A completion behind its prompt, both texts or both messages.

        Raises:
            RowProblem: one is a text and the other messages, or the chat template does not go on from the prompt.
        """
        if isinstance(prompt, str) != isinstance(completion, str):
            raise RowProblem("prompt and completion must both be texts, or both lists of messages")
        if isinstance(prompt, str) and isinstance(completion, str):
            head, tail = self._joined(prompt, completion)
            return self._checked(Tokenised.of(head, self._closed(tail)))
        head, tail = self._joined(*self._turns(cast(Messages, prompt), cast(Messages, completion)))
        return self._checked(Tokenised.of(head, self._until_end(tail)))

    def whole(self, prompt: str | Messages, completion: str | Messages, *, ended: bool = True) -> Ids:
        """A prompt and its answer as a reward model reads them; `ended` is false for an answer that was cut off."""
        sequence = self.answered(prompt, completion)
        if ended or sequence.ids[-1] not in self._ends:
            return sequence.ids
        return sequence.ids[:-1]

    def conversation(self, messages: Messages, learn: Learn) -> Tokenised:
        """A conversation, of which every turn of the assistant, the last one, or everything is learnt.

        Raises:
            RowProblem: there is no turn to learn, or the chat template does not mark the assistant's turns.
        """
        if learn == "last":
            if messages[-1]["role"] != "assistant":
                raise RowProblem("the last message is not the assistant's, so there is no answer to learn")
            return self.answered(messages[:-1], messages[-1:])
        text = self._render(messages)
        ids = self._encoder.prompt(text)
        if learn == "all":
            return self._checked(Tokenised(ids, (True,) * len(ids)))
        sequence = Tokenised(ids, self._marked(messages, ids))
        if not any(token in self._ends for token, on in zip(ids, sequence.learnt, strict=True) if on):
            raise RowProblem(_NO_END + ", inside its {% generation %} block")
        return self._checked(sequence)

    def _joined(self, head: str, tail: str) -> tuple[Ids, Ids]:
        """Ids of two texts that follow each other, the first as if it stood alone."""
        ids, together = self._encoder.prompt(head), self._encoder.prompt(head + tail)
        if together[: len(ids)] == ids:
            return ids, together[len(ids) :]
        self.merged += 1
        return ids, tuple(self.tokenizer(tail, add_special_tokens=False)["input_ids"])

    def _closed(self, ids: Ids) -> Ids:
        return ids if ids and ids[-1] in self._ends else (*ids, self._end)

    def _until_end(self, ids: Ids) -> Ids:
        """Up to the last end token: what a template writes behind it is never asked of the model."""
        last = max((place for place, token in enumerate(ids) if token in self._ends), default=None)
        if last is None:
            raise RowProblem(_NO_END)
        return ids[: last + 1]

    def _checked(self, sequence: Tokenised) -> Tokenised:
        bos = self.tokenizer.bos_token_id
        if bos is not None and sequence.ids[:2] == (bos, bos) and bos != self._end:
            raise RowProblem("it begins with two BOS tokens; take the one out that the text or chat template writes")
        return sequence

    def _turns(self, prompt: Messages, completion: Messages) -> tuple[str, str]:
        """Text of a prompt, and of the answer behind it.

        A template may render a turn otherwise once it is answered (it drops reasoning, for one). TRL has templates for
        training of the usual families that do not; they are tried next.
        """
        for template in (None, self._template_for_training()):
            head = self._render(prompt, prompt=True, template=template)
            whole = self._render([*prompt, *completion], template=template)
            if whole.startswith(head):
                return head, whole[len(head) :]
        raise RowProblem(
            "the chat template renders the prompt otherwise once it is answered, so that training would not see what "
            "is asked later; give a chat template that does not, or rows of texts"
        )

    def _marked(self, messages: Messages, ids: Ids) -> tuple[bool, ...]:
        template = self.tokenizer.chat_template
        if not (isinstance(template, str) and _has_markers(template)):
            template = self._template_for_training()
        if template is None or not _has_markers(template):
            raise RowProblem(
                "the chat template does not mark the assistant's turns; put {% generation %} … {% endgeneration %} "
                "around them, or learn: last (the last answer) or all (every token, the user's included)"
            )
        try:
            made = self.tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=True, return_dict=True,
                return_assistant_tokens_mask=True,
            )  # fmt: skip
        except Exception as error:  # see _render
            raise RowProblem(f"the chat template refuses these messages: {error}") from error
        mask = tuple(bool(on) for on in made["assistant_masks"])
        bare = tuple(made["input_ids"])
        if not any(mask):
            raise RowProblem("no token of it is the assistant's, so there is nothing to learn")
        if ids == bare:
            return mask
        if ids[1:] == bare:  # the subject puts a BOS before what the template writes
            return (False, *mask)
        raise RowProblem("the template for training writes another text than the tokenizer's own; use learn: last")

    def _template_for_training(self) -> str | None:
        from trl.chat_template_utils import get_training_chat_template

        if self._training_template is None:
            try:
                self._training_template = get_training_chat_template(self.tokenizer) or ""
            except Exception:  # TRL knows no template for this family, or the tokenizer's cannot be probed
                self._training_template = ""
        return self._training_template or None

    def _render(self, messages: Messages, *, prompt: bool = False, template: str | None = None) -> str:
        if not self.tokenizer.chat_template:
            raise RowProblem("it holds messages, and the tokenizer has no chat template; give one with chat_template")
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), chat_template=template, tokenize=False, add_generation_prompt=prompt
                )
            )
        except Exception as error:  # a template is code of its author; jinja2 lets its exceptions through
            raise RowProblem(f"the chat template refuses these messages: {error}") from error


_NO_END = (
    "the chat template ends the assistant's turn with no end token, so the model would never learn to stop; write "
    "{{ eos_token }} behind the content of an assistant's turn"
)


def _has_markers(template: str) -> bool:
    return "generation %}" in template.replace("-%}", " %}") and "endgeneration" in template


def end_tokens(model: Any) -> frozenset[int]:
    """Tokens that end an answer by the model's generation config."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)
