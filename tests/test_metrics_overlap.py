"""BLEU, chrF and ROUGE against the libraries' own functions, called the other way round."""

from __future__ import annotations

from typing import Any

import pytest

from harness import plugins
from harness.errors import ConfigError
from harness.records import Output, Sample, Score

PAIRS = [
    ("the cat sat on the mat", ("the cat sat on the mat",)),
    ("the cat sat on a mat", ("the cat sat on the mat",)),
    ("a cat is sitting on the mat today", ("the cat sat on the mat", "there is a cat on the mat")),
    ("cat", ("the cat sat on the mat",)),
    ("entirely different words", ("the cat sat on the mat",)),
    ("", ("the cat sat on the mat",)),
    ("   \n", ("the cat sat on the mat",)),
    ("The Cat, sat: on the MAT!", ("the cat sat on the mat", "x y")),
    ("the " * 200, ("the cat sat on the mat",)),
]


def score(metric: str, text: str, *targets: str, **options: Any) -> Score:
    chosen = plugins.options("metrics", metric, options, where="card.yaml: metrics")
    result: Score = plugins.load("metrics", metric).build(chosen).score(Sample("s", "?", targets), [Output(text=text)])
    return result


@pytest.mark.parametrize(("text", "targets"), PAIRS)
def test_bleu_is_sacrebleus_sentence_score_with_effective_order(text: str, targets: tuple[str, ...]) -> None:
    import sacrebleu

    theirs = sacrebleu.sentence_bleu(text, list(targets), use_effective_order=True).score
    assert score("bleu", text, *targets).value == pytest.approx(theirs / 100)
    lowered = sacrebleu.sentence_bleu(text, list(targets), use_effective_order=True, lowercase=True).score
    assert score("bleu", text, *targets, lowercase=True).value == pytest.approx(lowered / 100)


@pytest.mark.parametrize(("text", "targets"), PAIRS)
def test_chrf_is_sacrebleus_sentence_score(text: str, targets: tuple[str, ...]) -> None:
    import sacrebleu

    theirs = sacrebleu.sentence_chrf(text, list(targets)).score
    assert score("chrf", text, *targets).value == pytest.approx(theirs / 100)
    plus = sacrebleu.sentence_chrf(text, list(targets), word_order=2).score
    assert score("chrf", text, *targets, word_order=2).value == pytest.approx(plus / 100)


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
@pytest.mark.parametrize(("text", "targets"), PAIRS[:7])
def test_rouge_is_rouge_scores_best_f_measure(text: str, targets: tuple[str, ...], kind: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    for stemmer in (False, True):
        theirs = RougeScorer([kind], use_stemmer=stemmer).score_multi(list(targets), text)[kind].fmeasure
        assert score("rouge", text, *targets, type=kind, stemmer=stemmer).value == pytest.approx(theirs)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "rouge"])
def test_a_perfect_answer_reaches_the_upper_bound_and_never_passes_it(metric: str) -> None:
    for text in ("the cat sat on the mat", "one two three four five six seven", "nine words stand in this row of text"):
        assert score(metric, text, text) == Score.of(1.0)


@pytest.mark.parametrize(("metric", "target"), [("bleu", " "), ("chrf", "\n"), ("rouge", "…"), ("rouge", "東京タワー")])
def test_a_target_that_cannot_be_compared_is_a_failure_and_no_zero(metric: str, target: str) -> None:
    assert score(metric, "東京タワー", "fine", target).state == "failed"


def test_rouge2_needs_two_words_in_the_target() -> None:
    assert score("rouge", "Paris", "Paris", type="rouge2").state == "failed"
    assert score("rouge", "Paris", "Paris", type="rouge1") == Score.of(1)


@pytest.mark.parametrize(
    ("metric", "options"),
    [("bleu", {"tokenize": "klingon"}), ("chrf", {"char_order": 0}), ("rouge", {"type": "rougeX"})],
)
def test_wrong_options_are_named(metric: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        score(metric, "a", "b", **options)
