"""Wear of a set: counted, warned of, paid for from α, and hidden behind a Ladder where the policy asks for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from harness import wear, words
from harness.config import load_gate
from harness.document import read_run
from harness.errors import RecordError
from harness.gate import GateResult, run_gate
from harness.progress import Silent
from harness.records import Check, Comparison, Guard, Verdict
from harness.registry.wear import read_decisions
from harness.report import html, markdown
from harness.statistics import wear as maths
from tests.scripted_project import another_candidate, project


def gate(path: Path, candidate: str = "after.jsonl", **section: Any) -> GateResult:
    document = yaml.safe_load(path.read_text("utf-8"))
    document["candidate"]["answers"] = candidate
    document["wear"] = section
    path.write_text(yaml.safe_dump(document), "utf-8")
    return run_gate(load_gate(path), Silent())


def of_population(path: Path) -> Path:
    document = yaml.safe_load(path.read_text("utf-8"))
    document["suites"][0]["estimand"] = "population"
    path.write_text(yaml.safe_dump(document), "utf-8")
    return path


def comparison(**given: Any) -> Comparison:
    base = Comparison(
        suite="support", metric="exact_match", slice=None, estimand="frozen", outcome="pass", n=1000, n_used=1000,
        n_failed=0, baseline_mean=0.6, candidate_mean=0.61, difference=0.01, interval=(0.01, 0.01), margin=0.02,
        alpha=0.05, lost=40, won=50, population_interval=(-0.01, 0.03),
    )  # fmt: skip
    return replace(base, **given)


# ---------------------------------------------------------------- the mathematics


@pytest.mark.parametrize("looks", [2, 5, 20, 200])
def test_the_luck_of_the_best_is_that_of_the_largest_of_so_many_draws(looks: int) -> None:
    drawn = np.random.default_rng(0).standard_normal((20_000, looks)).max(axis=1).mean()
    assert maths.luck(looks, 1.0) == pytest.approx(drawn, abs=0.04)
    assert maths.luck(looks, 0.5) == pytest.approx(maths.luck(looks, 1.0) / 2)


def test_one_look_has_no_luck() -> None:
    assert maths.luck(1, 1.0) == 0.0


def test_the_levels_of_all_candidates_add_up_to_alpha() -> None:
    assert sum(maths.share(0.05, 40) for _ in range(40)) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="at least 1"):
        maths.share(0.05, 0)


def test_a_ladder_moves_only_by_more_than_a_step_and_only_in_steps() -> None:
    best, shown = 0.0, []
    for observed in (0.004, 0.019, 0.0201, 0.031, 0.039, 0.0425, -0.3, 0.0599, 0.061):
        best = maths.climb(best, observed, 0.02)
        shown.append(best)
    assert shown == [0.0, 0.0, 0.02, 0.02, 0.02, 0.04, 0.04, 0.04, 0.06]


def test_a_ladder_says_little_however_many_look() -> None:
    """Of noise below a step nothing is said at all, so that nobody can climb by it."""
    rng = np.random.default_rng(1)
    best = 0.0
    for observed in rng.normal(0.0, 0.004, size=10_000):
        best = maths.climb(best, float(observed), 0.02)
    assert best == 0.0


def test_the_standard_error_is_that_of_the_interval() -> None:
    assert maths.standard_error((-0.0196, 0.0196), 0.95) == pytest.approx(0.01, rel=1e-3)


# ---------------------------------------------------------------- in words


def test_a_set_that_was_looked_at_often_is_called_worn_with_the_number_and_the_way_out() -> None:
    said = wear.worn(comparison(), wear.Looks("support", "support@3", 40))
    assert said is not None
    assert "support@3: 40 candidates have been decided on this set" in said.warning
    assert "harness golden new-version support" in said.warning
    few = wear.worn(comparison(), wear.Looks("support", "support@3", 5))
    assert few is not None
    assert few.warning == ""


def test_a_large_set_wears_off_later_than_a_small_one() -> None:
    large = wear.worn(comparison(population_interval=(0.008, 0.012)), wear.Looks("support", "support@3", 40))
    assert large is not None
    assert large.warning == ""


def test_the_warning_stands_in_every_report_and_changes_no_verdict() -> None:
    checks = tuple(wear.warnings(Verdict("promote", (), (comparison(),)), [wear.Looks("support", "support@3", 40)]))
    assert [check.passed for check in checks] == [True]
    verdict = Verdict("promote", ("support/exact_match did not regress: …",), (comparison(),), checks)
    document = read_document(verdict)
    assert "40 candidates have been decided" in html.build(html.Options()).render(document)
    assert "**Worn set.**" in markdown.build(markdown.Options()).render(document)


def read_document(verdict: Verdict) -> Any:
    from harness.report import Document

    return Document(verdict, {})


def test_a_withheld_verdict_holds_no_number_of_its_guards() -> None:
    c = comparison(outcome="regressed", difference=-0.0567, lost=77, won=13)
    sentence = "support/exact_match regressed: 60.0 → 54.3, −5.7 pts (tolerated: drop < 2.0 pts; 77 lost, 13 won …)"
    part = comparison(slice="nested", required=False)
    other = Check("golden-lock", True, "as it was")
    shown = wear.withheld(Verdict("block", (sentence, "another reason"), (c, part), (other,)), {c.label: 0.04})
    assert [one.slice for one in shown.comparisons] == [None]
    text = json.dumps(shown.as_json())
    assert "0.0567" not in text
    assert "77" not in text
    assert shown.reasons[1] == "another reason"
    assert "regressed" in shown.reasons[0]
    assert "largest gain shown so far: +4.0 pts" in shown.reasons[0]
    assert words.counted(shown.comparisons[0].lost, shown.comparisons[0]) == "–"
    assert shown.comparisons[0].outcome == "regressed"


# ---------------------------------------------------------------- in a gate


def test_every_candidate_counts_once_however_often_its_run_is_repeated(tmp_path: Path) -> None:
    path = project(tmp_path)
    first = gate(path)
    again = gate(path)
    assert first.path == again.path
    another_candidate(path, "other.jsonl", wrong=[3])
    gate(path, "other.jsonl")
    looks = read_decisions(tmp_path / "runs")
    assert [(look.version, look.verdict) for look in looks] == [("sums@1", "promote"), ("sums@1", "promote")]


def test_decisions_that_were_tampered_with_stop_the_gate(tmp_path: Path) -> None:
    path = project(tmp_path)
    gate(path)
    another_candidate(path, "other.jsonl", wrong=[3])
    gate(path, "other.jsonl")
    ledger = tmp_path / "runs" / "decisions.jsonl"
    ledger.write_text("".join(ledger.read_text("utf-8").splitlines(keepends=True)[1:]), "utf-8")
    another_candidate(path, "third.jsonl", wrong=[4])
    with pytest.raises(RecordError, match="does not follow"):
        gate(path, "third.jsonl")


def test_alpha_of_population_guards_is_shared_and_then_spent(tmp_path: Path) -> None:
    path = of_population(project(tmp_path))
    first = gate(path, candidates=2)
    assert first.verdict.comparisons[0].alpha == pytest.approx(0.025)
    assert "candidate 1 of the 2" in next(c.detail for c in first.verdict.checks if c.name.startswith(wear.BUDGET))
    for name in ("second.jsonl", "third.jsonl"):
        another_candidate(path, name)
    assert gate(path, "second.jsonl", candidates=2).verdict.verdict == first.verdict.verdict
    third = gate(path, "third.jsonl", candidates=2)
    assert third.verdict.verdict == "hold"
    assert "harness golden new-version sums" in third.verdict.reasons[0]
    assert third.verdict.comparisons[0].n_used == 0, "nothing is asked on a spent set"
    assert gate(path, "second.jsonl", candidates=2).verdict.verdict == first.verdict.verdict, "a run keeps its look"
    assert len(read_decisions(tmp_path / "runs")) == 2


def test_frozen_guards_that_ask_all_samples_are_exact_and_need_no_share(tmp_path: Path) -> None:
    result = gate(project(tmp_path, sequential=False), candidates=2)
    assert result.verdict.comparisons[0].alpha == 0.05
    said = [c.detail for c in result.verdict.checks if c.name.startswith(wear.BUDGET)]
    assert said == ["every guard is frozen and asks all of its samples, and so exact: there is no α to share"]


def test_frozen_guards_that_may_stop_early_can_err_and_share_their_alpha(tmp_path: Path) -> None:
    result = gate(project(tmp_path), candidates=2)
    assert result.verdict.comparisons[0].alpha == pytest.approx(0.025)
    (said,) = [c.detail for c in result.verdict.checks if c.name.startswith(wear.BUDGET)]
    assert "candidate 1 of the 2" in said
    exact = Guard("s", "m")
    assert not wear.may_err(exact, stops_early=False)
    assert wear.may_err(replace(exact, labels=200), stops_early=False), "people's labels are a sample"
    assert wear.may_err(exact, stops_early=True)


def test_behind_a_ladder_reports_tell_outcomes_and_only_gains_beyond_a_margin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project(tmp_path, lost=range(0, 120, 3))
    told: list[object] = []
    monkeypatch.setattr(Silent, "guards", lambda self, standing, seconds_left: told.append(standing))
    result = gate(path, disclose="ladder")
    assert result.verdict.verdict == "block"
    (guard, *_) = result.verdict.comparisons
    assert guard.withheld
    assert guard.difference is None
    assert told == [], "a log that people read tells no running difference"
    assert guard.n_used == 120, "when a run stops says how clear the case was, so it does not stop early"
    for name in ("report.html", "report.md", "junit.xml"):
        text = (result.path / name).read_text("utf-8")
        assert "33.3" not in text
        assert "s003" not in text
    again = read_run(result.path)
    assert again.verdict == result.verdict
    assert again.items == ()


def test_a_ladder_remembers_the_best_between_runs(tmp_path: Path) -> None:
    path = project(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "before.jsonl").read_text("utf-8").splitlines()]
    poor = [{**row, "text": "?"} if i < 40 else row for i, row in enumerate(rows)]
    (tmp_path / "before.jsonl").write_text("".join(json.dumps(row) + "\n" for row in poor), "utf-8")
    first = gate(path, disclose="ladder")
    assert "+35.0 pts" in first.verdict.comparisons[0].reason, "33.3 points to the nearest margin of 5"
    another_candidate(path, "other.jsonl", wrong=range(60, 65))
    second = gate(path, "other.jsonl", disclose="ladder")
    assert "+35.0 pts" in second.verdict.comparisons[0].reason, "a worse one shows what is known already"


def test_the_seventh_candidate_of_a_small_set_is_warned_of(tmp_path: Path) -> None:
    path = project(tmp_path, sequential=False)
    verdicts = []
    for number in range(7):
        another_candidate(path, f"c{number}.jsonl", wrong=range(number, 120, 24))
        verdicts.append(gate(path, f"c{number}.jsonl").verdict)
    warned = [bool(wear.told(verdict)) for verdict in verdicts]
    assert warned == [False] * 6 + [True]
    assert "sums@1: 7 candidates have been decided on this set" in wear.told(verdicts[-1])[0]
    assert verdicts[-1].verdict == "promote", "a warning changes no verdict"
