"""The committed order: reproducible, whole clusters, and as often each way as the martingale assumes."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import pytest

from harness.statistics.ordering import commit_order

ORDER_OF_EIGHT = [6, 5, 3, 4, 0, 1, 7, 2]


def test_the_same_material_gives_the_same_order_everywhere() -> None:
    # Written out, so that a change of generator, which would change every committed order, is seen.
    assert commit_order(None, 8, b"golden set and policy", size_biased=False) == commit_order(
        None, 8, b"golden set and policy", size_biased=True
    )
    assert commit_order(None, 8, b"golden set and policy", size_biased=True) == ORDER_OF_EIGHT
    assert commit_order(None, 50, b"a", size_biased=True) != commit_order(None, 50, b"b", size_biased=True)


@pytest.mark.parametrize("size_biased", [True, False])
def test_an_order_is_a_permutation_of_whole_clusters(size_biased: bool) -> None:
    clusters = ["a", "b", "a", "c", "b", "a", "d"]
    order = commit_order(clusters, 7, b"x", size_biased=size_biased)
    assert sorted(order) == list(range(7))
    runs = [key for key, _ in itertools.groupby(clusters[i] for i in order)]
    assert len(runs) == len(set(runs))
    assert [i for i in order if clusters[i] == "a"] == [0, 2, 5]


def test_names_of_clusters_do_not_matter() -> None:
    first = commit_order(["a", "b", "a", "c"], 4, b"x", size_biased=True)
    assert first == commit_order(["z", "", "z", "0"], 4, b"x", size_biased=True)


def test_nothing_to_order() -> None:
    assert commit_order(None, 0, b"x", size_biased=True) == []
    assert commit_order([], 0, b"x", size_biased=True) == []


def test_every_sample_needs_a_cluster_once_any_has_one() -> None:
    with pytest.raises(ValueError, match="2 clusters named for 3 samples"):
        commit_order(["a", "b"], 3, b"x", size_biased=True)


@pytest.mark.parametrize("size_biased", [True, False])
def test_orders_come_as_often_as_successive_sampling_says(size_biased: bool) -> None:
    sizes = {"a": 1, "b": 2, "c": 5}
    clusters = [name for name, size in sizes.items() for _ in range(size)]
    runs = 3_000
    seen = Counter(
        "".join(dict.fromkeys(clusters[i] for i in commit_order(clusters, 8, str(r).encode(), size_biased=size_biased)))
        for r in range(runs)
    )
    for order in itertools.permutations("abc"):
        expected, left = Fraction(1), sum(sizes.values())
        for name in order:
            expected *= Fraction(sizes[name], left)
            left -= sizes[name]
        chance = float(expected) if size_biased else 1 / 6
        error = (chance * (1 - chance) / runs) ** 0.5
        assert seen["".join(order)] / runs == pytest.approx(chance, abs=4.5 * error)
