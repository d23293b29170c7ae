"""What every metric plugin keeps to. A new metric is found and covered without an edit here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness import plugins
from harness.errors import ConfigError
from harness.metrics import Metric
from harness.records import MetricSpec, Output, Sample, Score
from tests.fuzzing import examples

HOSTILE = (
    "",
    " ",
    "\x00",
    "nan",
    "NaN",
    "-inf",
    "#### ",
    "1e999",
    "{",
    "[" * 5000,
    "𝕳" * 50,
    "\u202e",
    "\ud800",
    "```",
)
CHOICES = ("one", "two", "three")

texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60), st.from_regex(r"[-+$0-9.,e# ]{0,20}"))


@cache
def module(name: str) -> Any:
    return plugins.load("metrics", name)


# Outside code brings what it likes, torch included.
METRICS = [
    pytest.param(name, marks=pytest.mark.slow if vars(module(name)).get("LOADS_CODE") else ())
    for name in plugins.names("metrics")
]


def variants(name: str) -> list[dict[str, Any]]:
    """The defaults, and every complete example that the plugin gives in its schema."""
    extra = module(name).Options.model_config.get("json_schema_extra") or {}
    return [{}, *extra.get("examples", [])]


@cache
def built(name: str) -> Metric | str:
    """The metric with its first workable options, or why none works here."""
    reason = ""
    for values in variants(name):
        try:
            made: Metric = module(name).build(module(name).Options.model_validate(values))
        except (ValidationError, ConfigError, ImportError) as error:
            reason = str(error)
        else:
            return made
    return reason


def metric(name: str) -> Metric:
    made = built(name)
    if isinstance(made, str):
        pytest.skip(f"cannot be built here: {made}")
    return made


def outputs(name: str, text: str, logprobs: Sequence[float]) -> list[Output]:
    if module(name).SCORES == "choices":
        return [Output(logprob=value, tokens=1) for value in logprobs]
    return [Output(text=text)]


@pytest.mark.parametrize("name", METRICS)
def test_it_says_what_it_reads_and_is_described(name: str) -> None:
    assert module(name).SCORES in ("text", "choices")
    assert isinstance(vars(module(name)).get("RUNS_CODE", False), bool)
    assert isinstance(vars(module(name)).get("LOADS_CODE", False), bool)
    assert "ounds" in (module(name).__doc__ or ""), "the docstring says what the bounds are"


@pytest.mark.parametrize("name", METRICS)
def test_unknown_options_are_refused(name: str) -> None:
    complete = variants(name)[-1]
    with pytest.raises(ConfigError, match="no_such_option"):
        plugins.options("metrics", name, {**complete, "no_such_option": 1}, where="card.yaml: metrics")


@pytest.mark.parametrize("name", METRICS)
def test_it_builds_with_defaults_or_says_what_is_missing(name: str) -> None:
    if not any(field.is_required() for field in module(name).Options.model_fields.values()):
        chosen = plugins.options("metrics", name, {}, where="card.yaml: metrics")
        assert isinstance(module(name).build(chosen).spec, MetricSpec)
        return
    with pytest.raises(ConfigError, match=r"is missing|give "):
        plugins.options("metrics", name, {}, where="card.yaml: metrics")
    assert len(variants(name)) > 1, "options that must be given need an example in the schema"


@pytest.mark.parametrize("name", METRICS)
def test_its_declaration_is_possible(name: str) -> None:
    spec = metric(name).spec
    assert spec.name
    assert spec.span > 0
    assert spec.bounds[0] <= spec.chance <= spec.bounds[1]


@pytest.mark.parametrize("name", METRICS)
@given(
    text=texts,
    targets=st.lists(st.one_of(texts, st.sampled_from(CHOICES)), max_size=3),
    logprobs=st.lists(st.floats(-1e6, 0), min_size=3, max_size=3),
)
@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_output_gets_a_state_and_a_value_within_bounds_and_the_same_again(
    name: str, text: str, targets: list[str], logprobs: list[float]
) -> None:
    made = metric(name)
    sample = Sample("s", "What?", tuple(targets), choices=CHOICES)
    answered = outputs(name, text, logprobs)
    first = made.score(sample, answered)
    assert isinstance(first, Score)
    assert made.spec.checked(first) == first, "a value outside the declared bounds"
    assert made.score(sample, answered) == first, "not pure"


@pytest.mark.parametrize("name", METRICS)
def test_what_cannot_be_observed_is_a_failure_with_a_reason(name: str) -> None:
    made = metric(name)
    nothing = Sample("s", "What?")
    wrong_kind = [Output(logprob=-1.0)] if module(name).SCORES == "text" else [Output(text="x")]
    for result in (made.score(nothing, []), made.score(nothing, wrong_kind)):
        assert result.state == "failed"
        assert result.reason
