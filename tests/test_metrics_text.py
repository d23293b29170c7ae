"""Metrics on short answers, held against tables written by hand and against lm-eval's own function."""

from __future__ import annotations

import json
import os
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.errors import ConfigError
from harness.metrics.numeric import number_in
from harness.records import MetricSpec, Output, Sample, Score


def make(metric: str, **options: Any) -> Any:
    chosen = plugins.options("metrics", metric, options, where="card.yaml: metrics")
    return plugins.load("metrics", metric).build(chosen)


def score(metric: str, text: str, *targets: str, **options: Any) -> Score:
    result: Score = make(metric, **options).score(Sample("s", "?", targets), [Output(text=text)])
    return result


# The rules of the SQuAD 1.1 script, worked out by hand: lower case, no punctuation, no articles, single spaces.
SQUAD = [
    ("Denver Broncos", ("Denver Broncos",), 1, 1.0),
    ("the Denver Broncos.", ("Denver Broncos",), 1, 1.0),
    ("DENVER   BRONCOS\n", ("The Denver Broncos",), 1, 1.0),
    ("Broncos", ("Denver Broncos",), 0, 2 / 3),
    ("the Broncos of Denver", ("Denver Broncos",), 0, 0.8),
    ("Carolina Panthers", ("Denver Broncos",), 0, 0.0),
    ("", ("Denver Broncos",), 0, 0.0),
    ("the", ("Denver Broncos",), 0, 0.0),
    ("1,000", ("1000",), 1, 1.0),
    ("well-known", ("wellknown",), 1, 1.0),
    ("a an the cat", ("cat",), 1, 1.0),
    ("theatre", ("atre",), 0, 0.0),
    ("cat cat", ("cat",), 0, 2 / 3),
    ("cat dog", ("cat cat dog",), 0, 0.8),
    ("gold", ("golden", "gold"), 1, 1.0),
    ("golden mean", ("the mean", "golden"), 0, 2 / 3),
    ("Beyoncé", ("beyoncé",), 1, 1.0),
]


@pytest.mark.parametrize(("text", "targets", "exact", "f1"), SQUAD)
def test_exact_match_and_f1_agree_with_the_squad_table(
    text: str, targets: tuple[str, ...], exact: int, f1: float
) -> None:
    assert score("exact_match", text, *targets) == Score.of(exact)
    assert score("token_f1", text, *targets).value == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "target", "options", "value"),
    [
        ("Paris", "Paris", {"strict": True}, 1),
        (" Paris", "Paris", {"strict": True}, 0),
        ("paris", "Paris", {"strict": True}, 0),
        ("paris", "Paris", {"ignore_case": False}, 0),
        ("Paris!", "Paris", {"ignore_punctuation": False}, 0),
        ("the Paris", "Paris", {"ignore_articles": False}, 0),
        ("New  York", "New York", {"ignore_whitespace": False}, 0),
    ],
)
def test_each_difference_can_be_made_to_count(text: str, target: str, options: dict[str, Any], value: int) -> None:
    assert score("exact_match", text, target, **options) == Score.of(value)


def test_strict_with_another_rule_is_a_contradiction() -> None:
    with pytest.raises(ConfigError, match="strict means that every character counts; leave out ignore_case"):
        make("exact_match", strict=True, ignore_case=True)


@pytest.mark.parametrize("metric", ["exact_match", "token_f1"])
def test_a_target_that_vanishes_is_no_free_point(metric: str) -> None:
    assert score(metric, "", "The").state == "failed"
    assert score(metric, "", "...").state == "failed"


@pytest.mark.slow
def test_strict_is_lm_evals_exact_match() -> None:
    from lm_eval.api.metrics import exact_match_fn

    for text, targets, _, _ in SQUAD:
        theirs = exact_match_fn(predictions=[text], references=[targets[0]])["exact_match"]
        assert score("exact_match", text, targets[0], strict=True).value == theirs


@pytest.mark.parametrize("metric", ["exact_match", "token_f1", "contains", "numeric", "bleu", "chrf", "rouge"])
def test_without_a_target_nothing_is_known(metric: str) -> None:
    result = score(metric, "42")
    assert result.state == "failed"
    assert "has no target" in result.reason


@pytest.mark.parametrize("outputs", [[], [Output(text="a"), Output(text="b")], [Output(logprob=-1.0)]])
def test_anything_but_one_text_is_a_failure(outputs: list[Output]) -> None:
    assert make("exact_match").score(Sample("s", "?", ("a",)), outputs).state == "failed"


def test_a_metric_can_be_given_a_name() -> None:
    assert make("exact_match", name="em").spec == MetricSpec("em")
    assert make("rouge", type="rouge2").spec.name == "rouge2"


# ---------------------------------------------------------------- contains


@pytest.mark.parametrize(
    ("text", "targets", "options", "value"),
    [
        ("It is Paris, of course.", ("paris",), {}, 1),
        ("It is Parisian.", ("Paris",), {}, 0),
        ("It is Parisian.", ("Paris",), {"whole_words": False}, 1),
        ("New\n  York", ("new york",), {}, 1),
        ("use C++ here", ("C++",), {}, 1),
        ("use C+++ here", ("C++",), {}, 1),
        ("paris", ("Paris",), {"ignore_case": False}, 0),
        ("red and blue", ("red", "green"), {}, 1),
        ("red and blue", ("red", "green"), {"mode": "all"}, 0),
        ("green, red", ("red", "green"), {"mode": "all"}, 1),
        ("", ("x",), {}, 0),
        ("a.c", ("abc",), {}, 0),
        ("abc", ("a.c",), {}, 0),
    ],
)
def test_contains(text: str, targets: tuple[str, ...], options: dict[str, Any], value: int) -> None:
    assert score("contains", text, *targets, **options) == Score.of(value)


