"""A model behind an API applies a rubric: one question a case, two a pair, a strict reading, at most one repair

Every question of a batch is handed to the client at once, so that all its connections are in use; what could not be
read is asked for once more in a second batch. A reply counts as the judge's word only in the form that was asked for
(`harness.judging.reading`): anything else, like a request that failed, is a failed judgement of a named kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from harness.judging import prompting, reading
from harness.judging._blocks import visible
from harness.judging.kinds import JudgeContext, _pairs, judged_by
from harness.judging.prompting import Framed
from harness.judging.reading import Reading
from harness.judging.records import Case, Judgement, PairCase, Usage
from harness.judging.rubric import Rubric
from harness.records import content_hash
from harness.served import Question, Reply, ServedOptions
from harness.served.client import Client

_SHOWN = 500  # characters of an unreadable reply that are kept with its failure


class Options(ServedOptions):
    """Options of a served judge: the server, and how the judge decodes."""

    temperature: float = Field(0.0, ge=0, le=2, description="0: the likeliest words, as far as the server is able to")
    seed: int = Field(0, description="sent with every question")
    max_tokens: int | None = Field(
        None, ge=16, le=32_768, description="tokens of a reply (default: what the rubric says)"
    )
    repair: bool = Field(True, description="ask once more, for the form alone, where a reply cannot be read")


def build(options: Options, rubric: Rubric, context: JudgeContext) -> ServedJudge:
    """The kind's contract; nothing is asked yet.

    Raises:
        ConfigError: the variable of the key is not set.
        PluginError: litellm is not installed.
    """
    server = ServedOptions(**options.model_dump(include=set(ServedOptions.model_fields)))
    return ServedJudge(options, rubric, Client(server, store=context.store, budget=context.budget))


class ServedJudge:
    """See the module and `harness.judging.records.Judge`."""

    def __init__(self, options: Options, rubric: Rubric, client: Client) -> None:
        """Take the client over: `close` closes it."""
        self._options, self._rubric, self._client = options, rubric, client
        self.name = options.model.partition("/")[2] or options.model
        self.bounds = rubric.bounds
        self.pairwise = rubric.pairwise
        self.fingerprint = content_hash(["served", client.fingerprint, rubric.hash, self._decoding()])

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        """See `Judge.grade`.

        Raises:
            DataError: a sample lacks a field that the rubric shows; nothing has been asked then.
        """
        return self._ask([prompting.framed(self._rubric, case) for case in cases])

    def compare(self, pairs: Sequence[PairCase]) -> list[Judgement]:
        """See `Judge.compare`; raises as `grade` does."""
        straight = [prompting.framed(self._rubric, pair.first, pair.second) for pair in pairs]
        turned = [prompting.framed(self._rubric, pair.second, pair.first) for pair in pairs]
        judged = self._ask([*straight, *turned])
        both = zip(judged[: len(pairs)], judged[len(pairs) :], strict=True)
        return [_pairs.of_both_orders(first, _pairs.turned(second)) for first, second in both]

    def describe(self) -> dict[str, Any]:
        """See `Judge.describe`; of the server's address only what names it, never what may be a password."""
        base = urlsplit(self._options.api_base or "")
        server = base.netloc.rpartition("@")[2] + base.path
        more = {"model": self._options.model, "server": server, **self._decoding()}
        return judged_by(self, self._rubric, kind="served", **more)

    def remarks(self) -> Sequence[str]:
        """See `harness.judging.kinds.remarks`."""
        return self._client.remarks()

    def close(self) -> None:
        """Close the connections and the file of replies."""
        self._client.close()

    def _decoding(self) -> dict[str, Any]:
        return {
            "temperature": self._options.temperature,
            "seed": self._options.seed,
            "max_tokens": self._options.max_tokens or self._rubric.file.max_tokens,
            "repair": self._options.repair,
        }

    def _ask(self, framed: Sequence[Framed]) -> list[Judgement]:
        questions = [self._pinned(one.question) for one in framed]
        replies = self._replies(dict(enumerate(questions)))
        readings = {i: _read(self._rubric, reply) for i, reply in replies.items()}
        repairs = self._replies(
            {
                i: reading.repair_question(questions[i], replies[i].text or "", readings[i].problem)
                for i in replies
                if self._options.repair and replies[i].text is not None and readings[i].state == "failed"
            }
        )
        return [
            _judgement(readings[i], replies[i], one)
            if i not in repairs
            else _repaired(_read(self._rubric, repairs[i]), repairs[i], replies[i], one)
            for i, one in enumerate(framed)
        ]

    def _replies(self, questions: dict[int, Question]) -> dict[int, Reply]:
        numbers = list(questions)
        return {numbers[place]: reply for place, reply in self._client.ask(list(questions.values()))}

    def _pinned(self, question: Question) -> Question:
        chosen = self._options
        return replace(
            question, temperature=chosen.temperature, seed=chosen.seed,
            max_tokens=chosen.max_tokens or question.max_tokens,
        )  # fmt: skip


def _read(rubric: Rubric, reply: Reply) -> Reading:
    if reply.failure is not None:
        return Reading("failed", problem=reply.failure.detail, failure=reply.failure.kind)
    return reading.read(rubric, reply.text or "", truncated=reply.truncated)


def _judgement(said: Reading, reply: Reply, framed: Framed) -> Judgement:
    details: dict[str, Any] = {"left_out": dict(framed.left_out)} if framed.left_out else {}
    if said.state == "failed" and reply.text is not None:
        details["reply"] = visible(reply.text[:_SHOWN])
    return Judgement(said.state, said.value, said.problem or said.reason, said.failure, reply_usage(reply), details)


def _repaired(said: Reading, repair: Reply, first: Reply, framed: Framed) -> Judgement:
    judgement = _judgement(said, repair, framed)
    usage = replace(reply_usage(first) + judgement.usage, repaired=1)
    return replace(judgement, usage=usage, details={**judgement.details, "repaired": said.state != "failed"})


def reply_usage(reply: Reply) -> Usage:
    """Of one reply; a remembered one has cost nothing now, whatever it cost when it was given."""
    if reply.attempts == 0:
        return Usage(cached=int(reply.failure is None))
    return Usage(
        calls=reply.attempts, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens,
        cost=reply.cost,
    )  # fmt: skip
