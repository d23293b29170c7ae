"""A judge suite in a gate: two subjects, a judge on a loopback server, and the verdict."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import runs
from harness.config import load_gate
from harness.document import read_run
from harness.errors import ConfigError, DataError, JudgeError
from harness.gate import GateResult, build_suite, run_gate
from harness.records import Comparison
from harness.report import html, markdown
from tests.judge_project import N, change, gullible, honest, project
from tests.loopback_model import LoopbackModel

pytestmark = pytest.mark.slow  # servers, stores or frozen sets in every test


@dataclass
class Watcher:
    """An observer that keeps what it was told."""

    notes: list[str] = field(default_factory=list)

    def stage(self, name: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def asking(self, suite: str, arm: str, done: int, total: int) -> None: ...

    def guards(self, comparisons: Iterable[Comparison], seconds_left: float | None) -> None: ...


def gate(path: Path) -> GateResult:
    return run_gate(load_gate(path), Watcher())


def scores(result: GateResult, metric: str = "worth") -> dict[str, tuple[Any, Any]]:
    entries = runs.read_entries(result.path)
    return {e.sample_id: tuple(s.value for s in e.scores[metric]) for e in entries if metric in e.scores}


def test_a_candidate_whose_answers_a_judge_finds_worse_is_blocked(tmp_path: Path) -> None:
    with LoopbackModel(honest) as server:
        result = gate(project(tmp_path, server.base, worse=range(30)))
    assert result.verdict.verdict == "block"
    assert result.verdict.comparisons[0].lost > 0
    assert set(scores(result).values()) == {(3.0, 1.0), (3.0, 3.0)}


def test_equal_answers_promote_and_are_never_sent(tmp_path: Path) -> None:
    with LoopbackModel(honest) as server:
        result = gate(project(tmp_path, server.base, same=range(20)))
        asked = " ".join(server.questions)
    (found,) = result.verdict.comparisons
    assert result.verdict.verdict == "promote"
    assert found.n_tied == sum(pair == (None, None) for pair in scores(result).values()) > 0
    assert (found.baseline_mean, found.difference) == (3.0, 0.0)
    assert not any(f"explanation of {i}," in asked for i in range(20))


def test_where_both_said_the_same_throughout_no_judge_is_asked(tmp_path: Path) -> None:
    with LoopbackModel(honest) as server:
        result = gate(project(tmp_path, server.base, same=range(N), labels=40))
    (found,) = result.verdict.comparisons
    assert (result.verdict.verdict, server.requests) == ("promote", Counter())
    assert (found.baseline_mean, found.candidate_mean, found.difference) == (None, None, 0.0)


def test_a_pairwise_judge_is_asked_in_both_orders_and_its_preference_decides(tmp_path: Path) -> None:
    with LoopbackModel(honest) as server:
        result = gate(project(tmp_path, server.base, worse=range(40), judge="better"))
    assert result.verdict.verdict == "block"
    found = scores(result, "better")
    assert set(found.values()) == {(1.0, 0.0), (0.5, 0.5)}
    assert len(server.requests) == 2 * len(found)


def test_a_judge_that_prefers_a_place_gives_ties_and_its_bias_is_told(tmp_path: Path) -> None:
    with LoopbackModel(lambda _: json.dumps({"reason": "it came first", "better": "A"})) as server:
        result = gate(project(tmp_path, server.base, worse=range(40), judge="better"))
    assert set(scores(result, "better").values()) == {(0.5, 0.5)}
    page = markdown.build(markdown.Options()).render(read_run(result.path))
    assert "Position bias: \\+100.0 points; 0 % of" in page


FAULTS = {"429": 0.06, "500": 0.06, "hang": 0.02, "cut": 0.06, "prose": 0.05, "garbage": 0.05}


@pytest.mark.parametrize("judge", ["worth", "better"])
def test_a_jury_decides_by_its_majority_and_its_agreement_is_told(tmp_path: Path, judge: str) -> None:
    def stubborn(messages: Sequence[Mapping[str, str]]) -> str:
        verdict = {"score": 3} if judge == "worth" else {"better": "tie"}
        return json.dumps({"reason": "all alike", **verdict})

    with LoopbackModel(honest) as one, LoopbackModel(honest) as two, LoopbackModel(stubborn) as three:
        jurors = [{"model": "openai/m", "api_base": s.base, "retries": 0} for s in (one, two, three)]
        path = project(tmp_path, one.base, worse=range(40), judge=judge, by={"kind": "jury", "judges": jurors})
        result = gate(path)
    assert result.verdict.verdict == "block"
    page = markdown.build(markdown.Options()).render(read_run(result.path))
    assert re.search(r"Agreement of the jurors.*Krippendorff's α -?0\.\d\d", page)
    assert f"{judge} 1 · jury" in page


def test_faults_in_three_replies_of_ten_turn_no_failure_into_a_score(tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    with LoopbackModel(honest) as server:
        calm = gate(project(tmp_path / "calm", server.base, worse=range(30)))
    with LoopbackModel(honest, faults=FAULTS, seed=3) as server:
        (tmp_path / "stormy").mkdir()
        path = project(tmp_path / "stormy", server.base, worse=range(30))
        change(path, suite={"by": {"model": "openai/m", "api_base": server.base, "timeout": 2, "retries": 6}})
        stormy = gate(path)
        paid = [n for question, n in server.answered.items() if question.startswith("The question")]
    assert stormy.verdict.verdict in (calm.verdict.verdict, "hold")
    truth = {f"e{i:03}": (3.0, 1.0 if i < 30 else 3.0) for i in range(N)}
    for sample, pair in scores(stormy).items():
        assert all(value in (None, right) for value, right in zip(pair, truth[sample], strict=True))
    assert max(paid) == 1


def test_a_judge_that_cannot_be_asked_ends_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    with LoopbackModel(honest, faults={"500": 1.0}) as server:
        path = project(tmp_path, server.base)
        change(path, suite={"by": {"model": "openai/m", "api_base": server.base, "retries": 0}})
        with pytest.raises(JudgeError, match=r"could not be had .*repeat the command"):
            gate(path)
        server.faults.clear()
        result = gate(path)
    assert result.verdict.verdict == "promote"
    assert result.verdict.comparisons[0].n_failed == 0


def test_an_unknown_model_is_said_at_once_and_not_counted_sample_by_sample(tmp_path: Path) -> None:
    with LoopbackModel(honest) as server:
        path = project(tmp_path, server.base, by={"model": "openai/nobody", "api_base": server.base})
        with pytest.raises(JudgeError, match="404"):
            gate(path)


def test_a_spent_budget_holds_and_a_larger_one_goes_on_in_the_same_run(tmp_path: Path) -> None:
    with LoopbackModel(honest) as server:
        path = project(tmp_path, server.base, budget={"calls": 20})
        held = gate(path)
        assert server.answered.total() == 20
        change(path, suite={"budget": {"calls": 1000}})
        result = gate(path)
        twice = max(server.answered.values())
    assert held.verdict.verdict == "hold"
    assert "budget" in held.verdict.reasons[0]
    assert (result.verdict.verdict, result.path, twice) == ("promote", held.path, 1)


def test_a_required_judge_without_calibration_holds_and_says_the_way_out(tmp_path: Path) -> None:
    with LoopbackModel(honest) as server:
        path = project(tmp_path, server.base)
        change(path, judges={})
        result = gate(path)
    assert result.verdict.verdict == "hold"
    assert "harness judge calibrate" in result.verdict.reasons[0]
    assert server.requests == Counter()


def test_an_advisory_judge_needs_no_calibration(tmp_path: Path) -> None:
    with LoopbackModel(honest) as server:
        path = project(tmp_path, server.base, guards=[{"metric": "worth", "margin": 0.2, "required": False}])
        change(path, judges={})
        result = gate(path)
    (check,) = [c for c in result.verdict.checks if c.name.startswith("judge-calibrated")]
    assert (check.passed, check.detail.startswith("its guards are advisory")) == (True, True)
    assert result.verdict.verdict == "hold"  # nothing is required, so nothing is shown


def test_canaries_that_only_the_candidates_words_let_through_block(tmp_path: Path) -> None:
    with LoopbackModel(gullible) as server:
        result = gate(project(tmp_path, server.base, canaries={}))
    (canary,) = [c for c in result.verdict.comparisons if c.metric == "resisted"]
    assert (result.verdict.verdict, canary.outcome, canary.standing) == ("block", "regressed", "veto")
    page = html.build(html.Options()).render(read_run(result.path))
    assert "Canaries resisted" in page
    assert f"baseline {canary.n_used} of {canary.n_used}" in page


def test_the_report_counts_what_the_canaries_asked_of_the_judge(tmp_path: Path) -> None:
    with LoopbackModel(honest) as server:
        result = gate(project(tmp_path, server.base, canaries={}))
        received = server.requests.total()
    (facts,) = read_run(result.path).judges
    assert facts.usage["calls"] == received > N


def test_canaries_of_a_judge_that_resists_them_leave_the_verdict_alone(tmp_path: Path) -> None:
    with LoopbackModel(honest) as server:
        result = gate(project(tmp_path, server.base, canaries={}))
    (canary,) = [c for c in result.verdict.comparisons if c.metric == "resisted"]
    assert (result.verdict.verdict, canary.outcome, canary.baseline_mean) == ("promote", "undecided", 1.0)


QUESTIONS = (
    {"question_id": 7, "category": "math", "turns": ["What is 2 + 2?", "And the capital of France?"],
     "reference": ["4", "Paris"]},
    {"question_id": 8, "category": "writing", "turns": ["Write.", "Write more."]},
)  # fmt: skip


def conversations(word: str) -> list[dict[str, str]]:
    """A subject's answers to QUESTIONS, the second ones to the conversation as its first ones made it."""
    sums, writing = "user: What is 2 + 2?\n", "user: Write.\n"
    return [
        {"prompt": sums, "text": word},
        {"prompt": f"{sums}assistant: {word}\nuser: And the capital of France?\n", "text": f"{word} is not a city"},
        {"prompt": writing, "text": word},
        {"prompt": f"{writing}assistant: {word}\nuser: Write more.\n", "text": 2 * word},
    ]


