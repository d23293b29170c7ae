"""Rows for supervised fine-tuning that a stronger, served model writes: distillation by its answers.

Every answer is kept on disk as it arrives, so that a killed run goes on where it was. What the model does not answer is
counted and becomes no row; an answer that ran into its token limit is cut off, and is counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.errors import ConfigError, DataError, SubjectError
from harness.records import Message
from harness.served import Question, Reply, ServedOptions
from harness.served.client import Budget, Client
from harness.training.objectives import Row


class DistillOptions(ServedOptions):
    """A teacher, and how it is asked."""

    system: str | None = Field(None, description="system message before every prompt; it is not part of the rows")
    max_tokens: int = Field(1024, ge=1, description="tokens of an answer")
    temperature: float = Field(0.0, ge=0)
    answers: int = Field(1, ge=1, description="answers to each prompt; more than one needs a temperature")
    keep_cut: bool = Field(False, description="also keep answers that max_tokens cut off")
    max_failures: float = Field(0.05, ge=0, lt=1, description="share of requests that may stay without an answer")


@dataclass(frozen=True, slots=True)
class Distilled:
    """Rows of kind completion, and what became of the rest. `failures` counts requests by what went wrong.

    `remarks` are sentences on how the replies came about: attempts, tokens, cost.
    """

    rows: tuple[dict[str, Any], ...]
    asked: int
    cut: int
    repeated: int
    failures: Counter[str]
    remarks: tuple[str, ...] = ()


def distilled(
    prompts: Sequence[Row],
    options: DistillOptions,
    cache: Path,
    told: Callable[[int, int], None] | None = None,
    budget: Budget | None = None,
) -> Distilled:
    """Answers of a served model to `prompts` (rows of kind prompt), as rows to learn from, in the prompts' order.

    `told` is called with the number of replies so far, and of all. `budget` is what may be spent.

    Raises:
        ConfigError: several answers are asked for at temperature 0, where all would be the same.
        DataError: no prompt, or one whose messages do not end with the user's.
        SubjectError: too many requests stayed without an answer; those that were answered are kept in `cache`.
    """
    if options.answers > 1 and options.temperature == 0:
        raise ConfigError("answers: several of them at temperature 0 are the same; give a temperature")
    if not prompts:
        raise DataError("there is no prompt to ask the teacher")
    asked = [_question(row, number, seed, options) for number, row in enumerate(prompts) for seed in _seeds(options)]
    with Client(options, store=cache, budget=budget) as client:
        replies = _replies(client, asked, told)
        remarks = client.remarks()
    failures = Counter(reply.failure.detail for reply in replies if reply.failure is not None)
    if failures.total() > options.max_failures * len(asked):
        worst, times = failures.most_common(1)[0]
        raise SubjectError(
            f"{options.model}: {failures.total()} of {len(asked)} requests stayed without an answer ({times} times: "
            f"{worst}). Those that were answered are kept in {cache}; the same command asks for the others only."
        )
    return replace(_collected(prompts, replies, options, failures), remarks=tuple(remarks))


def _replies(client: Client, asked: Sequence[Question], told: Callable[[int, int], None] | None) -> list[Reply]:
    """The replies in the order of the questions."""
    found: dict[int, Reply] = {}
    for index, reply in client.ask(asked):
        found[index] = reply
        if told is not None:
            told(len(found), len(asked))
    return [found[index] for index in range(len(asked))]


def _collected(
    prompts: Sequence[Row], replies: Sequence[Reply], options: DistillOptions, failures: Counter[str]
) -> Distilled:
    rows: list[dict[str, Any]] = []
    cut = repeated = 0
    for number, row in enumerate(prompts):
        seen: set[str] = set()
        for reply in replies[number * options.answers : (number + 1) * options.answers]:
            if reply.text is None:
                continue
            cut += reply.truncated
            if reply.truncated and not options.keep_cut:
                continue
            repeated += reply.text in seen
            if reply.text not in seen:
                rows.append(_row(row, reply.text))
            seen.add(reply.text)
    if not rows:
        raise DataError(f"{options.model} wrote no row: {cut} answers were cut off; raise max_tokens")
    return Distilled(tuple(rows), len(replies), cut, repeated, failures)


def _row(prompt: Row, answer: str) -> dict[str, Any]:
    if isinstance(prompt["prompt"], str):
        return {"prompt": prompt["prompt"], "completion": answer}
    return {"prompt": list(prompt["prompt"]), "completion": [{"role": "assistant", "content": answer}]}


def _seeds(options: DistillOptions) -> range:
    return range(options.answers)


def _question(row: Row, number: int, seed: int, options: DistillOptions) -> Question:
    prompt = row.get("prompt")
    if not prompt:
        raise DataError(f"row {number} has no prompt")
    messages = [Message("user", prompt)] if isinstance(prompt, str) else [_message(m) for m in prompt]
    if messages[-1].role != "user":
        raise DataError(f"row {number}: its last message is not the user's, so there is nothing to answer")
    if options.system is not None:
        messages.insert(0, Message("system", options.system))
    return Question(tuple(messages), max_tokens=options.max_tokens, temperature=options.temperature, seed=seed)


def _message(turn: Any) -> Message:
    return Message(str(turn["role"]), str(turn["content"]))
