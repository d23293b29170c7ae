"""The promises about judges on few simulated runs, and the published figures of PandaLM from its files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pandalm
from benchmarks.judging_bench.raters import RATERS, Raters, admitted, rate
from benchmarks.judging_bench.worlds import HARD, MAIN, World
from benchmarks.judging_validity import measure
from benchmarks.validity import ALPHA, Report
from harness.records import Estimand


@pytest.mark.parametrize("world", MAIN, ids=lambda world: world.name)
@pytest.mark.parametrize("estimand", ["frozen", "population"])
def test_the_uncorrected_gate_promotes_and_the_corrected_one_holds_its_level(world: World, estimand: Estimand) -> None:
    found = measure(world, -world.margin, estimand, True, 150, np.random.default_rng(0))
    assert np.mean(found.judge_passed) > 4 * ALPHA
    for tally in found.corrected.values():
        assert not rate(tally.passed).exceeds(ALPHA)
        assert abs(tally.coverage.value - 0.95) < 0.015 + 3 * tally.coverage.error


@pytest.mark.parametrize("world", HARD, ids=lambda world: world.name)
def test_hard_settings_err_on_the_safe_side(world: World) -> None:
    found = measure(world, -world.margin, "frozen", False, 150, np.random.default_rng(1))
    for tally in found.corrected.values():
        assert not rate(tally.passed).exceeds(ALPHA)
        assert tally.coverage.value > 0.935 - 3 * tally.coverage.error


def test_simulated_frozen_sets_have_exactly_the_difference_that_is_asked_for() -> None:
    rng = np.random.default_rng(2)
    for world in MAIN:
        for difference in (-world.margin, 0.0):
            made = world.make(difference, True, rng)
            assert made.human.mean() == pytest.approx(difference, abs=1e-12)
            assert not made.human[~made.drawable].any()
            assert np.abs(made.judge).max() <= world.span


@pytest.mark.parametrize("raters", RATERS, ids=lambda raters: raters.name)
def test_a_judge_below_the_line_is_seldom_admitted(raters: Raters) -> None:
    report = Report(400, np.random.default_rng(3))
    assert not admitted(raters, 0.39, 100, 0.95, report).exceeds(0.025)
    assert admitted(raters, 0.7, 300, 0.95, report).value > 0.6


# ---------------------------------------------------------------- PandaLM


@pytest.fixture(scope="module")
def labels() -> pandalm.Labels:
    folder = Path(os.environ.get("HARNESS_DATA", "/nonexistent"))
    if not (folder / pandalm.FOLDER).is_dir():
        pytest.skip("set HARNESS_DATA to a folder with judging/pandalm")
    return pandalm.read(folder)


@pytest.mark.data
@pytest.mark.parametrize("judge", pandalm.JUDGES)
def test_published_accuracy_and_f1_come_out_by_the_sources_way_of_counting(labels: pandalm.Labels, judge: str) -> None:
    found = pandalm.agreement(labels, judge, pandalm.COUNTED[2])
    assert found.pairs == 999
    assert found.accuracy.estimate == pytest.approx(pandalm.PUBLISHED_ACCURACY[judge], abs=5e-5)
    assert found.f1 == pytest.approx(pandalm.PUBLISHED_F1[judge], abs=5e-5)


@pytest.mark.data
def test_a_verdict_that_could_not_be_parsed_is_a_failure(labels: pandalm.Labels) -> None:
    left_out, wrong, tie = (pandalm.agreement(labels, "GPT-3.5-turbo", counted) for counted in pandalm.COUNTED)
    assert (left_out.pairs, wrong.pairs) == (974, 999)
    assert wrong.accuracy.estimate == pytest.approx(left_out.accuracy.estimate * 974 / 999)
    assert wrong.accuracy.estimate < tie.accuracy.estimate
    assert (left_out.kappa.estimate, wrong.kappa.estimate, tie.kappa.estimate) == pytest.approx(
        (0.493, 0.476, 0.496), abs=5e-4
    )
    assert left_out.weighted.estimate == pytest.approx(0.588, abs=5e-4)


@pytest.mark.data
def test_one_judge_reaches_the_default_policy_and_the_other_does_not(labels: pandalm.Labels) -> None:
    assert pandalm.agreement(labels, "GPT-3.5-turbo", "wrong").kappa.low > 0.4
    assert pandalm.agreement(labels, "PandaLM-7B", "left out").kappa.low < 0.4


@pytest.mark.data
def test_humans_agree_as_published(labels: pandalm.Labels) -> None:
    from harness.statistics.agreement import cohen_kappa, krippendorff_alpha

    for (a, b), published in pandalm.PUBLISHED_KAPPA.items():
        first, second = labels.annotators[a] + 1, labels.annotators[b] + 1
        assert cohen_kappa(first, second, levels=3) == pytest.approx(published, abs=5e-3)
    assert krippendorff_alpha(labels.annotators.astype(float), level="nominal") == pytest.approx(0.864, abs=5e-4)


@pytest.mark.data
def test_correcting_a_judge_is_worth_labels_and_covers(labels: pandalm.Labels) -> None:
    report = Report(200, np.random.default_rng(4))
    for judge in pandalm.JUDGES:
        cells = pandalm.saving(labels, judge, False, 100, report)
        assert float(cells[2]) > 120
        assert float(cells[3]) > 0.90
