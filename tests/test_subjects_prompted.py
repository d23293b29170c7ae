"""A subject behind a prompt: what the inner one is asked, what is refused, and that its answers are its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import plugins
from harness.cli import main
from harness.errors import ConfigError
from harness.records import Generate, LogLikelihood, Message, Output, Request, RollingLogLikelihood
from harness.subjects import SubjectContext, prompted
from tests.scripted_project import N, project

SUMS: dict[str, Any] = {"system": "Add.", "shots": [{"prompt": "1 + 1 =", "answer": "2"}], "until": ["\n\n"]}


def build(folder: Path, prompt: dict[str, Any], answers: list[dict[str, Any]], name: str = "p") -> Any:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(prompt), encoding="utf-8")
    (folder / "answers.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers), encoding="utf-8")
    section = {"kind": "scripted", "answers": "answers.jsonl"}
    options = plugins.options("subjects", "prompted", {"prompt": f"{name}.yaml", "subject": section}, where="here")
    return plugins.load("subjects", "prompted").build(options, SubjectContext(folder))


def answer(subject: Any, request: Request) -> Output:
    ((place, output),) = [pair for batch in subject.answer([request]) for pair in batch]
    assert place == 0
    return output


def test_text_is_put_before_text(tmp_path: Path) -> None:
    full = "Add.\n\n1 + 1 = 2\n\n3 + 3 ="
    subject = build(
        tmp_path, SUMS, [{"prompt": full, "text": "6"}, {"context": full, "continuation": "6", "logprob": -1}]
    )
    assert answer(subject, Generate("3 + 3 =")).text == "6"
    assert answer(subject, LogLikelihood("3 + 3 =", "6")).logprob == -1
    assert answer(subject, Generate("4 + 4 =")).failure


def test_messages_get_turns_and_one_system_turn(tmp_path: Path) -> None:
    turns = (Message("user", "1 + 1 ="), Message("assistant", "2"), Message("user", "3 + 3 ="))
    prompt = prompted.Prompt.model_validate(SUMS)
    asked = (Message("user", "3 + 3 ="),)
    assert prompt.before(Generate(asked)) == Generate((Message("system", "Add."), *turns))
    told = (Message("system", "Be brief."), *asked)
    assert prompt.before(LogLikelihood(told, "6")) == LogLikelihood(
        (Message("system", "Add.\n\nBe brief."), *turns), "6"
    )
    bare = prompted.Prompt.model_validate({"shots": SUMS["shots"]})
    assert bare.before(Generate(asked)) == Generate(turns)


def test_only_text_gets_the_stops_of_the_prompt() -> None:
    prompt = prompted.Prompt.model_validate(SUMS)
    assert prompt.before(Generate("x", until=("\n", "\n\n"))).until == ("\n", "\n\n")  # type: ignore[union-attr]
    assert prompt.before(Generate("x")).until == ("\n\n",)  # type: ignore[union-attr]
    assert prompt.before(Generate((Message("user", "x"),))).until == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(("prompt", "reply", "between"), [("a:", "b", " "), ("a\n", "b", ""), ("a", "\nb", "")])
def test_one_space_between_a_prompt_and_its_answer(prompt: str, reply: str, between: str) -> None:
    assert prompted.joint(prompt, reply) == between


def test_what_has_no_place_for_a_prompt_is_a_failure_and_the_rest_is_answered(tmp_path: Path) -> None:
    subject = build(tmp_path, SUMS, [{"prompt": "Add.\n\n1 + 1 = 2\n\nx", "text": "y"}])
    requests = [
        RollingLogLikelihood("a b c"),
        Generate("x"),
        Generate("user: hello\n"),
        Generate("system: a\nuser: b\n"),
    ]
    outputs = dict(pair for batch in subject.answer(requests) for pair in batch)
    assert sorted(outputs) == [0, 1, 2, 3]
    assert outputs[1].text == "y"
    assert "no place for a prompt" in str(outputs[0].failure)
    assert all("chat template was applied" in str(outputs[i].failure) for i in (2, 3))
    with pytest.raises(ConfigError, match="chat: true"):
        subject.render_chat([Message("user", "x")])


def test_every_prompt_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    shots = {"shots": SUMS["shots"]}
    kinds = [SUMS, shots, {**shots, "separator": "\n"}, {**shots, "until": ["#"]}, {"system": "Add."}]
    built = [build(tmp_path, kind, [], f"p{i}") for i, kind in enumerate(kinds)]
    inner = built[0].describe()["subject"]["fingerprint"]
    assert len({inner, *(subject.fingerprint for subject in built)}) == len(kinds) + 1
    assert build(tmp_path, SUMS, [], "other").fingerprint == built[0].fingerprint  # a name is no content


def test_tokens_are_not_passed_on(tmp_path: Path) -> None:
    row = {"prompt": "Add.\n\nx", "text": "y", "ids": [1], "logprobs": [-0.5]}
    output = answer(build(tmp_path, {"system": "Add."}, [row]), Generate("x"))
    assert (output.text, output.ids, output.logprobs) == ("y", (), ())


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"sytem": "x"}, "did you mean 'system'"),
        ({}, "changes nothing"),
        ({"shots": [{"prompt": "a", "answer": "b\n\nc"}], "until": ["\n\n"]}, "ends an answer"),
        ({"shots": [{"prompt": "a"}]}, "answer"),
        ([], "expected a mapping"),
        ({"system": "x", "until": [""]}, "empty string"),
    ],
)
def test_a_wrong_prompt_file_is_one_message(tmp_path: Path, prompt: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"p\.yaml.*{said}"):
        build(tmp_path, prompt, [])


def test_a_prompt_as_candidate_and_as_baseline_of_a_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project(tmp_path, lost=range(40))
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"system": "Add."}), encoding="utf-8")
    rows = [{"prompt": f"Add.\n\n{i} + {i} =", "text": str(2 * i)} for i in range(N)]
    with open(tmp_path / "after.jsonl", "a", encoding="utf-8") as stream:  # knows all sums when it is told to add
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    bare = document["candidate"]
    document["candidate"] = {"kind": "prompted", "prompt": "p.yaml", "subject": bare}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert gated(path, capsys) == "promote"
    document["baseline"], document["candidate"] = document["candidate"], bare
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert gated(path, capsys) == "block"


def test_a_prompt_does_not_hide_that_an_adapter_does_nothing(tmp_path: Path) -> None:
    from harness.subjects._checks import _PROBES, adapter_active

    rows = [{"context": c, "continuation": t, "logprob": -1.0} for c, t in _PROBES]
    told = [{"context": f"Add.\n\n{c}", "continuation": t, "logprob": -2.0} for c, t in _PROBES]
    baseline = build(tmp_path, {"system": "Add."}, [*rows, *told])
    idle = build(tmp_path, {"system": "Subtract."}, rows).inner
    assert not adapter_active(baseline, idle).passed
    assert adapter_active(
        baseline, build(tmp_path, {"system": "x"}, [{**r, "logprob": -1.5} for r in rows]).inner
    ).passed


def gated(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(["gate", str(path), "--json"])
    return str(json.loads(capsys.readouterr().out)["verdict"])


@pytest.mark.slow
def test_a_prompt_before_a_real_model_is_the_longer_request(tiny: Any) -> None:
    folder = tiny.folder
    (folder / "p.yaml").write_text(yaml.safe_dump(SUMS), encoding="utf-8")
    section = {"kind": "local", "model": str(tiny.model()), "device": "cpu"}
    context = SubjectContext(folder)
    options = plugins.options("subjects", "prompted", {"prompt": "p.yaml", "subject": section}, where="here")
    subject = prompted.build(options, context)  # type: ignore[arg-type]
    inner = plugins.load("subjects", "local").build(
        plugins.options("subjects", "local", {k: v for k, v in section.items() if k != "kind"}, where="here"), context
    )
    requests: list[Request] = [
        Generate((Message("user", "3 + 3 ="),), max_tokens=8),
        Generate("3 + 3 =", max_tokens=8),
        LogLikelihood("3 + 3 =", " 6"),
    ]
    for request in requests:
        plain, behind = answer(inner, subject.prompt.before(request)), answer(subject, request)
        assert (behind.text, behind.logprob) == (plain.text, plain.logprob)
    assert "chat template was applied" in str(
        answer(subject, Generate(inner.render_chat([Message("user", "x")]))).failure
    )
    subject.close()
    inner.close()
