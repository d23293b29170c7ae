"""A subject that reads its answers from a file: outputs recorded elsewhere can be gated, and a gate tried out, without
a model.

`answers` is JSONL. A row with `prompt` and `text` answers a generation, and may hold the `ids` and `logprobs` of its
tokens and the number of `near_ties`; one with `context`, `continuation`, `logprob` and `is_greedy` answers a
log-likelihood. A prompt of messages is looked up by its text, a line `role: content` each. A request that the file does
not answer is a failed observation. With `answered_by`, the folder of the adapter that gave the answers, what was gated
can also be promoted; that it did give them is the word of whoever wrote the file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from harness import adapters
from harness.errors import DataError, at
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
from harness.subjects import Answers, Subject, SubjectContext

_Key = tuple[str, ...]


class Options(BaseModel):
    """What gate.yaml may say of a scripted subject."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    answers: str = Field(description="JSONL file of answers, relative to gate.yaml")
    batch_size: int = Field(16, ge=1, description="answers given at a time")
    delay: float = Field(0.0, ge=0, description="seconds a batch takes, to try out progress and resuming")
    answered_by: str | None = Field(None, description="folder of the adapter that gave these answers, to be promoted")
    log: str | None = Field(None, description="file that gets one line for every request asked")


def build(options: Options, context: SubjectContext) -> ScriptedSubject:
    """The subject plugin contract.

    Raises:
        DataError: the file of answers cannot be read or a row is wrong, or there is no such adapter.
    """
    path = context.folder / options.answers
    adapter = None if options.answered_by is None else (context.folder / options.answered_by).resolve()
    if adapter is not None and not adapter.is_dir():
        raise DataError(f"{at(adapter)}no such folder; it should hold the adapter that gave the answers in {path}")
    log = context.folder / options.log if options.log else None
    return ScriptedSubject(path, _read_answers(path), options, log, adapter)


class ScriptedSubject:
    """See `harness.subjects.Subject`."""

    def __init__(
        self, path: Path, answers: dict[_Key, Output], options: Options, log: Path | None, adapter: Path | None = None
    ) -> None:
        self.name = path.stem
        self.fingerprint = content_hash(sorted([list(k), repr(v)] for k, v in answers.items()))
        self.chat_fingerprint = content_hash("scripted")
        self._answers = answers
        self._options = options
        self._log = log
        self._adapter = adapter

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """See `Subject.render_chat`."""
        return _as_text(tuple(messages))

    def answer(self, requests: Sequence[Request], drafts: Sequence[Draft | None] = ()) -> Iterator[Answers]:
        """See `Subject.answer`; a script needs no draft."""
        size = self._options.batch_size
        for start in range(0, len(requests), size):
            batch = range(start, min(start + size, len(requests)))
            self._write_log([requests[i] for i in batch])
            time.sleep(self._options.delay)
            yield [(i, self._answers.get(_key_of(requests[i]), _UNKNOWN)) for i in batch]

    def remarks(self) -> Sequence[str]:
        """Nothing to tell."""
        return ()

    def checks(self, baseline: Subject) -> Sequence[Check]:
        """Nothing to check: a script cannot be applied wrongly."""
        return ()

    def describe(self) -> dict[str, Any]:
        """See `Subject.describe`."""
        made_by = {} if self._adapter is None else {"artifact": adapters.promotable(self._adapter, "adapter")}
        said = {"kind": "scripted", "name": self.name, "fingerprint": self.fingerprint, "answers": len(self._answers)}
        return {**said, **made_by}

    def close(self) -> None:
        """Nothing is held."""

    def _write_log(self, requests: Sequence[Request]) -> None:
        if self._log is not None:
            with open(self._log, "a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(_key_of(request)) + "\n" for request in requests)


_UNKNOWN = Output(failure="the file of answers has none for this request")


def _key_of(request: Request) -> _Key:
    match request:
        case Generate(prompt=prompt):
            return ("generate", _as_text(prompt))
        case LogLikelihood(context=context, continuation=continuation):
            return ("loglikelihood", _as_text(context), continuation)
        case RollingLogLikelihood(text=text):
            return ("loglikelihood", "", text)


def _as_text(prompt: str | tuple[Message, ...]) -> str:
    return prompt if isinstance(prompt, str) else "".join(f"{m.role}: {m.content}\n" for m in prompt)


def _generated(row: Mapping[str, Any]) -> Output:
    ids = tuple(int(i) for i in row.get("ids", ()))
    logprobs = tuple(float(p) for p in row.get("logprobs", ()))
    tokens = len(ids) or len(row["text"].split())
    return Output(text=row["text"], tokens=tokens, ids=ids, logprobs=logprobs, near_ties=int(row.get("near_ties", 0)))


def _read_answers(path: Path) -> dict[_Key, Output]:
    answers: dict[_Key, Output] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{at(path)}cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if "prompt" in row:
                answers["generate", row["prompt"]] = _generated(row)
            else:
                key = ("loglikelihood", row["context"], row["continuation"])
                answers[key] = Output(logprob=float(row["logprob"]), is_greedy=bool(row.get("is_greedy", False)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{at(path, number)}not an answer: {type(error).__name__}: {error}") from error
    return answers
