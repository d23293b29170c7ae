"""The simulation behind the table on streams: it is the gate's own test, and its levels hold in a small run too."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import streams


def test_the_tables_decisions_are_those_of_the_sequential_test() -> None:
    streams.check_against_the_test()


def test_differences_have_the_mean_and_the_share_that_the_case_says() -> None:
    source = np.random.default_rng(3)
    sizes = source.integers(1, streams.LARGEST + 1, (40, 2000))
    case = streams.Case("", 0.2, -0.05, 0.02)
    sums = streams.differences(source, sizes, case)
    assert sums.sum() / sizes.sum() == pytest.approx(-0.05, abs=0.005)
    assert np.abs(sums).max() <= streams.LARGEST


@pytest.mark.parametrize("mean", [0.0, -0.02])
def test_a_candidate_that_is_not_worse_than_the_margin_is_seldom_blocked(mean: float) -> None:
    found = streams.simulate(streams.Case("", 0.1, mean, 0.02, guards=2), 300, 300, seed=5)
    assert found.blocked <= streams.ALPHA + 3 * np.sqrt(streams.ALPHA * (1 - streams.ALPHA) / 300)


def test_a_large_drop_is_blocked_long_before_the_end() -> None:
    found = streams.simulate(streams.Case("", 0.4, -0.3, 0.02, guards=2), 100, 400, seed=5)
    assert (found.blocked, found.passed) == (1.0, 0.0)
    assert float(found.quantile(0.9).replace(",", "")) < 1100  # of 2,200 calls in all
