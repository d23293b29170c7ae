"""Another subject behind a fixed prompt: an instruction, examples, or both, put before everything that it is asked.

A prompt is the cheapest change to a model, so it is what a fine-tuned one has to beat: it can be the baseline of a
gate, or its candidate. The file that `prompt` names is YAML:

    system: Answer with the number alone.      # optional
    shots:                                     # optional
      - {prompt: "2 + 2 =", answer: "4"}
    separator: "\\n\\n"                          # in plain text, between instruction, shots and question
    until: ["\\n\\n"]                            # in plain text, also ends an answer: no shot may contain it

Messages get the instruction as a system turn (joined to the request's own, where it has one) and each shot as a user
and an assistant turn. Plain text gets all of it as text; an answer follows its prompt after one space, unless white
space is there already. A text that was rendered with the chat template before it came here is refused, as a failed
observation, because a prompt in front of it would be outside the conversation; so is a request for the likelihood of
a whole text, which no prompt goes before.

The ids and log-probabilities of tokens are left out of the outputs: they were given another context than the request
says, so to set them against another subject's, token by token, would mean nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness import plugins
from harness.config import Section, SubjectSection, explain_at, read_yaml
from harness.drift import common_prefix
from harness.errors import ConfigError, SubjectError, at
from harness.records import (
    Check,
    Draft,
    Generate,
    LogLikelihood,
    Message,
    Output,
    Request,
    RollingLogLikelihood,
    content_hash,
)
from harness.subjects import Answers, Selective, Subject, SubjectContext

_FORMAT = 1  # part of every fingerprint; to be counted up when the same file would make another request


class Options(BaseModel):
    """What gate.yaml may say of a prompted subject."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(description="YAML file of the prompt, relative to gate.yaml")
    subject: SubjectSection = Field(description="the subject behind it, as it would stand in gate.yaml by itself")


class Shot(Section):
    """One example of a question and its answer."""

    prompt: str = Field(min_length=1)
    answer: str = Field(min_length=1)


