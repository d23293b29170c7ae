"""Multiple choice against what lm-eval makes of the same log-likelihoods."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from harness.metrics import multiple_choice
from harness.metrics.multiple_choice import Options
from harness.records import Output, Sample, Score


def score(logprobs: list[float], choices: tuple[str, ...], *targets: str, normalise: str = "none") -> Score:
    metric = multiple_choice.build(Options.model_validate({"normalise": normalise}))
    outputs = [Output(logprob=value, tokens=1) for value in logprobs]
    return metric.score(Sample("s", "?", targets, choices=choices), outputs)


@pytest.mark.parametrize(
    ("normalise", "winner"), [("none", "no"), ("characters", "certainly not"), ("bytes", "certainly not")]
)
def test_a_long_choice_wins_only_when_length_is_taken_out(normalise: str, winner: str) -> None:
    choices = ("no", "certainly not", "perhaps")
    for choice in choices:
        assert score([-2.0, -6.5, -9.0], choices, choice, normalise=normalise) == Score.of(choice == winner)


def test_bytes_and_characters_differ_beyond_ascii() -> None:
    choices = ("ab", "éé")
    assert score([-2.0, -2.2], choices, "éé", normalise="characters") == Score.of(0)
    assert score([-2.0, -2.2], choices, "éé", normalise="bytes") == Score.of(1)


def test_tokens_are_those_that_were_scored() -> None:
    metric = multiple_choice.build(Options(normalise="tokens"))
    sample = Sample("s", "?", ("b",), choices=("a", "b"))
    assert metric.score(sample, [Output(logprob=-2.0, tokens=1), Output(logprob=-3.0, tokens=2)]) == Score.of(1)
    assert metric.score(sample, [Output(logprob=-2.0), Output(logprob=-3.0)]).state == "failed"


def test_of_equal_choices_the_first_wins_on_both_sides() -> None:
    assert score([-1.0, -1.0], ("a", "b"), "a") == Score.of(1)
    assert score([-1.0, -1.0], ("a", "b"), "b") == Score.of(0)


def test_any_of_several_right_choices_counts() -> None:
    assert score([-3.0, -1.0, -2.0], ("a", "b", "c"), "c", "b") == Score.of(1)


@pytest.mark.parametrize(
    ("logprobs", "choices", "targets"),
    [([-1.0], ("a",), ("a",)), ([-1.0], ("a", "b"), ("a",)), ([], (), ("a",)), ([-1.0, -2.0], ("a", "b"), ()),
     ([-1.0, -2.0], ("a", "b"), ("c",))],
)  # fmt: skip
def test_what_cannot_be_judged_is_a_failure(
    logprobs: list[float], choices: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    assert score(logprobs, choices, *targets).state == "failed"


def test_a_text_in_place_of_a_likelihood_is_a_failure() -> None:
    metric = multiple_choice.build(Options())
    sample = Sample("s", "?", ("a",), choices=("a", "b"))
    assert metric.score(sample, [Output(logprob=-1.0), Output(text="b")]).state == "failed"


@pytest.mark.slow
def test_it_is_lm_evals_acc_acc_norm_and_acc_bytes() -> None:
    task = _lm_eval_task()
    rng = Random(7)
    words = ["yes", "no", "perhaps", "naïve", "a longer answer", "東京", "x"]
    for _ in range(300):
        choices = tuple(rng.sample(words, rng.randint(2, 5)))
        gold = rng.randrange(len(choices))
        logprobs = [round(rng.uniform(-9, -1), 1) for _ in choices]  # rounded, so that ties occur
        theirs: dict[str, Any] = task.process_results(
            {"choices": list(choices), "gold": gold}, [(value, False) for value in logprobs]
        )
        ours = {
            name: score(logprobs, choices, choices[gold], normalise=rule).value
            for name, rule in (("acc", "none"), ("acc_norm", "characters"), ("acc_bytes", "bytes"))
        }
        assert ours == {name: theirs[name] for name in ours}


def _lm_eval_task() -> Any:
    import datasets
    from lm_eval.api.task import ConfigurableTask

    rows = datasets.Dataset.from_list([{"choices": ["a", "b"], "gold": 0}])
    return ConfigurableTask(
        config={
            "task": "choices", "dataset_path": "json", "custom_dataset": lambda **_: {"test": rows},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "?",
            "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}",
            "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")],
        }
    )  # fmt: skip
