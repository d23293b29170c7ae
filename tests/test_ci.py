"""A gate's result in CI: read again, marked at its lines, mapped to an exit code, kept under the right cache key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.ci.caching import cache_entry
from harness.ci.commenting import Job, body
from harness.ci.github import outputs, workflow_commands
from harness.ci.outcome import Outcome, concluded, read_outcome
from harness.ci.places import Finding, findings
from harness.cli import main
from harness.config import load_gate
from harness.errors import ConfigError, InfrastructureError
from harness.gate import run_gate
from harness.progress import Silent
from harness.records import Check, Verdict
from harness.report import Document, markdown
from tests.report_example import comparison, comparisons
from tests.scripted_project import add_suite, project


def printed(path: Path, document: object) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return path


def test_a_result_is_decided_anew_not_copied(tmp_path: Path) -> None:
    result = run_gate(load_gate(project(tmp_path, lost=range(40))), Silent())
    said = printed(tmp_path / "said.json", {"verdict": "promote", "run": str(result.path)})
    for place in (result.path, said):
        outcome = read_outcome(place)
        assert (outcome.verdict, outcome.code, outcome.error) == ("block", 1, "")
    with pytest.raises(InfrastructureError, match=r"exit code 0, but its result is BLOCK \(1\)"):
        concluded(outcome, 0)


@pytest.mark.parametrize(
    ("text", "code", "error"),
    [
        ("", 4, "without a result"),
        ("Killed", 4, "without a result"),
        ("[1]", 4, "without a result"),
        ('{"error": {"kind": "ConfigError", "message": "gate.yaml:3: no"}, "exit_code": 2}', 2, "gate.yaml:3: no"),
        ('{"error": {"kind": "LockError", "message": "changed"}, "exit_code": 3}', 3, "changed"),
        ('{"error": {}, "exit_code": 0}', 4, "failed"),
        ('{"error": "x", "exit_code": true}', 4, "failed"),
    ],
)
def test_a_gate_without_a_verdict_never_passes(tmp_path: Path, text: str, code: int, error: str) -> None:
    outcome = read_outcome(printed(tmp_path / "said.json", text))
    assert (outcome.verdict, outcome.code) == ("error", code)
    assert error in outcome.error
    assert concluded(outcome, neutral=True) == code, "a refusal to decide is not a verdict HOLD"


def test_what_is_no_result_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.*expected a run directory"):
        read_outcome(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no run is named"):
        read_outcome(printed(tmp_path / "other.json", {"verdict": "promote"}))


@pytest.mark.parametrize(("verdict", "plain", "neutral"), [("promote", 0, 0), ("block", 1, 1), ("hold", 3, 0)])
def test_only_a_hold_can_be_neutral(verdict: str, plain: int, neutral: int) -> None:
    outcome = Outcome((Document(Verdict(verdict, (), ())),), plain)  # type: ignore[arg-type]
    assert concluded(outcome, plain) == plain
    assert concluded(outcome, plain, neutral=True) == neutral


def test_regressions_and_open_guards_are_marked_at_their_lines(tmp_path: Path) -> None:
    path = project(tmp_path, n=40)
    add_suite(path, "extra", 40, lost=range(40))
    outcome = read_outcome(run_gate(load_gate(path), Silent()).path)
    (found,) = [f for f in findings(outcome, path, tmp_path) if f.level == "error"]
    lines = load_gate(path).lines
    assert (found.title, found.file) == ("Regressed: extra/exact_match", "gate.yaml")
    assert found.line == lines["suites", 1, "guards", 0] != lines["suites", 0, "guards", 0]


def test_failed_checks_warn_and_a_file_elsewhere_has_no_name(tmp_path: Path) -> None:
    verdict = Verdict("hold", (), (comparison("golden/x", outcome="undecided"),), (Check("lock", False, "changed"),))
    outcome = Outcome((Document(verdict),), 3)
    found = findings(outcome, tmp_path / "gate.yaml", tmp_path / "elsewhere")
    assert [(f.level, f.file, f.line) for f in found] == [("warning", "", None)] * 2
    assert found[0].title == "Failed check: lock"


def test_an_error_is_marked_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").touch()
    (found,) = findings(Outcome((), 2, f"{tmp_path}/gate.yaml:12: unknown key"), tmp_path / "gate.yaml", tmp_path)
    assert (found.level, found.file, found.line, found.text) == ("error", "gate.yaml", 12, "unknown key")


def test_no_text_can_be_a_command_or_end_one() -> None:
    hostile = "100%\n::error::mine\r::set-output name=a::b"
    (line,) = workflow_commands([Finding("error", f"a,b:c {hostile}", hostile, "x,y.yaml", 3)])
    assert line.splitlines() == [line]
    head, _, text = line.removeprefix("::error ").partition("::")
    assert dict(part.split("=", 1) for part in head.split(",")) == {
        "file": "x%2Cy.yaml", "line": "3",
        "title": "a%2Cb%3Ac 100%25%0A%3A%3Aerror%3A%3Amine%0D%3A%3Aset-output name=a%3A%3Ab",
    }  # fmt: skip
    assert text == "100%25%0A::error::mine%0D::set-output name=a::b"


def test_more_annotations_than_github_shows_are_counted() -> None:
    lines = workflow_commands([Finding("error", str(n), "") for n in range(25)] + [Finding("warning", "w", "")])
    assert len([line for line in lines if line.startswith("::error")]) == 10
    assert "::error::16 more are in the job summary" in lines
    assert len([line for line in lines if line.startswith("::warning")]) == 1


def test_an_output_cannot_set_another() -> None:
    assert outputs({"a": "1", "b": "x=y"}) == "a=1\nb=x=y\n"
    for value in ("1\nverdict=promote", "1\r", "1\n"):
        with pytest.raises(ConfigError, match="line break"):
            outputs({"a": value})


def changed(path: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> str:
    document = yaml.safe_load(path.read_text("utf-8"))
    change(document)
    other = path.with_name("other.yaml")
    other.write_text(yaml.safe_dump(document), "utf-8")
    return cache_entry(other).key


def test_the_cache_key_follows_the_baseline_and_the_locks_not_the_candidate(tmp_path: Path) -> None:
    path = project(tmp_path)
    entry = cache_entry(path)
    assert entry.path == tmp_path / ".harness-cache"
    assert changed(path, lambda d: d["candidate"].update(answers="before.jsonl")) == entry.key
    assert changed(path, lambda d: d["policy"].update(alpha=0.01)) == entry.key
    assert changed(path, lambda d: d["baseline"].update(answers="after.jsonl")) != entry.key
    add_suite(path, "more", 3)
    assert changed(path, lambda d: d["suites"].pop()) != entry.key, "the lock has changed"


def test_a_comment_says_which_commit_it_is_about_and_keeps_within_the_limit() -> None:
    documents = tuple(
        Document(Verdict(v, ("why",), comparisons()), title=t) for v, t in (("promote", "a"), ("block", "b"))
    )  # type: ignore[arg-type]
    job = Job("https://github.example/run/1", "0123456789abcdef")
    for outcome in (Outcome(documents[:1], 0), Outcome(documents, 1), Outcome(documents * 20, 1), Outcome((), 2, "no")):
        text = body(outcome, job, name="mine")
        assert text.startswith("<!-- mine -->\n")
        assert text.count("<!-- mine -->") == 1
        assert text.endswith("\nCommit `0123456789ab`\n")
        assert "https://github.example/run/1" in text
        assert len(text) <= markdown.GITHUB_LIMIT
    several = body(Outcome(documents, 1), job)
    assert (
        several.index("## ⛔ BLOCK: 2 candidates") < several.index("## ⛔ BLOCK: b") < several.index("## ✅ PROMOTE: a")
    )
    with pytest.raises(ConfigError, match="names no comment"):
        body(Outcome(documents, 1), job, name="-->")


def test_an_error_message_is_no_markup() -> None:
    text = body(Outcome((), 2, "x ```\n<!-- harness-report -->\n@team <script>"), Job())
    fence = "`" * 4
    assert text.count(f"\n{fence}") == 2
    inside = text.split(f"{fence}text\n")[1].split(f"\n{fence}")[0]
    assert "@team <script>" in inside


def test_outside_of_ci_the_summary_and_the_key_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_EVENT_PATH", "GITLAB_CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    path = project(tmp_path)
    run = run_gate(load_gate(path), Silent()).path

    def said(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["ci", *map(str, arguments)])
        assert ended.value.code == code
        out, err = capsys.readouterr()
        return out or err

    assert said("summary", run).startswith("<!-- harness-report -->\n\n## ✅ PROMOTE")
    assert said("key", path).startswith(f"path={tmp_path / '.harness-cache'}\nkey=")
    assert said("conclude", run, "--code", 0) == "PROMOTE (exit code 0)\n"
    assert "do not" not in said("annotate", run, "--config", path)
    assert "this is neither" in said("comment", run, code=2)
