"""Shares come out as asked to within a row, splits share no cluster, and only content and seed decide who is drawn."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.training.data import mixing, pairs
from harness.training.data.splitting import split

SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=5)


def digest(row: int) -> bytes:
    return hashlib.blake2b(str(row).encode(), digest_size=16).digest()


@given(st.integers(0, 1000), st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_parts_add_up_and_are_within_one_of_their_share(total: int, weights: list[float]) -> None:
    parts = mixing.apportion(total, weights)
    assert sum(parts) == total
    assert all(abs(p - total * w / sum(weights)) < 1 for p, w in zip(parts, weights, strict=True))


@given(SIZES, st.data())
def test_a_weighted_mixture_is_as_large_as_its_scarcest_source_allows(sizes: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    parts = mixing.weighted(sizes, weights)
    assert all(0 <= part <= size for part, size in zip(parts, sizes, strict=True))
    assert all(abs(p - sum(parts) * w / sum(weights)) < 1 for p, w in zip(parts, weights, strict=True))
    scarcest = min(size * sum(weights) / weight for size, weight in zip(sizes, weights, strict=True))
    assert scarcest - len(sizes) - 1 <= sum(parts) <= scarcest + 1e-6


@given(st.integers(1, 5000), st.floats(0.01, 0.5))
def test_the_replay_share_is_realised_within_one_row(train: int, share: float) -> None:
    count = mixing.replay_count(train, share)
    assert abs(count - share * (train + count)) <= 1


@given(SIZES, st.integers(0, 500), st.booleans())
def test_no_replay_row_comes_twice_while_there_are_others(sizes: list[int], wanted: int, repeat: bool) -> None:
    pools = [[1000 * i + j for j in range(size)] for i, size in enumerate(sizes)]
    drawn = mixing.draw_replay(pools, [1.0] * len(sizes), wanted, repeat=repeat)
    counts = [drawn.rows.count(row) for row in set(drawn.rows)]
    assert len(drawn.rows) == (wanted if repeat else min(wanted, sum(sizes)))
    assert not counts or max(counts) - min(counts) <= 1
    assert drawn.short == (wanted > sum(sizes))
    if drawn.short:
        assert len(counts) == sum(sizes)


def test_a_replay_pool_that_runs_out_is_made_up_for_by_the_others() -> None:
    pools = [list(range(3)), list(range(100, 200))]
    assert len(mixing.draw_replay(pools, [1.0, 1.0], 10, repeat=False).rows) == 10
    assert mixing.draw_replay(pools, [1.0, 1.0], 4, repeat=False).rows == [0, 1, 100, 101]


@given(st.permutations(range(30)), st.integers(0, 5))
def test_the_order_of_drawing_is_that_of_the_seed_and_not_of_the_rows(rows: list[int], seed: int) -> None:
    assert mixing.order(seed, "x", rows, digest) == mixing.order(seed, "x", range(30), digest)
    assert mixing.order(seed, "x", rows, digest) != mixing.order(seed, "y", rows, digest)
    assert mixing.order(seed, "x", rows, digest) != mixing.order(seed + 1, "x", rows, digest)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.floats(0, 0.9), st.integers(0, 3))
def test_a_split_shares_no_cluster_and_loses_no_row(clusters: list[int], share: float, seed: int) -> None:
    found = split(range(len(clusters)), clusters.__getitem__, digest, share, seed)
    assert sorted([*found.train, *found.validation]) == list(range(len(clusters)))
    assert not {clusters[r] for r in found.train} & {clusters[r] for r in found.validation}
    assert len(found.validation) <= found.wanted < len(clusters)


@given(st.integers(2, 300), st.floats(0.01, 0.9))
def test_a_split_of_single_rows_has_its_share_within_one_row(count: int, share: float) -> None:
    found = split(range(count), lambda row: row, digest, share, 0)
    assert len(found.validation) == found.wanted
    assert abs(found.wanted - share * count) <= 1


@given(st.permutations(range(20)))
def test_a_split_does_not_depend_on_the_order_of_the_rows(rows: list[int]) -> None:
    usual = split(range(20), lambda row: row // 3, digest, 0.3, 0)
    assert set(split(rows, lambda row: row // 3, digest, 0.3, 0).validation) == set(usual.validation)


def test_no_share_and_one_row_give_no_validation() -> None:
    assert split(range(9), lambda row: row, digest, 0, 0).validation == []
    assert split(range(1), lambda row: row, digest, 0.5, 0).validation == []


# ---------------------------------------------------------------- preferred against rejected


TEXTS = st.text("ab c", max_size=30)


@given(TEXTS, TEXTS)
def test_similarity_is_symmetric_and_one_for_equal_texts_only(first: str, second: str) -> None:
    value = pairs.similarity(first, second)
    assert 0 <= value <= 1
    assert value == pairs.similarity(second, first)
    assert (value == 1) == (first.split() == second.split())


@pytest.mark.parametrize(("change", "alike"), [(("fox", "ox"), True), (("quick brown", "slow and lazy"), False)])
def test_a_small_change_is_alike_and_a_larger_one_is_not(change: tuple[str, str], alike: bool) -> None:
    said = "The quick brown fox jumps over the lazy dog, and then it goes home and sleeps until noon on Sunday."
    assert (pairs.similarity(said, said.replace(*change)) > pairs.ALIKE) == alike


def test_the_same_runs_in_another_order_are_not_the_same_answer() -> None:
    assert pairs.similarity("abab", "baba") < 1
    assert pairs.similarity("xyzAxyzBxyz", "xyzBxyzAxyz") < 1
