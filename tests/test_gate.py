"""The gate from gate.yaml to the run directory, with recorded answers in place of a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config import load_gate
from harness.document import read_run
from harness.drift import partition_kl
from harness.errors import LockError, UsageError
from harness.gate import GateResult, run_gate
from harness.progress import Silent
from harness.subjects import scripted
from harness.suites import golden
from tests.scripted_project import N, project


def run(path: Path) -> GateResult:
    return run_gate(load_gate(path), Silent())


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_an_equal_candidate_is_promoted_early_with_every_file_written(tmp_path: Path) -> None:
    result = run(project(tmp_path))
    assert result.verdict.verdict == "promote"
    assert result.verdict.comparisons[0].n_used < N
    names = {
        "manifest.json",
        "journal.jsonl",
        "evidence.parquet",
        "verdict.json",
        "report.html",
        "report.md",
        "junit.xml",
    }
    assert names <= {p.name for p in result.path.iterdir()}


def test_a_forgetful_candidate_is_blocked_and_the_lost_samples_are_shown(tmp_path: Path) -> None:
    result = run(project(tmp_path, lost=range(0, N, 3), sequential=False))
    assert result.verdict.verdict == "block"
    assert result.verdict.comparisons[0].lost == N // 3
    page = (result.path / "report.html").read_text(encoding="utf-8")
    assert "sums" in page
    assert "27 + 27 =" in page


def test_slices_are_advisory_unless_critical(tmp_path: Path) -> None:
    few = [i for i in range(N) if i % 2][:4]  # 4 of 120 in all, 4 of the 60 odd ones
    path = project(tmp_path, lost=few, sequential=False)
    assert run(path).verdict.verdict == "promote"
    change(path, lambda d: d["suites"][0]["guards"][0].update(critical_slices=["odd"]))
    verdict = run(path).verdict
    assert verdict.verdict == "block"
    assert any("[odd] regressed" in reason for reason in verdict.reasons)


def test_a_silent_candidate_holds_and_is_never_a_zero(tmp_path: Path) -> None:
    verdict = run(project(tmp_path, silent=range(10))).verdict
    assert verdict.verdict == "hold"
    comparison = verdict.comparisons[0]
    assert comparison.difference == 0.0
    assert "pairs failed" in verdict.reasons[0]


def test_the_same_command_asks_nothing_twice(tmp_path: Path) -> None:
    path = project(tmp_path)
    first = run(path)
    asked = (tmp_path / "asked-baseline.log").read_text(encoding="utf-8")
    before = (first.path / "verdict.json").read_bytes()
    second = run(path)
    assert second.path == first.path
    assert (second.path / "verdict.json").read_bytes() == before
    assert (tmp_path / "asked-baseline.log").read_text(encoding="utf-8") == asked


def test_the_baseline_is_asked_once_for_two_candidates(tmp_path: Path) -> None:
    path = project(tmp_path, sequential=False)
    run(path)
    asked = (tmp_path / "asked-baseline.log").read_text(encoding="utf-8")
    (tmp_path / "other.jsonl").write_text(
        (tmp_path / "before.jsonl").read_text(encoding="utf-8").replace('"10"', '"11"'), encoding="utf-8"
    )
    change(path, lambda d: d["candidate"].update(answers="other.jsonl"))
    assert run(path).verdict.verdict == "promote"
    assert (tmp_path / "asked-baseline.log").read_text(encoding="utf-8") == asked


def test_a_stored_run_is_decided_again_from_its_evidence(tmp_path: Path) -> None:
    result = run(project(tmp_path, lost=range(20)))
    document = read_run(result.path)
    assert document.verdict == result.verdict
    assert len(document.items) == result.verdict.comparisons[0].lost


def test_stopping_early_is_what_the_policy_asked_for(tmp_path: Path) -> None:
    used = []
    for name, sequential in (("a", True), ("b", False)):
        (tmp_path / name).mkdir()
        used.append(run(project(tmp_path / name, sequential=sequential)).verdict.comparisons[0].n_used)
    assert used[0] < used[1] == N


def test_noise_in_the_baseline_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project(tmp_path, noise_probe=24)
    honest = scripted.ScriptedSubject.answer
    rounds = {"count": 0}

    def moody(self: Any, requests: Any, drafts: Any = ()) -> Any:
        rounds["count"] += 1
        for batch in honest(self, requests, drafts):
            yield [(i, replace(o, text="?") if rounds["count"] == 2 else o) for i, o in batch]

    monkeypatch.setattr(scripted.ScriptedSubject, "answer", moody)
    verdict = run(path).verdict
    assert verdict.verdict == "hold"
    assert "noise-floor" in verdict.reasons[0]
    assert verdict.comparisons[0].n_used == 0


def tokens(path: Path, arm: str, edit: Callable[[int, dict[str, Any]], dict[str, Any]]) -> None:
    """Give the recorded answers of one side something about their tokens."""
    file = path.parent / f"{arm}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    changed = [{**row, **edit(i, row)} for i, row in enumerate(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in changed), encoding="utf-8")


def test_drift_is_shown_and_decides_nothing(tmp_path: Path) -> None:
    plain, moved = tmp_path / "plain", tmp_path / "moved"
    for folder in (plain, moved):
        folder.mkdir()
        project(folder, lost=[0, 1], sequential=False)
    tokens(moved / "gate.yaml", "before", lambda i, _: {"ids": [5, 6, i, 1], "logprobs": [-0.1, -0.1, -0.1, 0.0]})
    tokens(
        moved / "gate.yaml",
        "after",
        lambda i, _: {
            "ids": [5, 6, i + (i % 4 == 0), 1],
            "logprobs": [-0.1, -0.5, -0.1, 0.0],
            "near_ties": int(i == 0),
        },
    )
    without, result = run(plain / "gate.yaml"), run(moved / "gate.yaml")
    assert result.verdict == without.verdict
    (drift,) = read_run(result.path).drift
    assert (drift.suite, drift.answers, drift.identical, drift.divergence) == ("sums", N, N * 3 // 4, (2.0, 2.0, 2.0))
    assert (drift.agreed, drift.generated) == (4 * N - 2 * N // 4, 4 * N)
    assert (drift.near_ties, drift.maybe_ties) == (1, 1)
    assert drift.kl == pytest.approx(N * partition_kl(-0.1, -0.5) / drift.agreed)
    texts = {name: (result.path / name).read_text(encoding="utf-8") for name in ("report.md", "report.html")}
    assert "<summary>Drift (advisory): 75.0 % of 120 answers alike" in texts["report.md"]
    assert 'id="drift"' in texts["report.html"]
    assert "rift" not in (result.path / "junit.xml").read_text(encoding="utf-8")
    for name in ("report.md", "report.html"):
        assert 'drift"' not in (without.path / name).read_text(encoding="utf-8")
        assert "Drift (advisory)" not in (without.path / name).read_text(encoding="utf-8")
    # The journal holds what was found, the cache the tokens that it was found in.
    assert '"logprobs":[-' not in (result.path / "journal.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("difference", ["tokenizer", "chat", "temperature"])
def test_answers_that_were_not_asked_alike_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: str
) -> None:
    path = project(tmp_path, lost=[0])
    for arm in ("before", "after"):
        tokens(path, arm, lambda i, _: {"ids": [5, i], "logprobs": [-0.1, -0.1]})
    change(path, lambda d: d["suites"][0].update(chat=difference == "chat"))
    if difference == "chat":
        for arm in ("before", "after"):
            tokens(path, arm, lambda _, row: {"prompt": f"user: {row['prompt']}\n"})
        honest = scripted.build

        def build(options: scripted.Options, context: Any) -> scripted.ScriptedSubject:
            subject = honest(options, context)
            subject.chat_fingerprint = subject.name
            return subject

        monkeypatch.setattr(scripted, "build", build)
    elif difference == "tokenizer":
        shown = scripted.ScriptedSubject.describe
        monkeypatch.setattr(
            scripted.ScriptedSubject, "describe", lambda self: {**shown(self), "tokenizer_sha256": self.name}
        )
    else:
        monkeypatch.setattr(golden.GoldenSuite, "requests", _warmer(golden.GoldenSuite.requests))
    result = run(path)
    assert result.verdict.comparisons[0].n_failed == 0
    assert read_run(result.path).drift == []


def _warmer(honest: Any) -> Any:
    return lambda self, sample, subject: tuple(replace(r, temperature=0.7) for r in honest(self, sample, subject))


def test_what_a_metric_cannot_read_does_not_make_it_score_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project(tmp_path, lost=[0], n=40, sequential=False)
    for arm, certain in (("before", -0.1), ("after", -0.2)):
        tokens(path, arm, lambda i, _, c=certain: {"ids": [i], "logprobs": [c]})
    scored = []
    honest = golden.GoldenSuite.score_one
    monkeypatch.setattr(golden.GoldenSuite, "score_one", lambda self, s, o: scored.append(s.id) or honest(self, s, o))
    run(path)
    assert len(scored) == 41  # one sample differs in its text


def test_a_changed_golden_byte_is_refused_by_name(tmp_path: Path) -> None:
    path = project(tmp_path)
    samples = tmp_path / "goldensets" / "sums" / "1" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes().replace(b'"8"', b'"9"'))
    with pytest.raises(LockError, match=r"samples\.jsonl") as caught:
        run(path)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda d: d["suites"][0].update(kind="goldn"), "did you mean 'golden'?"),
        (lambda d: d["suites"][0].update(sett="sums@1"), "did you mean 'set'?"),
        (lambda d: d["suites"][0]["guards"][0].update(metric="exact_mach"), "did you mean 'exact_match'?"),
        (lambda d: d["suites"][0]["guards"][0].update(critical_slices=["evn"]), "did you mean 'even'?"),
        (lambda d: d["suites"][0]["guards"][0].update(margin=1.0), "tolerates any drop"),
        (lambda d: d["candidate"].update(answer="x"), "did you mean 'answers'?"),
        (lambda d: d["suites"].append(dict(d["suites"][0])), "a second suite named"),
    ],
)
def test_each_mistake_is_named_with_its_line(tmp_path: Path, edit: Callable[[dict[str, Any]], None], says: str) -> None:
    path = change(project(tmp_path), edit)
    with pytest.raises(UsageError) as caught:
        run(path)
    assert says in str(caught.value)
    assert "gate.yaml:" in str(caught.value)