class Prompt(Section):
    """A whole prompt file; see the module."""

    system: str | None = Field(None, min_length=1)
    shots: tuple[Shot, ...] = ()
    separator: str = Field("\n\n", min_length=1)
    until: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _answers_end(self) -> Prompt:
        if "" in self.until:
            raise ValueError("until: an empty string would end every answer at once")
        for shot in self.shots:
            for stop in self.until:
                if stop in shot.answer:
                    raise ValueError(f"until: {stop!r} ends an answer, and the answer of a shot contains it")
        return self

    def turns(self) -> tuple[Message, ...]:
        """The shots as a conversation."""
        return tuple(
            turn for shot in self.shots for turn in (Message("user", shot.prompt), Message("assistant", shot.answer))
        )

    def text(self) -> str:
        """Instruction and shots as plain text, ending where the question begins."""
        shots = [shot.prompt + joint(shot.prompt, shot.answer) + shot.answer for shot in self.shots]
        parts = [*([self.system] if self.system else []), *shots]
        return "".join(part + self.separator for part in parts)

    def before(self, request: Request) -> Request:
        """`request` with this prompt before it; a RollingLogLikelihood has no place for one and is not given here."""
        if isinstance(request, Generate):
            if isinstance(request.prompt, str):
                until = tuple(dict.fromkeys([*request.until, *self.until]))
                return replace(request, prompt=self.text() + request.prompt, until=until)
            return replace(request, prompt=self._in_conversation(request.prompt))
        if isinstance(request, LogLikelihood):
            if isinstance(request.context, str):
                return replace(request, context=self.text() + request.context)
            return replace(request, context=self._in_conversation(request.context))
        raise ValueError("no prompt goes before the likelihood of a whole text")

    def _in_conversation(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        theirs = [messages[0].content] if messages[0].role == "system" else []
        system = self.separator.join([*([self.system] if self.system else []), *theirs])
        first = (Message("system", system),) if system else ()
        return (*first, *self.turns(), *messages[len(theirs) :])


def joint(prompt: str, answer: str) -> str:
    """What stands between a prompt and its answer in plain text, as between a golden sample and a choice."""
    return "" if prompt[-1:].isspace() or answer[:1].isspace() else " "


def read_prompt(path: Path) -> Prompt:
    """The prompt in a file.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a wrong value, or nothing in it.
    """
    document, lines = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{at(path)}expected a mapping with system, shots or both")
    try:
        prompt = Prompt.model_validate(document)
    except ValidationError as error:
        raise ConfigError(explain_at(error, Prompt, path, lines)) from error
    if prompt.system is None and not prompt.shots:
        raise ConfigError(f"{at(path)}neither system nor shots: this prompt changes nothing")
    return prompt


def build(options: Options, context: SubjectContext) -> PromptedSubject:
    """The subject plugin contract.

    Raises:
        ConfigError: the prompt file or the inner subject's section is wrong.
        SubjectError, AdapterError: the inner subject cannot be loaded.
    """
    path = context.folder / options.prompt
    prompt = read_prompt(path)
    section = options.subject
    chosen = plugins.options("subjects", section.kind, section.options, where="prompted: subject")
    inner: Subject = plugins.load("subjects", section.kind).build(chosen, context)
    inner.name = section.name or inner.name
    return PromptedSubject(prompt, path.stem, inner)


def unprompted(subject: Subject) -> Subject:
    """What is behind the prompt; any other subject itself."""
    while isinstance(subject, PromptedSubject):
        subject = subject.inner
    return subject


@dataclass(slots=True)
class _Split:
    """Requests that go on to the inner subject, with their places, and those that are refused."""

    asked: list[Request]
    places: list[int]
    refused: Answers


class PromptedSubject:
    """See `harness.subjects.Subject` and the module."""

    def __init__(self, prompt: Prompt, title: str, inner: Subject) -> None:
        self.name = f"{inner.name} prompted with {title}"
        self.prompt = prompt
        self.inner = inner
        self._digest = content_hash(prompt.model_dump(mode="json"))
        self.fingerprint = content_hash({"prompted": _FORMAT, "prompt": self._digest, "inner": inner.fingerprint})
        self.chat_fingerprint = inner.chat_fingerprint

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """A rendered conversation has no place left for a prompt; always raises ConfigError."""
        raise ConfigError(
            f"{self.name} cannot be asked by a suite that renders the chat template itself (a capability suite with "
            "chat_template: true); leave the template out there, or use a golden suite with chat: true"
        )

    def answer(self, requests: Sequence[Request], drafts: Sequence[Draft | None] = ()) -> Iterator[Answers]:
        """See `Subject.answer`; what has no place for a prompt is answered with a failure."""
        split = self._split(requests)
        if split.refused:
            yield split.refused
        given = [drafts[place] for place in split.places] if drafts else []
        for batch in self.inner.answer(split.asked, given) if split.asked else ():
            yield [(split.places[i], replace(output, ids=(), logprobs=())) for i, output in batch]

    def refusal(self, request: Request) -> str | None:
        """See `Selective.refusal`: what the inner subject says."""
        return self.inner.refusal(request) if isinstance(self.inner, Selective) else None

    def remarks(self) -> Sequence[str]:
        """See `Subject.remarks`."""
        return self.inner.remarks()

    def checks(self, baseline: Subject) -> Sequence[Check]:
        """See `Subject.checks`: the inner subject's own, but that a prompt makes another subject of the baseline."""
        from harness.subjects import _checks  # which asks a prompted baseline without its prompt

        found = self.inner.checks(baseline)
        ours = _checks.not_the_baseline(baseline, self)
        return [ours if check.name == ours.name else check for check in found]

    def describe(self) -> dict[str, Any]:
        """See `Subject.describe`: the inner subject's, under the name and fingerprint of this one."""
        inner = self.inner.describe()
        shown: dict[str, Any] = {
            key: inner[key] for key in ("tokenizer_sha256", "chat_template_sha256") if key in inner
        }
        return {
            "kind": "prompted",
            "name": self.name,
            "fingerprint": self.fingerprint,
            "chat_fingerprint": self.chat_fingerprint,
            "prompt": self.prompt.model_dump(mode="json"),
            "prompt_sha256": self._digest,
            **shown,
            "subject": inner,
        }

    def close(self) -> None:
        """See `Subject.close`."""
        self.inner.close()

    def _split(self, requests: Sequence[Request]) -> _Split:
        split = _Split([], [], [])
        for place, request in enumerate(requests):
            reason = self._refusal(request)
            if reason is None:
                split.asked.append(self.prompt.before(request))
                split.places.append(place)
            else:
                split.refused.append((place, Output(failure=reason)))
        return split

    def _refusal(self, request: Request) -> str | None:
        if isinstance(request, RollingLogLikelihood):
            return "the likelihood of a whole text has no place for a prompt before it"
        text = request.prompt if isinstance(request, Generate) else request.context
        if isinstance(text, str) and text.startswith(self._heads):
            return "the chat template was applied already, so a prompt would stand outside the conversation"
        return None

    @functools.cached_property
    def _heads(self) -> tuple[str, ...]:
        """What a conversation begins with under the inner subject's chat template, by the role that comes first."""
        return tuple(head for head in (self._head("user"), self._head("system")) if head)

    def _head(self, role: str) -> str:
        turns = [[Message(role, first), Message("user", "c")] for first in "ab"]
        if role == "user":
            turns = [conversation[:1] for conversation in turns]
        try:
            one, other = (self.inner.render_chat(conversation) for conversation in turns)
        except SubjectError:  # no chat template, or none for this role: then no text can come from one
            return ""
        return one[: common_prefix(one, other)]
