"""Future AGI's `ai-evaluation` as a judge: its scores, 0 to 1, on the rubric's scale, and its failures told as failures

The rubric names the judge and its scale; what is asked is the library's. Three of its engines:

`local`: one of its metrics, by `evaluation`. `llm`: its LLM judge with `criteria`; its prompt and its reading, but
sent by our client, so that retries, budget, cost and the memory of replies are those of every other judge here.
`turing`: a template of its cloud, by `evaluation`; the variables FI_API_KEY and FI_SECRET_KEY hold its keys, and
nobody knows what a call costs.

The library reports much that went wrong as a completed evaluation with score 0.0, or 1.0 (read in 1.1.0): a provider
that fails, a reply that cannot be read, an input that is missing, a claim that is not there. A gate would take that
for quality. So an LLM's score counts only where its own reply holds that very number, a metric's only where its reason
is none of those below, and a score without any reason only above 0. Its prompt puts what is judged beside its criteria
without a mark between them: canaries show what that does.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.errors import ConfigError, PluginError, nearest
from harness.judging import _fields
from harness.judging.kinds import JudgeContext, judged_by
from harness.judging.kinds.served import reply_usage
from harness.judging.records import Case, Judgement, Usage
from harness.judging.rubric import Rubric
from harness.plugins import missing_extra
from harness.records import Message, content_hash
from harness.served import FailureKind, Question, Reply, ServedOptions
from harness.served.client import Client

_KEYS = ("FI_API_KEY", "FI_SECRET_KEY")
_FETCHES = frozenset({"contains_valid_link"})
_INPUTS = {"output": "output", "context": "context", "input": "prompt", "expected_response": "reference"}
_NOT_MADE = re.compile(
    r"Input validation failed|LLM provider failed|Failed to parse|(?:Cannot|Could not) parse (?:schema|expected)|"
    r"Schema JSON is invalid|Unsupported format|Metric .* not found|Error\b|Evaluation (?:failed|timed out)|"
    r"No metric scores|No [\w ]{1,60}\b(?:provided|to match against)"
)
_NOTHING_TO_JUDGE = re.compile(r"No (?:verifiable|entities|relevant items|expected phrases|claims)\b")


class Options(BaseModel):
    """Options of a judge by ai-evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["local", "llm", "turing"] = Field("local", description="which of the library's engines")
    evaluation: str | None = Field(None, description="local: its metric; turing: its template")
    criteria: str | None = Field(None, description="llm: what the judge is told to grade by")
    server: ServedOptions | None = Field(None, description="llm: the model that judges")
    model: str | None = Field(None, description="turing: its model, such as turing_flash")
    max_tokens: int = Field(512, ge=16, le=32_768, description="llm: tokens of a reply")
    inputs: dict[str, str] = Field(_INPUTS, description="the library's name of an input, and our field that goes there")
    config: dict[str, Any] = Field(default_factory=dict, description="local: configuration of the metric")
    inverted: bool = Field(False, description="the library's 1 is the worst, as for toxicity")
    concurrency: int = Field(8, ge=1, description="turing: requests under way at a time")

    @model_validator(mode="after")
    def _complete(self) -> Options:
        needed = {"local": ("evaluation",), "llm": ("criteria", "server"), "turing": ("evaluation", "model")}[
            self.engine
        ]
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"engine {self.engine} needs {name}")
        return self


def build(options: Options, rubric: Rubric, context: JudgeContext) -> AiEvaluationJudge:
    """The kind's contract; nothing is asked yet.

    Raises:
        PluginError: the library is not installed.
        ConfigError: the rubric is pairwise, there is no such evaluation, or the variable of a key is not set.
    """
    if rubric.pairwise:
        raise ConfigError(f"judge {rubric.name!r} compares two outputs, and ai-evaluation scores one")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or the import asks the network
    try:
        library = importlib.import_module("fi.evals")
    except ImportError as error:
        raise PluginError(missing_extra("judge kind 'ai_evaluation'", error)) from error
    if options.engine == "local":
        _need_metric(options)
    if options.engine == "turing":
        _need_keys()
    client = None
    if options.server is not None and options.engine == "llm":
        client = Client(options.server, store=context.store, budget=context.budget)
    return AiEvaluationJudge(options, rubric, library, client)


