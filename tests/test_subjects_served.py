"""A served model as a subject: what it is asked, what it refuses, and a whole gate between two of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import plugins
from harness.cli import main
from harness.config import load_gate
from harness.errors import ConfigError, SubjectError
from harness.gate import run_gate
from harness.progress import Silent
from harness.records import Generate, LogLikelihood, Message, Output, RollingLogLikelihood
from harness.subjects import Selective, SubjectContext, served
from harness.subjects.prompted import Prompt, PromptedSubject
from tests import scripted_project
from tests.loopback_model import LoopbackModel, Messages

FREE = {"input": 0, "output": 0}  # with prices given, litellm is not loaded


@pytest.fixture
def server() -> Iterator[LoopbackModel]:
    with LoopbackModel() as made:
        yield made


def section(server: LoopbackModel, **more: Any) -> dict[str, Any]:
    return {
        "model": f"openai/{server.model}", "api_base": server.base, "prices": FREE, "retries": 0, "timeout": 20, **more,
    }  # fmt: skip


def subject(server: LoopbackModel, **more: Any) -> served.ServedSubject:
    chosen = plugins.options("subjects", "served", section(server, **more), where="test")
    assert isinstance(chosen, served.Options)
    return served.build(chosen, SubjectContext(Path()))


def answered(made: Any, requests: list[Any]) -> list[Output]:
    found = dict(pair for batch in made.answer(requests) for pair in batch)
    assert sorted(found) == list(range(len(requests)))
    return [found[i] for i in range(len(requests))]


def test_conversations_and_plain_text_are_answered_and_likelihoods_refused(server: LoopbackModel) -> None:
    talk = (Message("system", "Be brief."), Message("user", "Hi"))
    requests = [
        LogLikelihood("a", "b"), Generate(talk, until=("\n",), max_tokens=5, seed=3), RollingLogLikelihood("text"),
        Generate("2 + 2 ="),
    ]  # fmt: skip
    made = subject(server)
    try:
        outputs = answered(made, requests)
        assert [made.refusal(r) is None for r in requests] == [False, True, False, True]
    finally:
        made.close()
    assert [o.text for o in outputs] == [None, "echo Hi", None, "echo 2 + 2 ="]
    assert outputs[0].failure == outputs[2].failure == served.NO_LOGPROBS
    assert outputs[1].tokens == 2
    body = next(a.body for a in server.asked if a.question == "Hi")
    assert (body["messages"][0], body["stop"], body["max_tokens"], body["seed"]) == (
        {"role": "system", "content": "Be brief."}, ["\n"], 5, 3,
    )  # fmt: skip
    assert any("2 requests sent, 2 answered" in remark for remark in made.remarks())


def test_plain_text_can_be_continued_as_it_stands(server: LoopbackModel) -> None:
    made = subject(server, completions=True)
    answered(made, [Generate("2 + 2 ="), Generate((Message("user", "Hi"),))])
    made.close()
    assert {(a.path, a.question) for a in server.asked} == {
        ("/v1/completions", "2 + 2 ="), ("/v1/chat/completions", "Hi"),
    }  # fmt: skip


def test_a_failure_is_a_failed_output_and_a_cut_answer_says_so(server: LoopbackModel) -> None:
    server.script = ["500", "truncated", "html"]
    made = subject(server, concurrency=1)
    outputs = answered(made, [Generate("a"), Generate("b"), Generate("c")])
    made.close()
    assert str(outputs[0].failure).startswith("server: HTTP 500")
    assert (outputs[1].truncated, outputs[2].text) == (True, None)


def test_a_key_that_is_refused_and_a_server_that_is_gone_end_the_run(
    server: LoopbackModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_KEY", "sk-secret")
    made = subject(server, concurrency=1, api_key_env="MODEL_KEY")
    server.key = "another"
    with pytest.raises(SubjectError, match=r"cannot be asked \(authentication\)") as raised:
        answered(made, [Generate(str(n)) for n in range(100)])
    assert "sk-secret" not in str(raised.value)
    assert len(server.asked) < 10
    server.close()
    with pytest.raises(SubjectError, match=r"cannot be asked \(connection\)"):
        answered(made, [Generate(str(n)) for n in range(100)])
    made.close()


def test_a_model_that_is_not_served_there_fails_pre_flight_and_a_server_that_is_not_there_is_not_built(
    server: LoopbackModel,
) -> None:
    server.model = "mistral-7b"
    made = subject(server, model="openai/mistral-7")
    check = made.answers_check()
    made.close()
    assert not check.passed
    assert "did you mean 'mistral-7b'?" in check.detail
    with pytest.raises(SubjectError, match="Cannot connect"):
        subject(server, api_base="http://127.0.0.1:9/v1")


def test_the_fingerprint_is_of_the_model_and_never_of_the_key_or_the_hour(
    server: LoopbackModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_KEY", "sk-secret")

    def fingerprint(**more: Any) -> str:
        made = subject(server, **more)
        made.close()
        return made.fingerprint

    first = fingerprint()
    assert fingerprint(api_key_env="MODEL_KEY", concurrency=2, retries=3) == first
    assert len({first, fingerprint(completions=True), fingerprint(revision="of May")}) == 3
    server.listed = {"created": 999, "permission": [{"id": "modelperm-1"}]}
    assert fingerprint() == first
    server.listed = {"root": "/models/other", "meta": {"n_params": 7}}
    assert fingerprint() != first


def test_pre_flight_finds_the_same_model_twice_and_a_server_that_does_not_answer(server: LoopbackModel) -> None:
    with LoopbackModel(lambda messages: "other", model="n") as other:
        one, two = subject(server), subject(other)
        assert all(check.passed for check in two.checks(one))
        assert [c.name for c in one.checks(one) if not c.passed] == ["not-the-baseline"]
        other.script = ["503"]
        failed = [c for c in two.checks(one) if not c.passed]
        assert [c.name for c in failed] == ["server-answers"]
        assert "openai/n does not answer (server): HTTP 503" in failed[0].detail
        one.close()
        two.close()


def test_a_prompt_goes_before_a_served_model(server: LoopbackModel) -> None:
    made = PromptedSubject(Prompt(system="Be brief."), "brief", subject(server))
    answered(made, [Generate((Message("user", "Hi"),))])
    assert server.asked[-1].body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert isinstance(made, Selective)
    assert made.refusal(LogLikelihood("a", "b")) == served.NO_LOGPROBS
    with pytest.raises(ConfigError, match="chat_template"):
        made.inner.render_chat([Message("user", "Hi")])
    made.close()


def sums(wrong: set[int]) -> Any:
    def answer(messages: Messages) -> str:
        number = messages[-1]["content"].split()[0]
        return "?" if number.isdigit() and int(number) in wrong else str(2 * int(number)) if number.isdigit() else "yes"

    return answer


def gate_between(folder: Path, baseline: LoopbackModel, candidate: LoopbackModel, **more: Any) -> Path:
    path = scripted_project.project(folder)
    document = yaml.safe_load(path.read_text("utf-8"))
    for arm, server in (("baseline", baseline), ("candidate", candidate)):
        document[arm] = {"kind": "served", **section(server, concurrency=16, **more)}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.mark.parametrize(("lost", "decision", "code"), [(0, "promote", 0), (60, "block", 1)])
def test_a_gate_between_two_served_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: int, decision: str, code: int
) -> None:
    with LoopbackModel(sums(set()), model="old") as old, LoopbackModel(sums(set(range(lost))), model="new") as new:
        path = gate_between(tmp_path, old, new)
        for _ in range(2):
            with pytest.raises(SystemExit) as ended:
                main(["gate", str(path), "--json"])
            assert ended.value.code == code
            assert json.loads(capsys.readouterr().out)["verdict"] == decision
        sums_asked = [q for s in (old, new) for q in s.questions if "+" in q]
        assert len(sums_asked) == 2 * len(set(sums_asked)), "a question was asked again by the second run"


def test_faults_of_a_server_change_no_verdict_into_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.served._asking._FIRST_WAIT", 0.01)
    faults = {"429": 0.1, "500": 0.1, "cut": 0.05, "garbage": 0.05}
    for retries, decision in ((6, "promote"), (0, "hold")):
        with LoopbackModel(sums(set()), model="old") as old, LoopbackModel(sums(set()), model="new") as new:
            path = gate_between(tmp_path / str(retries), old, new, retries=retries)
            old.faults = new.faults = faults
            old.script = new.script = ["", ""]  # the pre-flight question
            result = run_gate(load_gate(path), Silent())
        assert result.verdict.verdict == decision


def test_a_suite_of_likelihoods_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with LoopbackModel(sums(set()), model="old") as old, LoopbackModel(sums(set()), model="new") as new:
        path = gate_between(tmp_path, old, new)
        rows = tmp_path / "goldensets" / "picks" / "1"
        rows.mkdir(parents=True)
        picks = [{"id": f"p{n}", "prompt": f"{n}", "choices": ["a", "b"], "target": "a"} for n in range(9)]
        (rows / "samples.jsonl").write_text("".join(json.dumps(p) + "\n" for p in picks), encoding="utf-8")
        card = {"name": "picks", "version": "1", "description": "picks", "licence": "Apache-2.0", "source": "made here",
                "metrics": ["multiple_choice"]}  # fmt: skip
        (rows / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
        from harness.goldens import store

        store.freeze(tmp_path / "goldensets", "picks", "1")
        document = yaml.safe_load(path.read_text("utf-8"))
        document["suites"].append({"kind": "golden", "set": "picks@1"})
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        result = run_gate(load_gate(path), Silent())
        assert result.verdict.verdict == "hold"
        failed = [c for c in result.verdict.checks if not c.passed]
        assert {c.name for c in failed} == {"answerable picks"}
        assert "no log-probabilities" in failed[0].detail
        assert not [q for q in old.questions + new.questions if "+" in q], "samples were paid for in vain"
