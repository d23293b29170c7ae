"""Duplicates are found, whatever the order, and nothing counts that is not as similar as it has to be."""

from __future__ import annotations

from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.training.data import duplicates, rows
from harness.training.data.duplicates import clusters, exact, jaccard, shingles

WORDS = [f"w{i}" for i in range(400)]


def text(rng: Random, count: int = 80) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def partition(texts: list[str], threshold: float = 0.85) -> set[frozenset[str]]:
    roots = clusters(len(texts), texts.__getitem__, threshold)
    return {frozenset(t for t, r in zip(texts, roots, strict=True) if r == root) for root in roots}


def test_a_changed_word_leaves_a_long_text_a_near_duplicate_and_makes_a_short_one_another() -> None:
    long = text(Random(0), 200)
    assert clusters(2, [long, long.replace(" ", " new ", 1)].__getitem__, 0.85) == [0, 0]
    short = ["What is the capital of France?", "What is the capital of Italy?"]
    assert clusters(2, short.__getitem__, 0.85) == [0, 1]


def test_operators_and_case_tell_short_rows_apart() -> None:
    pairs = [("2 + 2", "2 * 2"), ("spell: Polish", "spell: polish"), ("東京は日本の首都です", "京都は日本の古都です")]
    for first, second in pairs:
        assert jaccard(shingles(first), shingles(second)) < 0.5


def test_text_without_spaces_is_compared_by_character() -> None:
    said = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた"
    said += "事だけは記憶している。吾輩はここで始めて人間というものを見た。"
    assert jaccard(shingles(said), shingles(said.replace("記憶", "記録"))) > 0.8


def test_a_chain_is_one_cluster_and_its_first_row_stays() -> None:
    words = text(Random(1), 300).split()
    links = [" ".join(words[i * 12 : i * 12 + 200]) for i in range(4)]
    assert jaccard(shingles(links[0]), shingles(links[3])) < 0.85 < jaccard(shingles(links[0]), shingles(links[1]))
    assert clusters(5, ["something else", *links].__getitem__, 0.85) == [0, 1, 1, 1, 1]


def test_pairs_that_share_a_band_but_not_enough_text_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_SLACK", 1.0)  # every candidate of the bands comes to the exact comparison
    rng = Random(2)
    shared = text(rng, 100)
    texts = [f"{shared} {text(rng, 30)}" for _ in range(60)]
    assert clusters(60, texts.__getitem__, 0.85) == list(range(60))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_clusters_are_those_of_all_exact_pairs_in_any_order(seed: int, data: st.DataObject) -> None:
    rng = Random(seed)
    texts = []
    for _ in range(6):
        base = text(rng).split()
        texts.append(" ".join(base))
        for _ in range(rng.randrange(3)):  # one word at the end: similarity 0.95 or 0.97, far from the threshold
            base = [*base[1:], "end"] if rng.random() < 0.5 else [*base, "end"]
            texts.append(" ".join(base))
    texts = list(dict.fromkeys(texts))
    expected = {t: {t} for t in texts}
    for a, b in combinations(texts, 2):
        if jaccard(shingles(a), shingles(b)) >= 0.85:
            joined = expected[a] | expected[b]
            expected.update(dict.fromkeys(joined, joined))
    assert partition(texts) == {frozenset(group) for group in expected.values()}
    assert partition(data.draw(st.permutations(texts))) == partition(texts)


def test_most_pairs_right_at_the_threshold_are_found() -> None:
    rng = Random(3)
    texts = []
    for _ in range(150):
        words = rng.sample(WORDS, 203)
        changed = words[:]
        changed[3], changed[50], changed[100] = "x", "y", "z"
        texts += [" ".join(words), " ".join(changed)]
    assert all(0.85 <= jaccard(shingles(a), shingles(b)) < 0.87 for a, b in zip(texts[::2], texts[1::2], strict=True))
    roots = clusters(300, texts.__getitem__, 0.85)
    found = sum(a == b for a, b in zip(roots[::2], roots[1::2], strict=True))
    assert found >= 0.93 * 150  # the bands that datasketch would choose find about half


@pytest.mark.slow
def test_many_copies_and_many_different_rows_of_one_band_take_no_square_time() -> None:
    copies = clusters(20_000, lambda i: f"the same text in all of them but for the last number {i % 2}", 0.5)
    assert set(copies) == {0}


def test_a_row_that_joined_a_cluster_is_compared_with_the_rest_of_its_band() -> None:
    signatures = np.zeros((5, 128), dtype=np.uint32)
    pool = duplicates._Pool(5)
    duplicates._unite(np.arange(5), signatures, 0.7, lambda a, b: abs(a - b) == 1 and {a, b} != {2, 3}, pool)
    assert pool.roots() == [0, 0, 0, 3, 3]


def test_a_row_without_words_is_alone() -> None:
    assert clusters(3, ["", "a b c d e f", " "].__getitem__, 0.85) == [0, 1, 0]
    assert clusters(0, "".__getitem__, 0.85) == []
    assert clusters(1, lambda _: "x", 1.0) == [0]


def test_exact_duplicates_keep_the_first_and_other_labels_contradict() -> None:
    found = exact([b"a", b"b", b"a", b"a"], ["x", "x", "x", "y"])
    assert (found.kept, found.duplicates, found.contradictions) == ([0, 1, 3], [(2, 0)], [(3, 0)])


def test_white_space_and_composition_do_not_make_another_row_but_case_does() -> None:
    def same(first: str, second: str) -> bool:
        return rows.identity("text", {"text": first}) == rows.identity("text", {"text": second})

    assert same("a  b\n", "a b")
    assert same("caf\u00e9", "cafe\u0301")
    assert not same("Polish", "polish")


def test_where_a_text_is_split_makes_another_row() -> None:
    first, second = {"prompt": "a b", "completion": "c"}, {"prompt": "a", "completion": "b c"}
    assert rows.identity("completion", first) != rows.identity("completion", second)


def test_a_turned_preference_contradicts() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    turned = {"prompt": "p", "chosen": "b", "rejected": "a"}
    assert rows.identity("preference", row) == rows.identity("preference", turned)
    assert rows.label("preference", row) != rows.label("preference", turned)


def test_a_system_turn_that_all_rows_share_does_not_make_them_alike() -> None:
    system = {"role": "system", "content": text(Random(4), 300)}
    talks = [{"messages": [system, {"role": "user", "content": f"{q}?"}]} for q in ("a b c", "d e f")]
    texts = [rows.compared_text("messages", talk) for talk in talks]
    assert texts == ["a b c?", "d e f?"]