class AiEvaluationJudge:
    """See the module and `harness.judging.records.Judge`."""

    def __init__(self, options: Options, rubric: Rubric, library: Any, client: Client | None) -> None:
        """Take the client over: `close` closes it."""
        self._options, self._rubric, self._library, self._client = options, rubric, library, client
        self._told: dict[str, None] = {}
        self.name = f"ai-evaluation {options.evaluation or options.engine}"
        self.bounds = rubric.bounds
        self.pairwise = False
        self.fingerprint = content_hash(["ai_evaluation", rubric.hash, self._identity()])

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        """See `Judge.grade`."""
        given = [self._inputs(case) for case in cases]
        if self._client is not None:
            return self._by_llm(given, self._client)
        if self._options.engine == "local":  # computed here, one after the other
            return [self._by_library(inputs) for inputs in given]
        with ThreadPoolExecutor(self._options.concurrency) as pool:
            return list(pool.map(self._by_library, given))

    def compare(self, pairs: Sequence[Any]) -> list[Judgement]:
        """See `Judge.compare`; never asked, because `build` refuses a pairwise rubric."""
        raise TypeError(f"{self.name} is no pairwise judge")

    def describe(self) -> dict[str, Any]:
        """See `Judge.describe`."""
        return judged_by(self, self._rubric, kind="ai_evaluation", **self._identity())

    def remarks(self) -> list[str]:
        """What the library warned of, such as a model in place of which it counts words, and what the client tells."""
        return [*self._told, *(self._client.remarks() if self._client is not None else ())]

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()

    def _identity(self) -> dict[str, Any]:
        chosen = self._options.model_dump(mode="json", exclude={"server", "concurrency"})
        if self._client is not None:
            chosen |= {"model": self._client.options.model, "server_sha256": self._client.fingerprint}
        return {**chosen, "library_version": version("ai-evaluation")}

    def _inputs(self, case: Case) -> dict[str, Any]:
        """The library's inputs; what the sample lacks is left out, and the library says whether it needs it."""
        given = {}
        for theirs, ours in self._options.inputs.items():
            if ours == "output":
                given[theirs] = case.output
            elif found := _fields.texts(case, ours):
                given[theirs] = "\n\n".join(text for _, text in found)
        return given

    def _by_library(self, inputs: Mapping[str, Any]) -> Judgement:
        chosen = self._options
        more = {"config": chosen.config} if chosen.engine == "local" else {"model": chosen.model}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = self._library.evaluate(chosen.evaluation, engine=chosen.engine, **more, **inputs)
            except Exception as error:  # the library lets through whatever its metrics and its HTTP client raise
                return _failed(f"{type(error).__name__}: {error}", self._kind, self._usage())
        self._told.update({str(w.message): None for w in caught if issubclass(w.category, RuntimeWarning)})
        if result.status != "completed" or result.score is None:
            said = result.error or result.reason or "no score"
            return _failed(said, self._kind, self._usage())
        return self._judged(result.score, result.reason, self._usage())

    def _judged(self, score: Any, reason: Any, usage: Usage) -> Judgement:
        """A metric's or a template's score, unless its reason says that there is none."""
        said = reason if isinstance(reason, str) else ""
        if self._options.engine == "local" and _NOT_MADE.match(said):
            return _failed(said, "rejected", usage)
        if self._options.engine == "local" and _NOTHING_TO_JUDGE.match(said):
            return Judgement("abstained", None, said, usage=usage)
        if not isinstance(score, int | float) or not math.isfinite(score) or not 0 <= score <= 1:
            return _failed(f"a score of {score!r}, where 0 to 1 is possible", "unreadable", usage)
        if score == 0 and not said.strip():
            return _failed(
                "a score of 0 without any reason, which is how the library reports a failure", "unreadable", usage
            )
        low, high = self.bounds
        value = low + (high - low) * (1 - score if self._options.inverted else score)
        return Judgement("scored", value, said, usage=usage, details={"score": float(score)})

    @property
    def _kind(self) -> FailureKind:
        """Of a failure that the library reports as one: here it is the input's, there the server's."""
        return "rejected" if self._options.engine == "local" else "server"

    def _usage(self) -> Usage:
        return Usage() if self._options.engine == "local" else Usage(calls=1, cost=None)

    def _by_llm(self, given: Sequence[Mapping[str, Any]], client: Client) -> list[Judgement]:
        """Its judge runs twice: first to hear what it would ask, then on what our client was answered."""
        questions = [self._question(inputs) for inputs in given]
        replies: dict[int, Reply] = dict(client.ask(questions))
        return [self._read(inputs, replies[i]) for i, inputs in enumerate(given)]

    def _question(self, inputs: Mapping[str, Any]) -> Question:
        asked: list[Sequence[Mapping[str, Any]]] = []

        def overhear(messages: Sequence[Mapping[str, Any]]) -> str:
            asked.append(messages)
            return ""

        self._llm_judge(overhear).evaluate([dict(inputs)])
        if any(not isinstance(m["content"], str) for m in asked[0]):
            raise ConfigError(f"inputs: {', '.join(inputs)}: an input that the library takes for a picture or a sound")
        messages = tuple(Message(str(m["role"]), m["content"]) for m in asked[0])
        return Question(messages, max_tokens=self._options.max_tokens, schema=self._schema())

    def _read(self, inputs: Mapping[str, Any], reply: Reply) -> Judgement:
        usage = reply_usage(reply)
        if reply.failure is not None:
            return _failed(reply.failure.detail, reply.failure.kind, usage)
        if reply.truncated:
            return _failed("the reply was cut off by the limit on tokens", "truncated", usage)
        found = self._llm_judge(lambda messages: reply.text or "").evaluate([dict(inputs)]).eval_results[0]
        said = _object(found.reason)
        # What the library understood stands in its reason as JSON; where it understood nothing, there is a sentence.
        if said is None or said.get("score") != found.output:
            return _failed(f"no score in the reply: {found.reason}", "unreadable", usage)
        return self._judged(found.output, said.get("reason"), usage)

    def _llm_judge(self, answer: Callable[[Sequence[Mapping[str, Any]]], str]) -> Any:
        made = importlib.import_module("fi.evals.metrics.llm_as_judges.custom_judge.metric").CustomLLMJudge
        model = self._options.server.model if self._options.server is not None else ""
        return made(_Provider(answer), {"grading_criteria": self._options.criteria, "model": model})

    @staticmethod
    def _schema() -> dict[str, Any]:
        types = importlib.import_module("fi.evals.metrics.llm_as_judges.types")
        schema: dict[str, Any] = types.DefaultJudgeOutput.model_json_schema()
        return schema


