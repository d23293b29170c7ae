"""Future AGI's ai-evaluation as a judge: its scores are mapped, and its failures are found behind its zeros.

The classes marked `installed` run the library itself where it is installed; the others hold what was read in its
version 1.1.0, word for word, against our reading of it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import ConfigError, PluginError
from harness.judging.building import JudgeSection, build_judge
from harness.judging.criteria import by_criterion
from harness.judging.kinds import JudgeContext, ai_evaluation, remarks
from harness.judging.kinds.ai_evaluation import AiEvaluationJudge, Options
from harness.judging.records import Case, Judge, Judgement
from harness.records import Sample
from tests.loopback_model import Fault, LoopbackModel, Said

RUBRIC = by_criterion()
HERE = importlib.util.find_spec("fi") is not None
installed = pytest.mark.skipif(not HERE, reason="ai-evaluation is not installed")
FREE = {"input": 0, "output": 0}


def case(output: str = "Refunds are allowed.", **data: Any) -> Case:
    return Case(Sample("s", "May I return it?", data=data), output)


class Library:
    """What the library returns, as a library."""

    def __init__(self, **result: Any) -> None:
        self.result = {"status": "completed", "score": None, "reason": "", "error": None, **result}
        self.given: dict[str, Any] = {}

    def evaluate(self, name: str, **given: Any) -> Any:
        self.given = {"name": name, **given}
        if self.result.get("raises"):
            raise ValueError("no keyword")
        if self.result.get("warns"):
            warnings.warn("NLI model not available", RuntimeWarning, stacklevel=2)
        return SimpleNamespace(**self.result)


@pytest.fixture(autouse=True)
def _version(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HERE:
        monkeypatch.setattr(ai_evaluation, "version", lambda name: "1.1.0")


def said_of(engine: str = "local", **result: Any) -> Judgement:
    library = Library(**result)
    more = {"model": "turing_flash"} if engine == "turing" else {}
    options = Options.model_validate({"engine": engine, "evaluation": "faithfulness", **more})
    (said,) = AiEvaluationJudge(options, RUBRIC, library, None).grade([case(context="c")])
    return said


@pytest.mark.parametrize(("score", "value"), [(0.0, 0.0), (0.25, 1.0), (1, 4.0), (True, 4.0)])
def test_a_score_is_put_on_the_scale_of_the_rubric(score: float, value: float) -> None:
    said = said_of(score=score, reason="1/4 claims supported")
    assert (said.state, said.value, said.reason) == ("scored", value, "1/4 claims supported")
    assert (said.usage.calls, said.usage.cost) == (0, 0.0)


def test_where_1_is_the_worst_the_scale_is_turned() -> None:
    options = Options(evaluation="toxicity", inverted=True)
    judge = AiEvaluationJudge(options, RUBRIC, Library(score=0.25, reason="a little"), None)
    assert judge.grade([case()])[0].value == 3.0


@pytest.mark.parametrize(
    "result",
    [
        {"score": 0.0, "reason": "LLM provider failed: 429 rate limited"},
        {"score": 0.0, "reason": "Failed to parse or validate LLM response. Raw response: '8'. Error: x"},
        {"score": 0.0, "reason": "Input validation failed: 1 validation error for HallucinationInput\ncontext"},
        {"score": 0.0, "reason": "No schema provided for validation"},
        {"score": 0.0, "reason": "No context or reference provided"},
        {"score": 0.0, "reason": "No reference provided for factual consistency check."},
        {"score": 0.0, "reason": "No contexts provided - cannot recall any information"},
        {"score": 0.0, "reason": "No metric scores were produced."},
        {"score": 0.0, "reason": ""},
        {"score": 0.0, "reason": None},
        {"score": False, "reason": " "},
        {"score": None},
        {"score": math.nan, "reason": "well"},
        {"score": 8.0, "reason": "well"},
        {"score": "high", "reason": "well"},
        {"status": "failed", "error": "Local metric 'x' not found in registry"},
        {"status": "failed", "score": 0.9, "error": "timed out"},
        {"raises": True},
    ],
)  # fmt: skip
def test_a_failure_that_looks_like_a_score_is_a_failure(result: dict[str, Any]) -> None:
    said = said_of(**result)
    assert (said.state, said.value) == ("failed", None)
    assert said.failure in ("rejected", "unreadable")
    assert said.reason.startswith("ai-evaluation: ")


@pytest.mark.parametrize("score", [0.0, 1.0])
@pytest.mark.parametrize("reason", ["No verifiable claims found in response.", "No entities found in reference"])
def test_where_there_is_nothing_to_judge_it_abstains(score: float, reason: str) -> None:
    assert said_of(score=score, reason=reason).state == "abstained"


@pytest.mark.parametrize(
    "reason",
    [
        "No keywords found in response.",
        "Keyword 'Yes' not found",
        "Empty response",
        "No valid JSON entity found in it.",
    ],
)
def test_an_honest_zero_stays_one(reason: str) -> None:
    assert said_of(score=0.0, reason=reason).value == 0.0


def test_the_cloud_has_no_known_price_and_words_of_its_model_are_no_failure() -> None:
    said = said_of("turing", score=0.5, reason="No schema provided, but it is fine")
    assert (said.value, said.usage.calls, said.usage.cost) == (2.0, 1, None)
    failed = said_of("turing", status="failed", error="Evaluation timed out after 60s")
    assert (failed.failure, failed.usage.cost) == ("server", None)


def test_fields_go_by_the_librarys_names_and_what_is_missing_is_left_out() -> None:
    library = Library(score=1.0, reason="ok")
    options = Options(evaluation="faithfulness", config={"threshold": 0.3})
    AiEvaluationJudge(options, RUBRIC, library, None).grade([case(context=["a", "b"])])
    assert library.given == {
        "name": "faithfulness", "engine": "local", "config": {"threshold": 0.3}, "output": "Refunds are allowed.",
        "context": "a\n\nb", "input": "May I return it?",
    }  # fmt: skip


def test_what_the_library_warns_of_is_told() -> None:
    judge = AiEvaluationJudge(Options(evaluation="x"), RUBRIC, Library(score=1.0, reason="ok", warns=True), None)
    judge.grade([case(), case()])
    assert remarks(judge) == ["NLI model not available"]


def build(**options: Any) -> Judge:
    return build_judge(JudgeSection(kind="ai_evaluation", **options), RUBRIC, JudgeContext(), "judge")


@pytest.mark.skipif(HERE, reason="ai-evaluation is installed")
def test_without_the_library_the_extra_is_named() -> None:
    with pytest.raises(PluginError, match=r"pip install 'promotion-harness\[future-agi\]'"):
        build(evaluation="faithfulness")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "engine local needs evaluation"),
        ({"engine": "llm", "criteria": "x"}, "engine llm needs server"),
        ({"engine": "turing", "evaluation": "x"}, "engine turing needs model"),
    ],
)
def test_an_engine_says_what_it_needs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**options)


@installed
class TestLibrary:
    def test_its_own_metrics_are_scored(self) -> None:
        judge = build(evaluation="contains", config={"keyword": "Refunds"})
        assert [j.value for j in judge.grade([case(), case("No.")])] == [4.0, 0.0]

    @pytest.mark.parametrize("name", ["answer_relevancy", "schema_compliance", "faithfulness"])
    def test_a_missing_input_is_a_failure(self, name: str) -> None:
        judge = build(evaluation=name, inputs={"output": "output"})
        (said,) = judge.grade([case("[]")])
        assert (said.state, said.failure) == ("failed", "rejected")

    def test_an_unknown_metric_and_missing_keys_are_errors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigError, match=r"no metric 'contain': did you mean 'contains'"):
            build(evaluation="contain")
        with pytest.raises(ConfigError, match="fetches whatever address an output names"):
            build(evaluation="contains_valid_link")
        monkeypatch.delenv("FI_API_KEY", raising=False)
        with pytest.raises(ConfigError, match="FI_API_KEY"):
            build(engine="turing", evaluation="toxicity", model="turing_flash")
        section = JudgeSection(kind="ai_evaluation", evaluation="contains")
        with pytest.raises(ConfigError, match="compares two outputs"):
            build_judge(section, by_criterion(pairwise=True), JudgeContext(), "judge")


@installed
class TestLlmEngine:
    @pytest.fixture
    def server(self) -> Iterator[LoopbackModel]:
        with LoopbackModel(lambda messages: json.dumps({"score": 0.75, "reason": "said so"})) as made:
            yield made

    def grade(self, server: LoopbackModel, *cases: Case) -> list[Judgement]:
        options = {"model": "openai/m", "api_base": server.base, "retries": 0, "timeout": 1, "prices": FREE}
        judge = build(engine="llm", criteria="Is it POLITE?", server=options)
        return judge.grade(cases)

    def test_its_prompt_goes_out_by_our_client_and_its_reading_gives_the_score(self, server: LoopbackModel) -> None:
        (said,) = self.grade(server, case(context="CONTEXT"))
        assert (said.state, said.value, said.reason, said.usage.calls) == ("scored", 3.0, "said so", 1)
        sent = server.asked[0].body
        assert all(word in sent["messages"][-1]["content"] for word in ("Is it POLITE?", "Refunds", "CONTEXT"))
        assert (sent["temperature"], sent["seed"]) == (0.0, 0)

    def test_a_true_zero_is_one(self, server: LoopbackModel) -> None:
        server.answer = lambda messages: json.dumps({"score": 0, "reason": "rude"})
        assert self.grade(server, case())[0].value == 0.0

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (Fault("429"), "rate-limited"), (Fault("500"), "server"), (Fault("hang"), "timeout"),
            ("I like it.", "unreadable"), ('{"score": 8, "reason": "r"}', "unreadable"),
            ('{"score": 0.5, "reason": "a"} {"score": 0.7, "reason": "b"}', "unreadable"),
            ('{"score": "nan", "reason": "r"}', "unreadable"), ('{"score": 0, "reason": ""}', "unreadable"),
            (Said('{"score": 0.5, "reason": "r"}', "length"), "truncated"),
        ],
    )  # fmt: skip
    def test_what_the_library_would_call_a_zero_is_a_failure(
        self, server: LoopbackModel, answer: Any, kind: str
    ) -> None:
        def reply(messages: Sequence[Mapping[str, str]]) -> Any:
            return answer

        server.answer = reply
        (said,) = self.grade(server, case())
        assert (said.state, said.value, said.failure) == ("failed", None, kind)

    def test_all_cases_are_asked_at_once(self, server: LoopbackModel) -> None:
        server.latency = 0.1
        assert len(self.grade(server, *(case(f"Answer {n}") for n in range(6)))) == 6
        assert server.most_under_way == 6