def test_every_output_contains_a_blank_target_so_it_says_nothing() -> None:
    assert score("contains", "anything", " ").state == "failed"


# ---------------------------------------------------------------- regex


@pytest.mark.parametrize(
    ("text", "targets", "options", "value"),
    [
        ("order 66", (), {"pattern": r"\d+"}, 1),
        ("order", (), {"pattern": r"\d+"}, 0),
        ("order 66", (), {"pattern": r"\d+", "mode": "fullmatch"}, 0),
        ("The answer is (B).", ("B",), {"pattern": r"answer is \((\w)\)", "group": 1}, 1),
        ("The answer is (B).", ("C",), {"pattern": r"answer is \((\w)\)", "group": 1}, 0),
        ("no answer", ("B",), {"pattern": r"answer is \((\w)\)", "group": 1}, 0),
        ("(A) then (B)", ("B",), {"pattern": r"\((?P<pick>\w)\)", "group": "pick"}, 0),
        ("(A) then (B)", ("B",), {"pattern": r"\((?P<pick>\w)\)", "group": "pick", "last": True}, 1),
        ("YES", (), {"pattern": "yes", "ignore_case": True}, 1),
        ("x", ("b",), {"pattern": r"(a)|x", "group": 1}, 0),
    ],
)
def test_regex(text: str, targets: tuple[str, ...], options: dict[str, Any], value: int) -> None:
    assert score("regex", text, *targets, **options) == Score.of(value)


@pytest.mark.parametrize("options", [{}, {"mode": "fullmatch"}, {"last": True}])
def test_a_pattern_that_backtracks_for_ever_is_given_up_and_is_no_zero(options: dict[str, Any]) -> None:
    began = time.monotonic()
    result = score("regex", "x" * 5000, pattern=r"(x+x+)+y", timeout_s=0.2, **options)
    assert result.state == "failed"
    assert "took longer than 0.2 s" in result.reason
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "key 'pattern' is missing"),
        ({"pattern": "x", "grop": 1}, "did you mean 'group'"),
        ({"pattern": "("}, "not a regular expression"),
        ({"pattern": "a", "group": 1}, "has no group 1"),
        ({"pattern": "a", "group": "b"}, "has no group 'b'"),
        ({"pattern": "a", "group": True}, "a number or a name"),
        ({"pattern": "(((a{1000}){1000}){1000})"}, "repeat counts multiply"),
        ({"pattern": "a" * 3000}, "longer than"),
        ({"pattern": "a", "timeout_s": 0}, "greater than 0"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_before_any_model_is_asked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make("regex", **options)


# ---------------------------------------------------------------- numeric

NUMBERS = [
    ("18", "18"), ("The answer is 18.", "18"), ("#### 18", "18"), ("9 * 2 = 18\n#### 18", "18"),
    ("#### 18 apples, not 7", "18"), ("first 3, then 4", "4"), ("1,200", "1200"), ("$1,234,567.89", "1234567.89"),
    ("-5", "-5"), ("−5", "-5"), ("- 5", "-5"), ("-$5", "-5"), ("$-5", "-5"), ("+7", "7"), ("3-5", "5"), ("x-5", "5"),
    ("(3)-5", "5"), ("0.1", "0.1"), (".5", "0.5"), ("5.", "5"), ("1e3", "1000"), ("2.5E-2", "0.025"), ("50%", "50"),
    ("£20", "20"), ("007", "7"), ("1, 2, 3", "3"), ("12,34", "34"), ("1,2345", "2345"), ("3.14.", "3.14"),
    ("no number", None), ("", None), ("####", None), ("7 #### none", None), ("NaN", None), ("Infinity", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_the_number_that_a_text_gives_as_its_answer(text: str, value: str | None) -> None:
    assert number_in(text) == (None if value is None else Decimal(value))


@pytest.mark.parametrize(
    ("text", "target", "options", "value"),
    [
        ("18", "48/2=24\n#### 18", {}, 1),
        ("18.0", "18", {}, 1),
        ("18.01", "18", {}, 0),
        ("18.01", "18", {"absolute": 0.01}, 1),
        ("18.011", "18", {"absolute": 0.01}, 0),
        ("101", "100", {"relative": 0.01}, 1),
        ("-101", "-100", {"relative": 0.01}, 1),
        ("100000000000000000001", "100000000000000000000", {}, 0),
        ("0.30000000000000004", "0.3", {}, 0),
        ("none", "18", {}, 0),
        ("1e999", "18", {}, 0),
    ],
)
def test_numeric(text: str, target: str, options: dict[str, Any], value: int) -> None:
    assert score("numeric", text, target, **options) == Score.of(value)


def test_a_target_without_a_number_is_a_fault_of_the_set() -> None:
    assert score("numeric", "18", "eighteen").state == "failed"


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match="absolute"):
        make("numeric", absolute=bad)


@pytest.mark.data
def test_every_gsm8k_answer_equals_itself() -> None:
    path = Path(os.environ.get("HARNESS_DATA", "/nonexistent")) / "benchmarks" / "gsm8k" / "test.jsonl"
    if not path.is_file():
        pytest.skip("set HARNESS_DATA to a folder with benchmarks/gsm8k/test.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 1319
    metric = make("numeric")
    for row in rows:
        gold = row["answer"].rpartition("#### ")[2]
        sample = Sample("s", row["question"], (row["answer"],))
        assert metric.score(sample, [Output(text=f"So it is {gold}.")]) == Score.of(1), row["answer"]
