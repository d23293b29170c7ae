"""`harness compare`: pairs what can be paired, counts what cannot, and decides from nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.compare import Terms, compare_files
from harness.errors import DataError


def scores(path: Path, values: Mapping[str, object], **columns: str) -> Path:
    path.write_text(
        "".join(json.dumps({"sample_id": k, "score": v, **columns}) + "\n" for k, v in values.items()), encoding="utf-8"
    )
    return path


def sides(folder: Path, baseline: Mapping[str, object], candidate: Mapping[str, object]) -> tuple[Path, Path]:
    return scores(folder / "baseline.jsonl", baseline), scores(folder / "candidate.jsonl", candidate)


def ones(n: int, *, lost: int = 0) -> dict[str, float]:
    return {f"s{i}": 0.0 if i < lost else 1.0 for i in range(n)}


def test_equal_scores_are_promoted(tmp_path: Path) -> None:
    verdict = compare_files(*sides(tmp_path, ones(100), ones(100)), Terms(0.02)).verdict
    assert verdict.verdict == "promote"
    (comparison,) = verdict.comparisons
    assert (comparison.n, comparison.n_used, comparison.difference, comparison.interval) == (100, 100, 0.0, (0.0, 0.0))


def test_a_drop_of_exactly_the_margin_has_regressed(tmp_path: Path) -> None:
    files = sides(tmp_path, ones(100), ones(100, lost=2))
    assert compare_files(*files, Terms(0.02)).verdict.verdict == "block"
    assert compare_files(*files, Terms(0.0201)).verdict.verdict == "promote"


def test_one_sided_samples_are_failed_pairs_and_hold_above_the_limit(tmp_path: Path) -> None:
    few = compare_files(*sides(tmp_path, ones(100), ones(98)), Terms(0.02)).verdict
    many = compare_files(*sides(tmp_path, ones(100), ones(97)), Terms(0.02)).verdict
    assert (few.verdict, few.comparisons[0].n_failed, few.comparisons[0].n_used) == ("promote", 2, 98)
    assert (many.verdict, many.comparisons[0].outcome) == ("hold", "undecided")
    assert "3 of 100 pairs failed" in many.reasons[0]


def test_failed_scores_are_never_imputed(tmp_path: Path) -> None:
    """Were a failure a zero, the candidate would lose two points here; it loses none."""
    candidate: dict[str, object] = {**ones(100), "s0": None, "s1": None}
    (comparison,) = compare_files(*sides(tmp_path, ones(100), candidate), Terms(0.01)).verdict.comparisons
    assert comparison.difference == 0.0
    assert comparison.n_failed == 2


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sample id is both"):
        compare_files(*sides(tmp_path, {"a": 1}, {"b": 1}), Terms(0.02))


def test_bounds_come_from_the_user_and_are_enforced(tmp_path: Path) -> None:
    files = sides(tmp_path, {"a": 55.0, "b": 60.0}, {"a": 54.0, "b": 61.0})
    with pytest.raises(DataError, match=r"baseline.jsonl:1: score 55 is outside the bounds 0,1"):
        compare_files(*files, Terms(0.02))
    assert compare_files(*files, Terms(2.0, bounds=(0, 100))).verdict.verdict == "promote"


def test_lower_can_be_better(tmp_path: Path) -> None:
    files = sides(tmp_path, ones(50, lost=50), ones(50))
    assert compare_files(*files, Terms(0.05)).verdict.verdict == "promote"
    assert compare_files(*files, Terms(0.05, lower_is_better=("score",))).verdict.verdict == "block"


def test_sequential_stops_early_and_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    n = 4000
    baseline = {f"s{i}": float(i % 10 != 0) for i in range(n)}
    candidate = {f"s{i}": float(i % 10 != 1) for i in range(n)}
    there = compare_files(*sides(tmp_path, baseline, candidate), Terms(0.05, sequential=True)).verdict
    turned = {k: candidate[k] for k in reversed(candidate)}
    back = compare_files(*sides(tmp_path, baseline, turned), Terms(0.05, sequential=True)).verdict
    assert there == back
    assert there.verdict == "promote"
    assert there.comparisons[0].n_used < n / 4
    assert there.comparisons[0].n == n


def test_another_seed_is_another_order(tmp_path: Path) -> None:
    files = sides(
        tmp_path, {f"s{i}": float(i % 3 == 0) for i in range(900)}, {f"s{i}": float(i % 3 == 1) for i in range(900)}
    )
    used = {compare_files(*files, Terms(0.1, sequential=True, seed=s)).verdict.comparisons[0].n_used for s in range(6)}
    assert len(used) > 1


def test_suites_are_required_and_slices_advisory(tmp_path: Path) -> None:
    rows = [("a", "s1", 1, "x"), ("b", "s1", 1, "y"), ("a", "s2", 1, ""), ("b", "s2", 1, "")]
    for name, lost in (("b.csv", set()), ("c.csv", {("a", "s1")})):
        body = "".join(f"{i},{s},{0 if (i, s) in lost else v},{t}\n" for i, s, v, t in rows)
        (tmp_path / name).write_text("sample_id,suite,score,slice\n" + body, encoding="utf-8")
    verdict = compare_files(tmp_path / "b.csv", tmp_path / "c.csv", Terms(0.9)).verdict
    assert verdict.verdict == "promote"
    outcome = {c.label: (c.required, c.outcome) for c in verdict.comparisons}
    assert outcome == {
        "s1/score": (True, "pass"),
        "s2/score": (True, "pass"),
        "s1/score[x]": (False, "regressed"),
        "s1/score[y]": (False, "pass"),
    }


def test_a_suite_on_one_side_only_is_named(tmp_path: Path) -> None:
    scores(tmp_path / "a.jsonl", {"1": 1}, suite="x")
    scores(tmp_path / "b.jsonl", {"1": 1}, suite="y")
    with pytest.raises(DataError, match="x/score is not in"):
        compare_files(tmp_path / "a.jsonl", tmp_path / "b.jsonl", Terms(0.02))


def test_lm_eval_documents_must_be_the_same(tmp_path: Path) -> None:
    row = {"doc_id": 0, "filtered_resps": [], "filter": "none", "metrics": ["acc"], "acc": 1.0}
    for name, digest in (("a", "h1"), ("b", "h2")):
        (tmp_path / name).mkdir()
        line = json.dumps({**row, "doc_hash": digest}) + "\n"
        (tmp_path / name / "samples_t_2026-01-01T00-00-00.0.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match="another document"):
        compare_files(tmp_path / "a", tmp_path / "b", Terms(0.02))
