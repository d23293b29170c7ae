"""The martingale, proved on small sets by going through every order that could have been drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from harness.statistics.betting import Floats, guessed_gap, log_wealth

# A cluster is (sum of D over its scored pairs, scored pairs, samples).
Cluster = tuple[float, int, int]

SINGLES: dict[str, list[Cluster]] = {
    "distinct": [(-0.7, 1, 1), (0.2, 1, 1), (1.0, 1, 1), (-0.1, 1, 1), (0.4, 1, 1)],
    "ties": [(-1, 1, 1), (-1, 1, 1), (0, 1, 1), (0, 1, 1), (0, 1, 1), (1, 1, 1)],
    "all lost": [(-1, 1, 1)] * 4,
    "nothing changed": [(0, 1, 1)] * 5,
    "failures": [(-1, 1, 1), (0, 0, 1), (0, 0, 1), (1, 1, 1), (0, 1, 1), (0.5, 1, 1)],
    "one scored": [(-0.3, 1, 1), (0, 0, 1), (0, 0, 1)],
}
CLUSTERED: dict[str, list[Cluster]] = {
    "equal sizes": [(-2, 2, 2), (1, 2, 2), (0, 2, 2), (2, 2, 2)],
    "large ones lose": [(-5, 5, 5), (1, 1, 1), (1, 1, 1), (0, 2, 2), (0.5, 1, 1)],
    "large ones win": [(5, 5, 5), (-1, 1, 1), (-1, 1, 1), (0, 2, 2), (-0.5, 1, 1)],
    "failures": [(-1, 1, 3), (0, 0, 4), (2, 2, 2), (-0.5, 3, 5), (1, 1, 1)],
}
SETS = [*SINGLES.values(), *CLUSTERED.values()]
NAMES = [*SINGLES, *(f"clusters: {name}" for name in CLUSTERED)]
GAPS = [0.01, 0.25, 1.0]


def mean_of(clusters: Sequence[Cluster]) -> float:
    return math.fsum(c[0] for c in clusters) / sum(c[1] for c in clusters)


def orders(clusters: Sequence[Cluster]) -> tuple[Floats, Floats]:
    """Every order of the clusters, (orders, T, 3), with its probability under successive sampling by size."""
    sequences, chances = [], []
    for order in itertools.permutations(clusters):
        left, chance = sum(c[2] for c in order), Fraction(1)
        for cluster in order:
            chance *= Fraction(cluster[2], left)
            left -= cluster[2]
        sequences.append(order)
        chances.append(float(chance))
    assert math.fsum(chances) == pytest.approx(1.0)
    return np.array(sequences, dtype=float), np.array(chances)


def wealth(sequences: Floats, m: float, *, gap: float, side: int = 1, frozen: bool = True, cap: float = 1.0) -> Floats:
    """K_t along every sequence of (sum, scored, size), doubting "mean ≤ m" or, with side −1, "mean ≥ m"."""
    sums, scored, sizes = np.moveaxis(sequences, -1, 0)
    total = float(sizes[0].sum()) if frozen else None
    return np.exp(log_wealth(side * sums, scored, sizes, side * m, gap=gap, total=total, cap=cap))


def assert_ville(path: Floats, chances: Floats) -> None:
    """P(ever K ≥ x) ≤ 1/x for every x, of which only the attained maxima matter."""
    highest = path.max(axis=1)
    for x in highest[highest > 1]:
        assert chances[highest >= x - 1e-12].sum() <= 1 / x + 1e-9


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("clusters", SETS, ids=NAMES)
def test_expected_wealth_is_one_at_the_boundary_after_every_draw(clusters: list[Cluster], side: int) -> None:
    sequences, chances = orders(clusters)
    for gap in GAPS:
        path = wealth(sequences, mean_of(clusters), gap=gap, side=side)
        np.testing.assert_allclose(chances @ path, 1.0, atol=1e-6)
        assert_ville(path, chances)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("beyond", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("clusters", SETS, ids=NAMES)
def test_expected_wealth_never_exceeds_one_when_the_null_is_true(
    clusters: list[Cluster], beyond: float, side: int
) -> None:
    sequences, chances = orders(clusters)
    m = mean_of(clusters) + side * beyond
    if abs(m) > 1:
        return  # no mean lies there, so nobody asks
    for gap in GAPS:
        path = wealth(sequences, m, gap=gap, side=side)
        assert (chances @ path).max() <= 1 + 1e-9
        assert_ville(path, chances)


def test_random_sets_keep_the_martingale() -> None:
    rng = np.random.default_rng(7)
    for _ in range(60):
        sizes = rng.integers(1, 5, size=5)
        scored = rng.binomial(sizes, 0.8)
        scored[0] = sizes[0]
        clusters = [(float(rng.uniform(-k, k)), int(k), int(n)) for k, n in zip(scored, sizes, strict=True)]
        sequences, chances = orders(clusters)
        path = wealth(sequences, mean_of(clusters), gap=float(rng.uniform(0.005, 1)))
        np.testing.assert_allclose(chances @ path, 1.0, atol=1e-6)
        assert_ville(path, chances)
        # Stakes that were chosen for another null, as they are when the ends of the interval are sought.
        arrays = np.moveaxis(sequences, -1, 0)
        other = float(rng.uniform(-0.9, 0.9))
        moved = log_wealth(*arrays, mean_of(clusters), gap=0.1, total=float(sizes.sum()), cap=1.0, at=other)
        np.testing.assert_allclose(chances @ np.exp(moved), 1.0, atol=1e-6)
        assert_ville(np.exp(moved), chances)


def test_drawing_clusters_equally_often_would_break_the_bets() -> None:
    """The order's size bias is not decoration: without it the frozen bets gain under a true null."""
    clusters = CLUSTERED["large ones lose"]
    sequences, _ = orders(clusters)
    path = wealth(sequences, mean_of(clusters), gap=1.0)
    assert path.mean(axis=0).max() > 1.05


