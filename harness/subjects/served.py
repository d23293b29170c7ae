"""A model behind an API: a server that speaks OpenAI's API, or any provider that litellm knows

A conversation goes to the server as it is, which applies its own chat template. A prompt that is plain text goes as the
one message of a user, or, with `completions: true`, as text to be continued. A server tells no log-probabilities of a
text that it is given, so what asks for them is refused: before a gate begins where it can be, else as a failed
observation.

The fingerprint covers the options that can change an answer and what the server lists of the model at /models, but not
its weights, which nobody shows. Where another model comes to stand behind the same name, say so with `revision`, or
answers to the old one will be taken for its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from harness.errors import ConfigError, SubjectError, nearest
from harness.records import Check, Draft, Generate, Message, Output, Request, content_hash
from harness.served import Question, Reply, ServedOptions
from harness.served.client import Client
from harness.subjects import Answers, Subject, SubjectContext, _checks

_STABLE = ("id", "root", "parent", "owned_by", "max_model_len")
"""What stays the same from one listing to the next; some servers put the time of the request into `created`."""

_SILENT = 20  # requests in a row that found no server, before nobody is asked any more
_ASKED_AT_ALL = ("empty", "truncated", "filtered", "unreadable")  # failures of a server that answers

NO_LOGPROBS = "a served model tells no log-probabilities of a text that it is given; measure it by what it writes"


class Options(ServedOptions):
    """What gate.yaml may say of a served subject."""

    completions: bool = Field(False, description="send plain text to /v1/completions, past the chat template")
    revision: str | None = Field(None, description="what stands behind the name, in your words; a new one asks anew")


def build(options: Options, context: SubjectContext) -> ServedSubject:
    """The subject plugin contract.

    Raises:
        ConfigError: the variable of the key holds none, or litellm does not know the provider.
        SubjectError: the server is not there, or does not accept the key.
    """
    return ServedSubject(options)


class ServedSubject:
    """See `harness.subjects.Subject`."""

    def __init__(self, options: Options) -> None:
        self.name = options.model
        self._options = options
        self._client = Client(options)
        try:
            self._names = self._client.listed()
        except BaseException:
            self._client.close()
            raise
        self._listed = _stable(self._names.get(options.model.partition("/")[2], {}))
        self.fingerprint = content_hash(
            {
                "client": self._client.fingerprint,
                "listed": self._listed,
                "completions": options.completions,
                "revision": options.revision,
            }
        )
        self.chat_fingerprint = content_hash(["served", self.fingerprint])

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The template is the server's own; always raises ConfigError."""
        raise ConfigError(
            f"{self.name} is served, so its chat template cannot be applied here (a capability suite with "
            "chat_template: true); leave the template out there, or use a golden suite with chat: true"
        )

    def refusal(self, request: Request) -> str | None:
        """See `harness.subjects.Selective`."""
        return None if isinstance(request, Generate) else NO_LOGPROBS

    def answer(self, requests: Sequence[Request], drafts: Sequence[Draft | None] = ()) -> Iterator[Answers]:
        """See `Subject.answer`; a served model takes no draft.

        Raises:
            SubjectError: the server does not accept the key, or is gone.
        """
        places = [place for place, request in enumerate(requests) if isinstance(request, Generate)]
        refused = set(range(len(requests))).difference(places)
        if refused:
            yield [(place, Output(failure=NO_LOGPROBS)) for place in sorted(refused)]
        silent = 0
        questions = [self._question(request) for request in requests if isinstance(request, Generate)]
        for batch in self._client.batches(questions):
            yield [(places[i], _output(reply)) for i, reply in batch]
            for _, reply in batch:
                silent = self._still_there(reply, silent)

    def remarks(self) -> Sequence[str]:
        """See `Subject.remarks`."""
        return self._client.remarks()

    def checks(self, baseline: Subject) -> Sequence[Check]:
        """See `Subject.checks`: it is not the baseline, and every server answers under the name that it was given."""
        served = [subject for subject in (baseline, self) if isinstance(subject, ServedSubject)]
        unknown = "not known: a server applies its own chat template and shows it to nobody"
        return [
            _checks.not_the_baseline(baseline, self),
            *(subject.answers_check() for subject in served),
            _checks.same_tokenizer(baseline, self),
            Check("same-chat-template", True, unknown),
        ]

    def answers_check(self) -> Check:
        """Check "server-answers": one short question is put, and anything but an error will do."""
        asked = Question((Message("user", "Say yes."),), max_tokens=16, raw=self._options.completions)
        ((_, reply),) = self._client.ask([asked])
        failure = reply.failure
        if failure is None or failure.kind in _ASKED_AT_ALL:
            return Check("server-answers", True, f"{self.name} answers")
        name = self._options.model.partition("/")[2]
        hint = f"; of the models that it lists, {nearest(name, self._names)}" if name not in self._names else ""
        detail = f"{self.name} does not answer ({failure.kind}): {failure.detail}"
        return Check("server-answers", False, detail + (hint if self._names else ""))

    def describe(self) -> dict[str, Any]:
        """See `Subject.describe`."""
        return {
            "kind": "served",
            "name": self.name,
            "fingerprint": self.fingerprint,
            "model": self._options.model,
            "api_base": self._client.address,
            "completions": self._options.completions,
            "revision": self._options.revision,
            "listed": self._listed,
        }

    def close(self) -> None:
        """See `Subject.close`."""
        self._client.close()

    def _question(self, request: Generate) -> Question:
        plain = isinstance(request.prompt, str)
        messages = (Message("user", request.prompt),) if isinstance(request.prompt, str) else request.prompt
        return Question(
            messages,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            until=request.until,
            raw=plain and self._options.completions,
            tools=request.tools,
            tool_choice=request.tool_choice,
            response_format=request.response_format,
        )

    def _still_there(self, reply: Reply, silent: int) -> int:
        """How many replies in a row found no server, this one included.

        Raises:
            SubjectError: too many, or one that says that nothing will ever be answered.
        """
        kind = None if reply.failure is None else reply.failure.kind
        silent = silent + 1 if kind == "connection" else 0
        if reply.failure is not None and (kind == "authentication" or silent >= _SILENT):
            raise SubjectError(f"{self.name} cannot be asked ({kind}): {reply.failure.detail}")
        return silent


def _stable(listed: Mapping[str, Any]) -> dict[str, Any]:
    """The texts and whole numbers of a server's entry that do not change from one listing to the next."""
    inner = listed.get("meta")  # llama.cpp's: sizes of the model
    values = {**(inner if isinstance(inner, dict) else {}), **{key: listed.get(key) for key in _STABLE}}
    short = {key: value[:200] if isinstance(value, str) else value for key, value in values.items()}
    return {key: value for key, value in sorted(short.items())[:50] if isinstance(value, (str, int))}


def _output(reply: Reply) -> Output:
    if reply.failure is not None:
        return Output(failure=f"{reply.failure.kind}: {reply.failure.detail}")
    return Output(
        text=reply.text,
        tokens=reply.completion_tokens,
        truncated=reply.truncated,
        tool_calls=reply.tool_calls,
        finish=reply.finish,
        seconds=reply.latency,
        read=reply.prompt_tokens,
    )
