"""Properties that hold for all text, found by searching for a counter-example."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import contains, exact_match, multiple_choice, numeric, token_f1
from harness.metrics.token_f1 import f1
from harness.records import Output, Sample

words = st.lists(st.sampled_from("abcdef"), max_size=12)
numbers = st.decimals(-(10**12), 10**12, places=3, allow_nan=False)


def value(metric: object, text: str, target: str) -> float | None:
    return metric.score(Sample("s", "?", (target,)), [Output(text=text)]).value  # type: ignore[attr-defined]


@given(words, words)
def test_f1_is_symmetric_and_is_one_exactly_for_the_same_words(a: list[str], b: list[str]) -> None:
    assert f1(a, b) == f1(b, a)
    assert 0 <= f1(a, b) <= 1
    assert (f1(a, b) == 1) == (bool(a) and Counter(a) == Counter(b))


@given(st.text(max_size=40), st.text(max_size=40))
def test_an_exact_match_has_full_f1(a: str, b: str) -> None:
    exact = value(exact_match.build(exact_match.Options()), a, b)
    overlap = value(token_f1.build(token_f1.Options()), a, b)
    assert (exact is None) == (overlap is None)
    if exact == 1:
        assert overlap == 1


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_more_for_letters(text: str) -> None:
    options = exact_match.Options(ignore_articles=False)
    once = options.normalised(text)
    assert options.normalised(once) == once


@given(st.text(min_size=1, max_size=10).filter(str.strip), st.text(max_size=20), st.text(max_size=20))
def test_what_stands_free_in_a_text_is_contained_in_it(target: str, before: str, after: str) -> None:
    assert value(contains.build(contains.Options()), f"{before} {target} {after}", target) == 1


@given(numbers, st.sampled_from(["{}", "it is {}", "$ is it {} ?", "1 2 3 {}", "#### {}\n"]))
def test_a_number_is_read_back_from_any_sentence_and_spelling(number: Decimal, sentence: str) -> None:
    for spelling in (str(number), f"{number:,}", f"{number:,}".replace("-", "−")):
        assert numeric.number_in(sentence.format(spelling)) == number


@given(numbers, numbers, st.floats(0, 1e6))
def test_a_wider_tolerance_never_turns_right_into_wrong(a: Decimal, b: Decimal, tolerance: float) -> None:
    narrow = value(numeric.build(numeric.Options()), str(a), str(b))
    wide = value(numeric.build(numeric.Options(absolute=tolerance)), str(a), str(b))
    assert (narrow or 0) <= (wide or 0)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e3, -1e-3), min_size=2, max_size=5))
def test_exactly_one_choice_is_the_models(logprobs: list[float]) -> None:
    choices = tuple(f"c{i}" for i in range(len(logprobs)))
    metric = multiple_choice.build(multiple_choice.Options())
    outputs = [Output(logprob=value) for value in logprobs]
    assert sum(metric.score(Sample("s", "?", (c,), choices=choices), outputs).value or 0 for c in choices) == 1
