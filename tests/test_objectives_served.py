"""Asking a served model: distillation, judgements and labels, against a server on this machine."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import ConfigError, DataError, SubjectError
from harness.judging.building import JudgeSection, build_judge
from harness.judging.criteria import by_criterion
from harness.judging.kinds import JudgeContext
from harness.judging.kinds._pairs import of_both_orders, turned
from harness.judging.records import Case, Judgement, PairCase
from harness.served import Prices, ServedOptions
from harness.training.objectives import _rewards
from harness.training.objectives._distill import DistillOptions, distilled
from harness.training.objectives._label_pairs import Labelled, labelled
from harness.training.objectives._rewards import RewardSection, plain
from tests import objective_jobs as jobs
from tests.conftest import TinyModels
from tests.loopback_model import Fault, Messages, Said, wait_for
from tests.loopback_model import LoopbackModel as Server

FREE = Prices(input=0, output=0)  # with prices given, litellm's table is not loaded


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


def options_for(server: Server, kind: Any = ServedOptions, **more: Any) -> Any:
    return kind(model="openai/m", api_base=server.base, **{"retries": 0, "timeout": 20, "prices": FREE, **more})


def judged_by(server: Server) -> dict[str, Any]:
    return {"model": "openai/m", "api_base": server.base, "retries": 0, "prices": FREE.model_dump()}


def bodies(server: Server) -> list[Any]:
    return [asked.body for asked in server.asked]


PROMPTS = [{"prompt": f"Question {n}?"} for n in range(6)]


def test_answers_become_rows_in_the_order_of_the_prompts(server: Server, tmp_path: Path) -> None:
    told = [{"role": "user", "content": "Question 6?"}]
    made = distilled(
        [*PROMPTS, {"prompt": told}], options_for(server, DistillOptions, system="Be brief."), tmp_path / "c"
    )
    assert made.rows[:6] == tuple({"prompt": f"Question {n}?", "completion": f"echo Question {n}?"} for n in range(6))
    assert made.rows[6] == {"prompt": told, "completion": [{"role": "assistant", "content": "echo Question 6?"}]}
    assert (made.asked, made.cut, made.repeated, made.failures) == (7, 0, 0, Counter())
    assert {body["messages"][0]["content"] for body in bodies(server)} == {"Be brief."}
    assert {(body["temperature"], body["max_tokens"], body["model"]) for body in bodies(server)} == {(0.0, 1024, "m")}


def test_nothing_is_asked_twice(server: Server, tmp_path: Path) -> None:
    first = distilled([*PROMPTS, PROMPTS[0]], options_for(server, DistillOptions), tmp_path / "c")
    assert len(server.asked) == 6, "the same request was sent twice"
    assert distilled([*PROMPTS, PROMPTS[0]], options_for(server, DistillOptions), tmp_path / "c").rows == first.rows
    assert len(server.asked) == 6, "an answer was forgotten"
    distilled(PROMPTS[:1], options_for(server, DistillOptions, temperature=0.5), tmp_path / "c")
    assert len(server.asked) == 7, "an answer to another request was taken"


def test_failures_are_counted_make_no_row_and_are_asked_again(server: Server, tmp_path: Path) -> None:
    server.answer = lambda messages: Fault("500") if "3" in messages[-1]["content"] else "fine"
    options = options_for(server, DistillOptions, max_failures=0.2)
    made = distilled(PROMPTS, options, tmp_path / "c")
    assert [row["prompt"] for row in made.rows] == [f"Question {n}?" for n in (0, 1, 2, 4, 5)]
    assert made.failures.total() == 1
    server.answer = lambda messages: "at last"
    before = len(server.asked)
    assert distilled(PROMPTS, options, tmp_path / "c").rows[3]["completion"] == "at last"
    assert server.questions[before:] == ["Question 3?"]


def test_a_server_that_is_down_is_an_error_and_what_it_said_before_is_kept(server: Server, tmp_path: Path) -> None:
    server.answer = lambda messages: Fault("503") if messages[-1]["content"] > "Question 2?" else "fine"
    with pytest.raises(SubjectError, match=r"openai/m: 3 of 6 requests stayed without an answer .* kept in"):
        distilled(PROMPTS, options_for(server, DistillOptions), tmp_path / "c")
    server.answer = lambda messages: "fine"
    before = len(server.asked)
    distilled(PROMPTS, options_for(server, DistillOptions), tmp_path / "c")
    assert sorted(server.questions[before:]) == ["Question 3?", "Question 4?", "Question 5?"]


def test_answers_that_were_cut_off_are_told_and_left_out_unless_asked_for(server: Server, tmp_path: Path) -> None:
    server.answer = lambda messages: Said("half a", "length" if "1" in messages[-1]["content"] else "stop")
    made = distilled(PROMPTS, options_for(server, DistillOptions), tmp_path / "c")
    assert (len(made.rows), made.cut) == (5, 1)
    kept = distilled(PROMPTS, options_for(server, DistillOptions, keep_cut=True), tmp_path / "c")
    assert (len(kept.rows), kept.cut) == (6, 1)
    server.answer = lambda messages: Said("half", "length")
    with pytest.raises(DataError, match="6 answers were cut off; raise max_tokens"):
        distilled(PROMPTS, options_for(server, DistillOptions), tmp_path / "other")


def test_several_answers_to_a_prompt_are_drawn_apart_and_kept_once(server: Server, tmp_path: Path) -> None:
    answers = iter(["one", "two", "one"] * 6)
    server.answer = lambda messages: next(answers)
    options = options_for(server, DistillOptions, answers=3, temperature=0.8, concurrency=1)
    made = distilled(PROMPTS[:2], options, tmp_path / "c")
    assert [row["completion"] for row in made.rows] == ["one", "two"] * 2
    assert made.repeated == 2
    assert {body["seed"] for body in bodies(server)} == {0, 1, 2}
    with pytest.raises(ConfigError, match="at temperature 0 are the same"):
        distilled(PROMPTS, options_for(server, DistillOptions, answers=2), tmp_path / "c")


def test_prompts_that_cannot_be_answered_are_refused(server: Server, tmp_path: Path) -> None:
    answered = {"prompt": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}
    for rows, message in (([], "no prompt"), ([{"text": "x"}], "row 0 has no prompt"), ([answered], "not the user's")):
        with pytest.raises(DataError, match=message):
            distilled(rows, options_for(server, DistillOptions), tmp_path / "c")  # type: ignore[arg-type]
    assert not server.asked


def test_a_key_is_sent_and_never_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_for(server, DistillOptions, api_key_env="TEACHER_KEY")
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(ConfigError, match="TEACHER_KEY holds no key"):
        distilled(PROMPTS, options, tmp_path / "c")
    monkeypatch.setenv("TEACHER_KEY", "sk-secret")
    server.key = "another"
    with pytest.raises(SubjectError, match="401") as raised:
        distilled(PROMPTS, options, tmp_path / "c")
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer sk-secret"}
    assert "sk-secret" not in str(raised.value)


def kept(store: Path) -> int:
    """How many replies another process has stored."""
    with closing(sqlite3.connect(store)) as database:
        return int(database.execute("SELECT count(*) FROM replies").fetchone()[0])


@pytest.mark.slow
def test_a_killed_run_has_lost_no_answer(server: Server, tmp_path: Path) -> None:
    """kill -9 while it waits for the third answer; the first two are not asked for again."""
    server.script = ["", "", "hang"]
    program = (
        "import sys; from pathlib import Path; from harness.training.objectives._distill import *\n"
        "options = DistillOptions(model='openai/m', api_base=sys.argv[1], retries=0, concurrency=1, "
        "prices={'input': 0, 'output': 0})\n"
        "distilled([{'prompt': f'Question {n}?'} for n in range(6)], options, Path(sys.argv[2]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, server.base, str(tmp_path / "c")])
    try:
        assert wait_for(lambda: len(server.asked) == 3 and kept(tmp_path / "c") == 2)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    server.asked.clear()
    distilled(PROMPTS, options_for(server, DistillOptions), tmp_path / "c")
    assert sorted(server.questions) == [f"Question {n}?" for n in range(2, 6)]


class TestJudge:
    def score(self, server: Server, folder: Path, **given: Any) -> Any:
        section = RewardSection.model_validate({"judge": {**judged_by(server), **given}})
        parts = {"train": [{"prompt": "What?"}], "validation": []}
        return _rewards._score(section, cast(Any, SimpleNamespace(home=folder, folder=folder, **parts)))

    def test_the_worst_level_is_0_the_best_is_1_and_nothing_else_is_a_reward(
        self, server: Server, tmp_path: Path
    ) -> None:
        said = [
            '{"reason": "r", "score": 0}',
            '{"score": 3}',
            '{"score": 4}',
            '{"score": 5}',
            "four",
            '{"score": "4"}',
            "",
        ]
        server.answer = lambda messages: said[int(messages[1]["content"].partition("answer No. ")[2][0])]
        answers = [f"answer No. {n}" for n in range(len(said))]
        rewards = self.score(server, tmp_path)(["What?"] * len(said), answers, [True] * len(said), [{}] * len(said))
        assert rewards == [0.0, 0.75, 1.0, None, None, None, None]

    def test_an_error_is_no_reward(self, server: Server, tmp_path: Path) -> None:
        server.answer = lambda messages: Fault("500") if "bad" in messages[-1]["content"] else '{"score": 2}'
        assert self.score(server, tmp_path)(["What?"] * 2, ["good", "bad"], [True] * 2, [{}] * 2) == [0.5, None]

    def test_a_judgement_is_asked_for_once(self, server: Server, tmp_path: Path) -> None:
        server.answer = lambda messages: '{"score": 2}'
        for _ in range(2):
            assert self.score(server, tmp_path)(["What?"], ["That."], [True], [{}]) == [0.5]
        assert len(server.asked) == 1

    def test_the_criterion_and_the_columns_of_a_row_reach_the_judge(self, server: Server, tmp_path: Path) -> None:
        server.answer = lambda messages: '{"score": 5}'
        told = [{"role": "user", "content": "SPOKEN"}]
        self.score(server, tmp_path, criterion="It RHYMES.")([told], ["OUT"], [True], [{"target": "RIGHT"}])
        shown = "".join(m["content"] for m in server.asked[0].body["messages"])
        assert all(word in shown for word in ("It RHYMES.", "SPOKEN", "OUT", "RIGHT"))

    def test_a_rubric_by_name_scores_and_its_fields_are_looked_for_before_any_work(
        self, server: Server, tmp_path: Path
    ) -> None:
        server.answer = lambda messages: '{"score": 3}'
        score = self.score(server, tmp_path, rubric="helpfulness")
        assert score(["What?"], ["That."], [True], [{}]) == [0.5]
        with pytest.raises(DataError, match="'context', which sample 'row 0 of train' lacks"):
            self.score(server, tmp_path, rubric="faithfulness")
        with pytest.raises(ConfigError, match="compares two answers"):
            self.score(server, tmp_path, rubric="preference")
        with pytest.raises(ConfigError, match=r"did you mean 'helpfulness'"):
            self.score(server, tmp_path, rubric="helpfulnes")
        with pytest.raises(ValueError, match=r"unknown key 'modle': did you mean 'model'\?"):
            self.score(server, tmp_path, modle="x")
        with pytest.raises(ValueError, match="rubric or criterion"):
            self.score(server, tmp_path, rubric="helpfulness", criterion="x")


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {n}?", "answers": [f"good {n}", f"bad {n}"]} for n in range(count)]


Place = float | None
"""What a judge says of two answers as they are shown: −1 the first place is better; None: it failed."""


class ByPlace:
    """A pairwise judge that is asked in both orders, as a served one is; `opinion` sees the two answers as shown."""

    name, fingerprint, bounds, pairwise = "by place", "0", (-1.0, 1.0), True

    def __init__(self, opinion: Callable[[str, str], Place]) -> None:
        self.opinion, self.asked = opinion, list[tuple[str, str]]()

    def compare(self, pairs: Sequence[PairCase]) -> list[Judgement]:
        both = [(pair.first.output, pair.second.output) for pair in pairs]
        return [of_both_orders(self._said(a, b), turned(self._said(b, a))) for a, b in both]

    def grade(self, cases: Sequence[Case]) -> list[Judgement]:
        raise AssertionError("it compares")

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass

    def _said(self, first: str, second: str) -> Judgement:
        self.asked.append((first, second))
        value = self.opinion(first, second)
        failed = Judgement("failed", None, "no reply", "timeout")
        return failed if value is None else Judgement("scored", value, "because")


class TestLabels:
    def test_both_orders_are_asked_and_must_agree(self) -> None:
        judge = ByPlace(self.opinion)
        made = labelled(rows(7), judge, max_failures=0.2)
        assert made.outcomes == (
            "first", "second", "prefers_first_place", "prefers_second_place", "tie", "half_a_tie", "failed",
        )  # fmt: skip
        assert made.rows == (
            {"prompt": "Question 0?", "chosen": "good 0", "rejected": "bad 0"},
            {"prompt": "Question 1?", "chosen": "bad 1", "rejected": "good 1"},
        )
        assert {(b, a) for a, b in judge.asked} == set(judge.asked)
        assert made.position_bias == 0
        assert made.consistent == pytest.approx(3 / 6)

    @staticmethod
    def opinion(first: str, second: str) -> Place:
        kind, ahead = int(first[-1]), first.startswith("good")
        opinions: list[Place] = [
            -1 if ahead else 1, 1 if ahead else -1, -1, 1, 0, 0 if ahead else -1, None if ahead else -1,
        ]  # fmt: skip
        return opinions[kind]

    def test_a_judge_of_places_labels_nothing(self) -> None:
        with pytest.raises(DataError, match="of 4 pairs the judge decided none"):
            labelled(rows(4), ByPlace(lambda first, second: -1))
        assert Labelled((), ("prefers_first_place",) * 3 + ("first",)).position_bias == 0.75

    def test_a_judge_that_fails_is_an_error(self) -> None:
        judge = ByPlace(lambda a, b: None if "0" in a else -1 if a.startswith("good") else 1)
        with pytest.raises(SubjectError, match="no judgement on 1 of 4"):
            labelled(rows(4), judge)

    def test_a_judge_that_grades_single_answers_labels_no_pairs(self) -> None:
        judge = ByPlace(lambda first, second: 0)
        judge.pairwise = False
        with pytest.raises(ConfigError, match="grades one answer"):
            labelled(rows(1), judge)

    def test_rows_without_two_answers_are_refused(self) -> None:
        def nobody(first: str, second: str) -> Place:
            raise AssertionError("nothing is asked")

        for row in (
            {"prompt": "?", "answers": ["one"]},
            {"answers": ["a", "b"]},
            {"prompt": "?", "answers": ["a", "a"]},
        ):
            with pytest.raises(DataError, match="row 0"):
                labelled([row], ByPlace(nobody))

    def test_a_served_judge_labels_conversations(self, server: Server, tmp_path: Path) -> None:
        def reply(messages: Messages) -> str:
            shown = messages[-1]["content"]
            return json.dumps({"reason": "r", "better": "A" if shown.index("| good") < shown.index("| bad") else "B"})

        server.answer = reply
        turns = [{"role": "user", "content": "Question?"}]
        answers = [[{"role": "assistant", "content": text}] for text in ("bad", "good")]
        context = JudgeContext(store=tmp_path / "judgements")
        judge = build_judge(JudgeSection(**judged_by(server)), by_criterion(pairwise=True), context, "judge")
        made = labelled([{"prompt": turns, "answers": answers}], judge)
        assert made.rows == ({"prompt": turns, "chosen": answers[1], "rejected": answers[0]},)
        assert len(server.asked) == 2


@pytest.mark.slow
def test_a_judge_can_be_the_reward_of_a_training(server: Server, tiny: TinyModels, tmp_path: Path) -> None:
    def reply(messages: Messages) -> str:
        return json.dumps({"reason": "r", "score": len(messages[-1]["content"]) % 5})

    server.answer = reply
    made = jobs.objective("grpo", rewards=[{"judge": judged_by(server)}], generations=4, max_new_tokens=6)
    job = jobs.job(tiny.model(), tmp_path, made, "prompt", train=jobs.rows("prompt", 4), max_steps=3)
    trainer = made.trainer(job)
    trainer.train()
    earned = [log["rewards/judge/mean"] for log in trainer.state.log_history if "rewards/judge/mean" in log]
    assert len(earned) == 3
    assert all(0 <= reward <= 1 for reward in earned)
    assert 0 < len(server.asked) <= 12
    assert (tmp_path / "judgements.sqlite").is_file()


def test_messages_are_read_as_text() -> None:
    assert plain("x") == "x"
    assert plain([{"role": "user", "content": "x"}]) == "x"
    assert plain([{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]) == "system: s\n\nuser: x"
