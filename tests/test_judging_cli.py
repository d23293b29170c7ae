"""`harness judge calibrate` with a judge on a loopback server: exit codes, its file, and what a gate makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import labelled
from harness.cli import main
from harness.judging.labelling.planning import judged_metrics, plan_labels
from harness.judging.labelling.session import Session
from harness.judging.labelling.texts import question_of, shown_of
from harness.judging.rubric import load_rubric
from harness.runs import read_entries
from tests.documentation import ROOT, blocks, commands
from tests.judge_project import change, honest, project
from tests.labelled_run import GRADE, PAIR, make_run
from tests.loopback_model import LoopbackModel


@pytest.fixture
def server() -> Iterator[LoopbackModel]:
    with LoopbackModel(honest) as serving:
        yield serving


@pytest.fixture
def folder(tmp_path: Path, server: LoopbackModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose answers say what they are worth, and 120 labels that agree but for every tenth."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    project(tmp_path, server.base)
    (tmp_path / "judges" / "calibration").mkdir()
    rows = [label(i) for i in range(120)]
    write(tmp_path / "judges" / "calibration" / "worth.jsonl", rows)
    return tmp_path


def label(number: int, **more: Any) -> dict[str, Any]:
    worth = 1 + number % 3
    said = worth if number % 10 else 1 + worth % 3
    sample = {"sample_id": f"x{number}", "prompt": f"Explain {number}."}
    return {**sample, "output": f"An explanation of {number}, worth {worth}.", "label": said, **more}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["judge", *arguments])
    return int(ended.value.code or 0)


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_a_judge_that_agrees_meets_the_policy(
    folder: Path, server: LoopbackModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("calibrate", "worth", "--model", "openai/m", "--api-base", server.base, "--json") == 0
    found = document(capsys)
    assert found["passed"]
    assert found["calibration"]["scored"] == 120
    assert found["calibration"]["whole"]["accuracy"]["estimate"] == pytest.approx(0.9)
    assert found["file"] == str(folder / "judges" / "calibration" / "worth.json")
    assert json.loads(Path(found["file"]).read_text())["calibrations"] == [found["calibration"]]
    assert max(server.answered.values()) == 1


def test_nothing_is_paid_twice(folder: Path, server: LoopbackModel) -> None:
    given = ("calibrate", "worth", "--model", "openai/m", "--api-base", server.base)
    run(*given)
    asked = sum(server.requests.values())
    write(folder / "judges" / "calibration" / "worth.jsonl", [label(i) for i in range(130)])
    assert run(*given) == 0
    assert sum(server.requests.values()) == asked + 10


def test_the_gates_own_judge_is_calibrated_and_then_may_be_required(
    folder: Path, server: LoopbackModel, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder / "gate.yaml", judges={})

    def gate() -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main(["gate", str(folder / "gate.yaml"), "--json"])
        checks = document(capsys)["checks"]
        return next(check for check in checks if check["name"].startswith("judge-calibrated"))

    before = gate()
    assert not before["passed"]
    assert "it was never calibrated" in before["detail"]
    assert run("calibrate", "worth", "--gate", str(folder / "gate.yaml"), "--json") == 0
    capsys.readouterr()
    assert gate()["passed"]
    write(folder / "judges" / "calibration" / "worth.jsonl", [label(i) for i in range(121)])
    assert "have changed since it was calibrated" in gate()["detail"]


def test_what_does_not_meet_the_policy_holds_with_the_way_out(
    folder: Path, server: LoopbackModel, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("calibrate", "worth", "--gate", str(folder / "gate.yaml"))
    assert run(*given, "--needed", "121") == 3
    assert run(*given, "--kappa", "0.9") == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "121 held-out labels are needed, 1 more" in said
    assert "κ must be at least 0.9 with 95 % confidence" in said
    assert "judges.uncalibrated" in said
    assert "120 held-out items: 120 scored, 0 failed, 0 abstained" in said


def test_a_golden_set_and_a_run_may_hold_what_the_labels_name(
    folder: Path, server: LoopbackModel, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [f"An explanation of {i}, worth {1 + i % 3}, as the before model puts it." for i in range(60)]
    rows = [{"sample_id": f"e{i:03}", "output": text, "label": 1 + i % 3} for i, text in enumerate(outputs)]
    write(folder / "labels.jsonl", rows)
    given = ("calibrate", "worth", "--labels", "labels.jsonl", "--gate", str(folder / "gate.yaml"))
    assert run(*given, "--needed", "60", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["calibration"]["scored"] == 60
    assert f"note: a gate looks for calibrations in {folder / 'judges' / 'calibration'}" in captured.err
    stored = make_run(folder / "runs", outputs={0: ("An old one, worth 2.", "A new one, worth 3.")})
    digest = labelled.digest("A new one, worth 3.")
    write(folder / "labels.jsonl", [{"sample_id": "e000", "output_sha256": digest, "label": 3}])
    assert run(*given, "--json") == 2
    assert "--run" in capsys.readouterr().err
    assert run(*given, "--run", str(stored), "--json") == 3
    assert document(capsys)["calibration"]["scored"] == 1


def test_a_judge_that_cannot_be_heard_leaves_no_calibration(
    folder: Path, server: LoopbackModel, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = {"500": 1.0}
    change(folder / "gate.yaml", suite={"by": {"model": "openai/m", "api_base": server.base, "retries": 0}})
    assert run("calibrate", "worth", "--gate", str(folder / "gate.yaml"), "--json") == 4
    assert not (folder / "judges" / "calibration" / "worth.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wort", "--model", "openai/m"), "no judge 'wort': did you mean 'worth'"),
        (("worth",), "say who judges: --gate gate.yaml, or --model"),
        (("wurth", "--gate", "gate.yaml"), "no suite of kind judge has the judge 'wurth': did you mean 'worth'"),
        (("better", "--model", "openai/m"), "no labels: there is no"),
        (("worth", "--model", "openai/m", "--labels", "nowhere.jsonl"), "no such file"),
        (("worth", "--model", "openai/m", "--api-key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY"),
        (("worth", "--gate", "gate.yaml", "--cut", "7"), "must be a level above the lowest"),
        (("worth", "--gate", "gate.yaml", "--dollars", "0"), "buys nothing"),
    ],
)
def test_wrong_input_is_one_clear_error(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run("calibrate", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_two_files_of_labels_are_not_chosen_between(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "judges" / "calibration" / "worth.csv").write_text("sample_id,label\n")
    assert run("calibrate", "worth", "--gate", "gate.yaml") == 2
    assert "both hold labels" in " ".join(capsys.readouterr().err.split())


def test_labelling_says_what_is_wrong_before_it_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = str(make_run(tmp_path))
    assert run("label", made, "--metric", "preferences") == 2
    assert "no such judge scored this run; choose one: --suite 'chat preference'" in capsys.readouterr().err
    assert run("label", str(tmp_path)) == 4
    empty = make_run(tmp_path / "empty", PAIR, count=1, outputs={0: ("same", "same")})
    assert run("label", str(empty)) == 3
    graded = make_run(tmp_path / "graded", GRADE)
    other = tmp_path / "judges"
    other.mkdir()
    shipped = Path(__file__).parents[1] / "judges"
    for name in ("helpfulness.yaml", "helpfulness.prompt.md"):
        (other / name).write_text((shipped / name).read_text())
    text = (other / "helpfulness.yaml").read_text()
    (other / "helpfulness.yaml").write_text(text[: text.index("  - value: 5")])
    capsys.readouterr()
    assert run("label", str(graded), "--judges", str(other)) == 2
    assert "has another scale now than it had in this run" in capsys.readouterr().err


def grade_everything(run: Path, key: tuple[str, str], judges: Path) -> int:
    """A person who reads what an answer says that it is worth, and labels all that is planned."""
    asked = judged_metrics(run)[key]
    plan = plan_labels(run, *key, asked)
    rubric = load_rubric(key[1], judges)
    session = Session(run, plan, shown_of(read_entries(run), rubric, {}), question_of(rubric), "ann")
    while item := session.state()["item"]:
        ((text,),) = item["outputs"]
        assert session.answer(item["id"], int(text.partition("worth ")[2][0]))
    return asked


@pytest.mark.parametrize(("worse", "verdict"), [((), "promote"), (range(40), "block")], ids=["as good", "worse"])
def test_people_decide_what_a_gate_held_for_them(
    folder: Path, capsys: pytest.CaptureFixture[str], server: LoopbackModel, worse: Sequence[int], verdict: str
) -> None:
    again = folder / "again"
    again.mkdir()
    # A judge that finds everything worth 3: alone it would promote anything.
    server.answer = lambda messages: json.dumps({"reason": "nice", "score": 3})
    config = project(again, server.base, worse=worse, labels=90, n=60)

    def gate() -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main(["gate", str(config), "--json"])
        return document(capsys)

    held = gate()
    assert held["verdict"] == "hold"
    assert "none of the 90 labels by people decide it: harness judge label RUN" in held["reasons"][0]
    asked = grade_everything(Path(held["run"]), ("explain worth", "worth"), again / "judges")
    assert asked == 90
    decided = gate()
    assert (decided["verdict"], decided["run"]) == (verdict, held["run"])
    assert decided["comparisons"][0]["correction"]["labels"] == 90


# ---------------------------------------------------------------- the documentation


@pytest.mark.parametrize("page", ["README.md", "docs/judges.md"])
def test_the_commands_that_are_shown_run(
    page: str, folder: Path, server: LoopbackModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they stand, but for the names of the rubrics, and for where the judge is."""
    answers = [{**label(i), "sample_id": f"e{i:03}"} for i in range(60)]
    for name in ("answers.jsonl", "old.jsonl", "new.jsonl"):
        write(folder / name, [{k: v for k, v in row.items() if k != "label"} for row in answers])
    shown = [c for b in blocks("console", page=ROOT / page) for c in commands(b)]
    starts = (["harness", "judge", "calibrate"], ["harness", "judge", "run"])
    ours = [command for command in shown if list(command.words[:3]) in starts]
    assert len(ours) >= 2
    yours = {"helpfulness": "worth", "preference": "better", "openai/judge": "openai/m"}
    for command in ours:
        words = [yours.get(word, word) for word in command.words[2:]]
        words = [server.base if word.startswith("http://127.0.0.1:8000") else word for word in words]
        assert run(*words) == 0, f"{command.place}: {command}\n{capsys.readouterr().err}"