class _Provider:
    """What the library calls a provider of completions."""

    def __init__(self, answer: Callable[[Sequence[Mapping[str, Any]]], str]) -> None:
        self._answer = answer

    def get_completion(self, model: str, messages: Sequence[Mapping[str, Any]], **given: Any) -> str:
        """The answer to the messages."""
        return self._answer(messages)


def _failed(reason: str, kind: FailureKind, usage: Usage) -> Judgement:
    return Judgement("failed", None, f"ai-evaluation: {reason[:2000]}", kind, usage)


def _object(text: Any) -> dict[str, Any] | None:
    try:
        said = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _need_metric(options: Options) -> None:
    if options.evaluation in _FETCHES:
        raise ConfigError(
            f"ai-evaluation's {options.evaluation} fetches whatever address an output names; it is not run"
        )
    registry = importlib.import_module("fi.evals.local.registry").get_registry()
    if registry.get(options.evaluation) is None:
        known = registry.list_metrics()
        raise ConfigError(
            f"ai-evaluation has no metric {options.evaluation!r}: {nearest(options.evaluation or '', known)}"
        )


def _need_keys() -> None:
    for name in _KEYS:
        if not os.environ.get(name):
            raise ConfigError(f"the environment variable {name} holds no key, and ai-evaluation's cloud asks for it")
