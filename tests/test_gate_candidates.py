"""Several candidates in one run: one baseline pass, a verdict each, one table; and the engine chosen from outside."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import runs
from harness.candidates import with_candidates, with_engine
from harness.cli import main
from harness.config import LoadedConfig, load_gate
from harness.errors import AdapterError, ConfigError
from harness.gate import GateResult, run_gates
from harness.progress import Silent
from harness.records import worst
from harness.subjects import SubjectContext, scripted
from tests import scripted_project
from tests.scripted_project import another_candidate

N = 30
LATER = range(0, N, 3)


def project(folder: Path, **policy: Any) -> Path:
    return scripted_project.project(folder, n=N, **policy)


def gates(path: Path, candidates: Sequence[Path], observer: Silent | None = None) -> list[GateResult]:
    return run_gates(with_candidates(load_gate(path), candidates), observer or Silent())


def asked(folder: Path, arm: str) -> Counter[str]:
    return Counter((folder / f"asked-{arm}.log").read_text("utf-8").splitlines())


def test_every_candidate_has_a_verdict_and_the_baseline_is_asked_once(tmp_path: Path) -> None:
    path = project(tmp_path, sequential=False)
    good, bad = another_candidate(path, "good.jsonl"), another_candidate(path, "bad.jsonl", wrong=LATER)
    results = gates(path, [good, bad])
    assert [(r.candidate, r.verdict.verdict) for r in results] == [("good.jsonl", "promote"), ("bad.jsonl", "block")]
    assert len({r.path for r in results}) == 2
    assert set(asked(tmp_path, "baseline").values()) == {1}
    assert set(asked(tmp_path, "candidate").values()) == {2}
    for result in results:
        assert json.loads((result.path / runs.VERDICT).read_text("utf-8"))["verdict"] == result.verdict.verdict


def test_the_noise_of_the_baseline_is_measured_once_for_all(tmp_path: Path) -> None:
    path = project(tmp_path, sequential=False, noise_probe=10)
    results = gates(path, [another_candidate(path, f"{name}.jsonl") for name in "abc"])
    assert Counter(asked(tmp_path, "baseline").values()) == {1: N - 10, 2: 10}
    details = [[c.detail for c in r.verdict.checks if c.name == "noise-floor sums"] for r in results]
    assert details == [["baseline against itself: 0 of 10 exact_match scores changed"]] * 3


def test_a_verdict_does_not_depend_on_who_else_is_in_the_run(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    found = []
    for folder, names in ((alone, ["b.jsonl"]), (together, ["a.jsonl", "b.jsonl"])):
        folder.mkdir()
        path = project(folder)
        files = [another_candidate(path, name, wrong=[5, 9] if name == "b.jsonl" else LATER) for name in names]
        found.append((gates(path, files)[-1].path / runs.VERDICT).read_bytes())
    assert found[0] == found[1]


def test_together_and_alone_are_the_same_run(tmp_path: Path) -> None:
    path = project(tmp_path)
    files = [another_candidate(path, "a.jsonl"), another_candidate(path, "b.jsonl", wrong=[5])]
    together = gates(path, files)
    before = asked(tmp_path, "candidate")
    assert [gates(path, [file])[0].path for file in files] == [r.path for r in together]
    assert asked(tmp_path, "candidate") == before
    command = json.loads((together[1].path / runs.MANIFEST).read_text("utf-8"))["command"]
    assert command == f"harness gate gate.yaml --candidate {shlex.quote(str(files[1]))}"


def test_one_candidate_is_loaded_at_a_time_and_the_baseline_throughout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    build = scripted.build

    def noted(options: scripted.Options, context: SubjectContext) -> scripted.ScriptedSubject:
        subject = build(options, context)
        events.append(f"+{subject.name}")
        assert context.pool.setdefault("the pool", context) is context  # one pool for all
        monkeypatch.setattr(subject, "close", lambda: events.append(f"-{subject.name}"))
        return subject

    monkeypatch.setattr(scripted, "build", noted)
    path = project(tmp_path)
    gates(path, [another_candidate(path, "a.jsonl"), another_candidate(path, "b.jsonl", wrong=[1])])
    assert events == ["+before", "+a", "-a.jsonl", "+b", "-b.jsonl", "-before"]


def test_a_refused_candidate_is_a_hold_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = scripted.build

    def refusing(options: scripted.Options, context: SubjectContext) -> scripted.ScriptedSubject:
        if options.answers.endswith("foreign.jsonl"):
            raise AdapterError("made for another base")
        return build(options, context)

    monkeypatch.setattr(scripted, "build", refusing)
    path = project(tmp_path)
    results = gates(path, [another_candidate(path, "foreign.jsonl"), another_candidate(path, "own.jsonl")])
    assert [r.verdict.verdict for r in results] == ["hold", "promote"]
    assert results[0].candidate == "foreign.jsonl"
    assert "made for another base" in results[0].verdict.reasons[0]
    assert (results[0].path / "report.html").exists()


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    path = project(tmp_path)
    one, two = another_candidate(path, "one/final.jsonl"), another_candidate(path, "two/final.jsonl", wrong=LATER)
    third = another_candidate(path, "other.jsonl")
    results = gates(path, [one, two, third])
    assert [r.candidate for r in results] == ["one/final.jsonl", "two/final.jsonl", "other.jsonl"]
    assert [r.verdict.verdict for r in results] == ["promote", "block", "promote"]
    assert results[0].path.name.startswith("one-final.jsonl-")
    with pytest.raises(ConfigError, match="given twice"):
        with_candidates(load_gate(path), [one, two, tmp_path / "one" / ".." / "one" / "final.jsonl"])


def test_a_candidate_may_be_drafted_by_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project(tmp_path, sequential=False, first_chunk=10)
    files = [another_candidate(path, f"{name}.jsonl", wrong=range(N), say="a long new answer") for name in "ab"]
    drafts: dict[str, list[str]] = {}
    honest = scripted.ScriptedSubject.answer

    def noted(self: Any, requests: Any, drafted: Any = ()) -> Any:
        drafts.setdefault(self.name, []).extend(d.text for d in drafted if d)
        return honest(self, requests, drafted)

    monkeypatch.setattr(scripted.ScriptedSubject, "answer", noted)
    gates(path, files)
    assert set(drafts["a.jsonl"]) == {str(2 * i) for i in range(N)}  # the baseline's
    assert drafts["b.jsonl"][:10] == drafts["a.jsonl"][:10]  # nothing is known of either source yet
    assert set(drafts["b.jsonl"][10:]) == {"a long new answer"}


class Telling(Silent):
    """Remembers notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_what_subjects_remark_is_told_once_with_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted.ScriptedSubject, "remarks", lambda self: [f"{len(self.name)} letters"])
    path, observer = project(tmp_path), Telling()
    files = [another_candidate(path, "a.jsonl"), another_candidate(path, "b.jsonl", wrong=LATER)]
    one, two = gates(path, files, observer)
    assert observer.notes == [
        "a.jsonl: 7 letters", f"a.jsonl: PROMOTE, {one.path}",
        "b.jsonl: 7 letters", f"b.jsonl: BLOCK, {two.path}",
        "before: 6 letters",
    ]  # fmt: skip
    observer.notes.clear()
    gates(path, files[:1], observer)
    assert [note for note in observer.notes if not note.startswith("resuming")] == [
        "a.jsonl: 7 letters", "before: 6 letters",
    ]  # fmt: skip