# (sum, scored, size, probability) of one draw from a stream whose mean, Σ p·sum / Σ p·scored, is what is doubted
STREAMS = {
    "flips": [(-1, 1, 1, 0.2), (0, 1, 1, 0.65), (1, 1, 1, 0.15)],
    "fractions": [(-0.5, 1, 1, 0.5), (0.3, 1, 1, 0.5)],
    "failures": [(-1, 1, 1, 0.2), (0, 0, 1, 0.3), (0.5, 1, 1, 0.5)],
    "clusters": [(-3, 3, 3, 0.2), (1, 2, 2, 0.5), (0, 0, 1, 0.3)],
}


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_expected_wealth_is_one_for_a_stream_at_the_boundary(
    stream: list[tuple[float, int, int, float]], side: int
) -> None:
    sequences = np.array([[atom[:3] for atom in path] for path in itertools.product(stream, repeat=6)], dtype=float)
    chances = np.array([math.prod(atom[3] for atom in path) for path in itertools.product(stream, repeat=6)])
    m = sum(a[0] * a[3] for a in stream) / sum(a[1] * a[3] for a in stream)
    cap = max(a[2] for a in stream)
    for gap in GAPS:
        at = wealth(sequences, m, gap=gap, side=side, frozen=False, cap=cap)
        np.testing.assert_allclose(chances @ at, 1.0, atol=1e-9)
        assert_ville(at, chances)
        inside = wealth(sequences, m + side * 0.05, gap=gap, side=side, frozen=False, cap=cap)
        assert (chances @ inside).max() <= 1 + 1e-9


@pytest.mark.parametrize("frozen", [True, False])
def test_bets_know_only_the_past(frozen: bool) -> None:
    rng = np.random.default_rng(3)
    one = np.ones(60)
    before = rng.choice([-1.0, 0.0, 1.0], 60)
    for split in (0, 1, 17, 59):
        after = before.copy()
        after[split:] = rng.uniform(-1, 1, 60 - split)
        paths = [
            log_wealth(d, one, one, -0.05, gap=0.05, total=60.0 if frozen else None, cap=1.0) for d in (before, after)
        ]
        assert np.array_equal(paths[0][:split], paths[1][:split])


def test_a_null_that_the_draws_have_made_impossible_is_refuted() -> None:
    # Two of four samples changed by +1: even if the rest fall by 1, the mean is 0, above −0.5.
    one, d = np.ones(4), np.array([1.0, 1.0, -1.0, -1.0])
    path = log_wealth(d, one, one, -0.5, gap=0.1, total=4.0, cap=1.0)
    assert np.isinf(path[1:]).all()
    assert np.isfinite(path[0])
    boundary = log_wealth(d, one, one, 0.0, gap=0.1, total=4.0, cap=1.0)
    assert np.isfinite(boundary).all()  # the mean is exactly 0, so "at most 0" is true and stays possible


@pytest.mark.parametrize("n", [14_042, 400_000])
def test_rounding_never_refutes_a_null_that_is_exactly_true(n: int) -> None:
    rng = np.random.default_rng(n)
    d = np.zeros(n)
    d[: n // 7] = -0.7
    one, m = np.ones(n), math.fsum(d) / n
    for side in (1, -1):
        path = log_wealth(side * rng.permutation(d), one, one, side * m, gap=0.02, total=float(n), cap=1.0)
        assert path.max() < math.log(10_000)


def test_a_failed_pair_neither_helps_nor_harms_either_side() -> None:
    """Failures contribute nothing to Z: the wealth stands still at a failure when the past has balanced out."""
    one = np.ones(3)
    scored = np.array([0.0, 0.0, 1.0])
    for m in (-0.3, 0.3):
        path = log_wealth(np.zeros(3), scored, one, m, gap=0.3, total=3.0, cap=1.0)
        np.testing.assert_allclose(path[:2], 0.0, atol=1e-12)


def test_the_guessed_gap_is_the_margin_within_reason() -> None:
    assert guessed_gap(0.02) == guessed_gap(-0.02) == 0.02
    assert guessed_gap(0.0) > 0
    assert guessed_gap(0.9) == 0.25