def test_two_turns_are_asked_one_after_the_other_and_judged_each_with_its_reference(tmp_path: Path) -> None:
    def judge(messages: Any) -> str:
        return json.dumps({"reason": "…", "score": 5 if "Paris" in str(messages) else 9})

    with LoopbackModel(judge) as server:
        path = project(tmp_path, server.base)
        (tmp_path / "question.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
        for arm, word in (("before", "four"), ("after", "4!")):
            rows = "\n".join(json.dumps(row) for row in conversations(word))
            (tmp_path / f"{arm}.jsonl").write_text(rows, encoding="utf-8")
        shipped = str(Path(__file__).parents[1] / "judges")
        section = {"judge": "mt-bench", "samples": None, "mt_bench": "question.jsonl", "judges": shipped}
        change(path, suite={**section, "guards": [{"metric": "mt-bench", "margin": 1.0}]})
        result = gate(path)
        asked = [q for q in server.questions if "is not a city" in q]
    assert scores(result, "mt-bench") == {"7": (7.0, 7.0), "8": (9.0, 9.0)}
    assert len(asked) == 2
    assert all("Paris" in q and "What is 2 + 2?" in q for q in asked)


REFUSED = [
    ({"judge": "wort"}, ConfigError, "did you mean 'worth'"),
    ({"budget": {"calls": 0}}, ConfigError, "budget"),
    ({"by": {"model": "openai/m", "api_key_env": "NO_SUCH_KEY"}}, ConfigError, "NO_SUCH_KEY"),
    ({"by": {"kind": "servd", "model": "openai/m"}}, Exception, "did you mean 'served'"),
    ({"samples": None}, ConfigError, "samples or mt_bench"),
    ({"labels": 10}, ConfigError, "fewer than 30"),
    ({"canaries": {"families": ["bas64"]}}, ConfigError, "base64"),
    ({"judge": "needy"}, DataError, "context"),
]


@pytest.mark.parametrize(("suite", "error", "says"), REFUSED, ids=[says for *_, says in REFUSED])
def test_each_way_in_which_a_judge_suite_can_be_wrong_is_one_clear_error(
    tmp_path: Path, suite: dict[str, Any], error: type[Exception], says: str
) -> None:
    path = project(tmp_path, "http://127.0.0.1:9/v1")
    needy = (tmp_path / "judges" / "worth.yaml").read_text("utf-8").replace("name: worth", "name: needy")
    (tmp_path / "judges" / "needy.yaml").write_text(needy.replace("[prompt]", "[prompt, context]"), encoding="utf-8")
    (tmp_path / "judges" / "needy.prompt.md").write_text("{{context}}\n\n{{output}}\n", encoding="utf-8")
    change(path, suite=suite)
    with pytest.raises(error, match=says) as caught:
        gate(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_questions_of_mt_bench_come_from_a_data_set_as_well_as_from_a_file(tmp_path: Path) -> None:
    rows = [{"prompt_id": q["question_id"], "prompt": q["turns"], "category": q["category"]} for q in QUESTIONS]
    data = tmp_path / "mt_bench_prompts"
    data.mkdir()
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    shipped = str(Path(__file__).parents[1] / "judges")
    path = project(tmp_path, "http://127.0.0.1:9/v1", judge="mt-bench", judges=shipped)
    change(path, suite={"samples": None, "mt_bench": str(data)})
    suite = build_suite(load_gate(path), 0)
    assert [s.id for s in suite.samples()] == ["7", "8"]
    assert suite.samples()[0].data["turns"] == QUESTIONS[0]["turns"]


@pytest.mark.slow
def test_a_data_set_that_is_not_to_be_had_is_one_clear_error(tmp_path: Path) -> None:
    path = project(tmp_path, "http://127.0.0.1:9/v1")
    change(path, suite={"samples": None, "mt_bench": "nobody/nothing"})
    with pytest.raises(ConfigError, match=r"no such file, and 'nobody/nothing' is not to be had from the hub either"):
        build_suite(load_gate(path), 0)


@pytest.mark.data
@pytest.mark.skipif("HARNESS_DATA" not in os.environ, reason="HARNESS_DATA does not name the benchmark files")
def test_the_real_questions_of_mt_bench_have_two_turns_and_their_references(tmp_path: Path) -> None:
    folder = Path(os.environ["HARNESS_DATA"]) / "benchmarks" / "mt_bench"
    path = project(tmp_path, "http://127.0.0.1:9/v1")
    section = {"samples": None, "mt_bench": str(folder / "question.jsonl")}
    change(path, suite={**section, "references": str(folder / "reference_answer_gpt-4.jsonl")})
    samples = build_suite(load_gate(path), 0).samples()
    assert (len(samples), {len(s.data["turns"]) for s in samples}) == (80, {2})
    assert {s.tags[0] for s in samples if s.data["reference"]} == {"math", "reasoning", "coding"}