# ---------------------------------------------------------------- the command line


@pytest.fixture
def harness(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: (exit code, stdout, stderr)."""

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


def candidates(path: Path, *names: str) -> list[str]:
    """Options for candidates that are promoted, blocked or held, as their names say."""
    options = []
    for name in names:
        file = another_candidate(path, f"{name}.jsonl", wrong=LATER if name.startswith("block") else ())
        if name.startswith("hold"):
            file.write_text("\n".join(file.read_text("utf-8").splitlines()[N // 3 :]) + "\n", "utf-8")
        options += ["--candidate", str(file)]
    return options


@pytest.mark.parametrize(
    ("names", "code", "verdict"),
    [
        (("promote-1", "promote-2"), 0, "promote"),
        (("promote", "hold"), 3, "hold"),
        (("block", "hold", "promote"), 1, "block"),
        (("hold", "block"), 1, "block"),
    ],
)
def test_the_exit_code_is_that_of_the_worst(
    tmp_path: Path, harness: Callable[..., tuple[int, str, str]], names: tuple[str, ...], code: int, verdict: str
) -> None:
    path = project(tmp_path)
    ended, out, _ = harness("gate", path, *candidates(path, *names), "--json")
    document = json.loads(out)
    assert (ended, document["verdict"]) == (code, verdict)
    assert set(document) == {"verdict", "candidates"}
    for name, one in zip(names, document["candidates"], strict=True):
        assert one["candidate"] == f"{name}.jsonl"
        assert one["verdict"] == name.partition("-")[0]
        assert Path(one["run"]).is_dir()
        assert set(one) == {"candidate", "run", "verdict", "reasons", "comparisons", "checks"}
        again = json.loads(harness("report", one["run"], "--json")[1])
        assert again == {key: value for key, value in one.items() if key != "candidate"}


def test_one_candidate_prints_what_it_always_did(tmp_path: Path, harness: Callable[..., tuple[int, str, str]]) -> None:
    path = project(tmp_path)
    code, out, _ = harness("gate", path, *candidates(path, "promote"), "--json")
    assert code == 0
    assert set(json.loads(out)) == {"verdict", "reasons", "comparisons", "checks", "run"}
    assert "Candidates" not in harness("gate", path, *candidates(path, "promote"))[1]


def test_one_table_shows_all_candidates(
    tmp_path: Path, harness: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    path = project(tmp_path, sequential=False)
    code, out, err = harness("gate", path, *candidates(path, "promote", "block"))
    assert code == 1
    table = out[out.index("Candidates") :].splitlines()
    assert table[1].split() == ["candidate", "verdict", "sums/exact_match", "run"]
    assert table[2].split()[:5] == ["promote.jsonl", "✓", "PROMOTE", "0.0", "pts"]
    assert table[3].split()[:6] == ["block.jsonl", "✗", "BLOCK", "−33.3", "pts", "✗"]
    assert str(tmp_path / "runs" / "block.jsonl-") in table[3]
    assert out.count("Report:") == 2
    assert "== candidate 2 of 2, block.jsonl: evaluating" in err


def test_the_worst_of_several_verdicts() -> None:
    assert worst(["promote", "hold", "promote"]) == "hold"
    assert worst(["hold", "block"]) == "block"
    assert worst(["promote"]) == "promote"


# ---------------------------------------------------------------- the engine


def local_gate(folder: Path, **options: Any) -> LoadedConfig:
    path = project(folder)
    document = yaml.safe_load(path.read_text("utf-8"))
    document["baseline"] = {"model": "base", **options}
    document["candidate"] = {"model": "base", "adapter": "adapter", "name": "mine", **options}
    path.write_text(yaml.safe_dump(document), "utf-8")
    return load_gate(path)


def test_the_engine_of_both_subjects_is_chosen_from_outside(tmp_path: Path) -> None:
    loaded = with_engine(local_gate(tmp_path, engine="faster", engine_options={"budget": 1}, dtype="float32"), "plain")
    assert loaded.gate.baseline.options == {"model": "base", "engine": "plain", "dtype": "float32"}
    assert loaded.gate.candidate.options["engine"] == "plain"
    assert "engine_options" not in loaded.gate.candidate.options
    assert loaded.gate.candidate.name == "mine"
    assert loaded.command == "harness gate gate.yaml --engine plain"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "adapter_config.json").write_text("{}", "utf-8")
    (again,) = with_candidates(loaded, [tmp_path / "other"])
    assert again.gate.candidate.options["engine"] == "plain"
    assert again.command == f"harness gate gate.yaml --engine plain --candidate {shlex.quote(str(tmp_path / 'other'))}"


def test_options_of_the_engine_that_is_chosen_anyway_are_kept(tmp_path: Path) -> None:
    loaded = with_engine(local_gate(tmp_path, engine="plain", engine_options={"batch_size": 3}), "plain")
    assert loaded.gate.baseline.options["engine_options"] == {"batch_size": 3}


def test_an_unknown_engine_and_a_subject_without_one_are_usage_errors(
    tmp_path: Path, harness: Callable[..., tuple[int, str, str]]
) -> None:
    path = project(tmp_path)
    code, _, err = harness("gate", path, "--engine", "plian")
    assert code == 2
    assert "did you mean 'plain'?" in err
    code, _, err = harness("gate", path, "--engine", "plain")
    assert code == 2
    assert "gate.yaml:1" in err
    assert "kind 'scripted' has no engine" in err
