"""What holds for any frozen set, any failures, any clusters and any margin."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.statistics.betting import log_wealth
from harness.statistics.multiplicity import holm_adjusted
from harness.statistics.ordering import commit_order
from harness.statistics.sequential import Design, Draws, running_log_e, sequential_test
from tests.fuzzing import examples

FEW = settings(max_examples=examples(25), deadline=None)
THOUSANDTHS = st.integers(-1000, 1000)


@st.composite
def frozen_sets(draw: st.DrawFn) -> tuple[Draws, int]:
    """Draws with failures and clusters, sums in thousandths of the span, and the samples of the whole set."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=25))
    scored = [draw(st.integers(0, size)) for size in sizes]
    sums = [draw(st.integers(-1000 * k, 1000 * k)) / 1000 for k in scored]
    draws = Draws(np.array(sums), np.array(scored), np.array(sizes))
    return draws, sum(sizes) + draw(st.integers(0, 30))


@FEW
@given(frozen_sets(), THOUSANDTHS)
def test_a_complete_set_is_decided_by_exact_arithmetic(case: tuple[Draws, int], margin: int) -> None:
    draws, _ = case
    design = Design(margin / 1000, 1.0, "frozen", int(draws.sizes.sum()))
    result = sequential_test(draws, design, alpha=0.05, block_alpha=0.05, complete=True)
    pairs = int(draws.scored.sum())
    if not pairs:
        assert result.outcome == "undecided"
        return
    thousandths = sum(round(s * 1000) for s in draws.sums)
    assert result.outcome == ("pass" if thousandths > -margin * pairs else "regressed")


@FEW
@given(frozen_sets(), THOUSANDTHS, st.sampled_from(["frozen", "population"]))
def test_results_are_in_order_and_agree(case: tuple[Draws, int], margin: int, estimand: str) -> None:
    draws, total = case
    design = Design(margin / 1000, 1.0, estimand, total, int(draws.sizes.max()))  # type: ignore[arg-type]
    result = sequential_test(draws, design, alpha=0.1, block_alpha=0.01)
    low, high = result.interval
    assert -1 <= low <= high <= 1
    assert result.log_e_pass >= 0
    assert result.log_e_block >= 0
    assert (result.decided_at is None) == (result.outcome == "undecided")
    if result.outcome == "pass":
        assert result.log_e_pass >= math.log(10)
    if result.outcome == "regressed":
        assert result.log_e_block >= math.log(100)


@FEW
@given(frozen_sets(), st.integers(-900, 900))
def test_the_future_does_not_change_the_past(case: tuple[Draws, int], m: int) -> None:
    draws, total = case
    whole = log_wealth(
        draws.sums, draws.scored.astype(float), draws.sizes.astype(float), m / 1000, gap=0.1, total=total, cap=1
    )
    for seen in range(len(draws.sums)):
        head = (a[:seen].astype(float) for a in (draws.sums, draws.scored, draws.sizes))
        part = log_wealth(*head, m / 1000, gap=0.1, total=total, cap=1)
        np.testing.assert_allclose(part, whole[:seen], rtol=0, atol=1e-9)


@FEW
@given(frozen_sets(), st.integers(-900, 900), st.booleans())
def test_wealth_falls_as_the_doubted_mean_rises(case: tuple[Draws, int], at: int, frozen: bool) -> None:
    draws, total = case
    arrays = [a.astype(float) for a in (draws.sums, draws.scored, draws.sizes)]
    size = {"total": float(total) if frozen else None, "cap": float(draws.sizes.max())}
    paths = [log_wealth(*arrays, float(m), gap=0.1, at=at / 1000, **size) for m in np.linspace(-0.999, 0.999, 41)]
    for lower, higher in itertools.pairwise(paths):
        assert np.all((lower >= higher - 1e-7) | np.isinf(lower))


@FEW
@given(frozen_sets(), st.integers(-900, 900), st.floats(1e-3, 1e3))
def test_units_do_not_matter(case: tuple[Draws, int], margin: int, span: float) -> None:
    draws, total = case
    scaled = Draws(draws.sums * span, draws.scored, draws.sizes)
    plain = running_log_e(draws, Design(margin / 1000, 1.0, "frozen", total), side=1)
    other = running_log_e(scaled, Design(margin / 1000 * span, span, "frozen", total), side=1)
    np.testing.assert_allclose(plain, other, rtol=1e-6, atol=1e-6)


@FEW
@given(st.lists(st.integers(0, 6), max_size=40), st.binary(max_size=20), st.booleans())
def test_any_order_keeps_every_sample_once_and_clusters_whole(
    labels: list[int], material: bytes, size_biased: bool
) -> None:
    names = [str(label) for label in labels]
    order = commit_order(names, len(names), material, size_biased=size_biased)
    assert sorted(order) == list(range(len(names)))
    assert order == commit_order(names, len(names), material, size_biased=size_biased)
    changes = sum(names[a] != names[b] for a, b in itertools.pairwise(order))
    assert changes == max(0, len(set(names)) - 1)


@FEW
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni(p: list[float]) -> None:
    adjusted = holm_adjusted(p)
    assert all(a <= b <= min(1.0, len(p) * a) for a, b in zip(p, adjusted, strict=True))
    ranked = [adjusted[i] for i in sorted(range(len(p)), key=p.__getitem__)]
    assert ranked == sorted(ranked)
