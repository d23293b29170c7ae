"""Samples for choosing and samples for the verdict: two parts that share none, fixed by the ids alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness import gate
from harness.config import load_gate
from harness.document import read_run
from harness.errors import DataError
from harness.execution.parts import held_back
from harness.progress import Silent
from tests.scripted_project import N, add_suite, project


def _hold(path: Path, share: float, **guard: object) -> Path:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["for_sweeps"] = share
    document["suites"][0]["guards"][0].update(guard)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def _ids(path: Path, part: str, **policy: object) -> list[list[str]]:
    loaded = load_gate(path)
    changed = loaded.gate.model_copy(update={"policy": loaded.gate.policy.model_copy(update=policy)})
    return [[s.id for s in state.samples] for state in gate.make_plan(replace(loaded, gate=changed, part=part)).states]


def test_the_two_parts_are_the_whole_suite_and_share_nothing(tmp_path: Path) -> None:
    path = _hold(project(tmp_path), 0.3)
    add_suite(path, "more", 21)
    for verdict, sweep, size in zip(_ids(path, "verdict"), _ids(path, "sweep"), (N, 21), strict=True):
        assert not set(verdict) & set(sweep)
        assert len(verdict) + len(sweep) == size
        assert len(sweep) == round(0.3 * size)


def test_no_setting_of_the_policy_moves_a_sample_to_the_other_part(tmp_path: Path) -> None:
    path = _hold(project(tmp_path), 0.3)
    before = set(_ids(path, "sweep")[0])
    assert set(_ids(path, "sweep", seed=7, alpha=0.01)[0]) == before
    assert _ids(path, "verdict", seed=7) != _ids(path, "verdict"), "the order does depend on the seed"


def test_a_larger_share_holds_the_same_samples_and_more(tmp_path: Path) -> None:
    path = project(tmp_path)
    small, large = (set(_ids(_hold(path, share), "sweep")[0]) for share in (0.1, 0.4))
    assert small < large


def test_without_a_share_the_verdict_has_all_samples_and_there_are_none_to_choose_by(tmp_path: Path) -> None:
    path = project(tmp_path)
    assert len(_ids(path, "verdict")[0]) == N
    with pytest.raises(DataError, match="for_sweeps is 0"):
        _ids(path, "sweep")


def test_a_cluster_is_never_cut() -> None:
    from harness.records import Sample

    class Clustered:
        name = "clustered"

        def samples(self) -> list[Sample]:
            return [Sample(f"s{i}", f"prompt {i}", ("x",), cluster=f"c{i // 3}") for i in range(30)]

    held = held_back(Clustered(), 0.3)  # type: ignore[arg-type]
    assert len(held) == 9
    by_cluster = [{f"s{3 * c + i}" in held for i in range(3)} for c in range(10)]
    assert all(len(members) == 1 for members in by_cluster)


def test_a_required_slice_that_a_part_lacks_is_refused(tmp_path: Path) -> None:
    path = _hold(project(tmp_path, n=4), 0.25, critical_slices=["odd", "even"])
    with pytest.raises(DataError, match="held back for sweeps is in this slice"):
        _ids(path, "sweep")


def test_what_was_lost_on_the_held_samples_does_not_reach_the_verdict(tmp_path: Path) -> None:
    """The candidate is wrong exactly where a sweep looks: the verdict never sees it, and a trial sees nothing else."""
    path = _hold(project(tmp_path), 0.3)
    lost = {int(name[1:]) for name in _ids(path, "sweep")[0]}
    other = tmp_path / "other"
    other.mkdir()
    path = _hold(project(other, lost=lost), 0.3)
    verdict = gate.run_gate(load_gate(path), Silent())
    trial = gate.run_gate(replace(load_gate(path), part="sweep"), Silent())
    assert (verdict.verdict.verdict, verdict.verdict.comparisons[0].lost) == ("promote", 0)
    assert (trial.verdict.verdict, trial.verdict.comparisons[0].n_used) == ("block", len(lost))
    assert trial.path != verdict.path


def test_no_trial_is_ever_promoted_not_even_when_its_run_is_decided_again(tmp_path: Path) -> None:
    path = _hold(project(tmp_path), 0.3)
    result = gate.run_gate(replace(load_gate(path), part="sweep"), Silent())
    assert result.verdict.comparisons[0].outcome == "pass"
    assert result.verdict.verdict == "hold"
    assert "no verdict is made on them" in result.verdict.reasons[0]
    assert read_run(result.path).verdict == result.verdict
