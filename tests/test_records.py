"""A failed observation can never be turned into a number, and a number never goes unexplained."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest

from harness.records import (
    Evidence,
    Generate,
    Guard,
    LogLikelihood,
    Message,
    MetricSpec,
    Output,
    PairedScore,
    RollingLogLikelihood,
    Score,
    content_hash,
    request_hash,
)


@pytest.mark.parametrize("state", ["failed", "abstained"])
def test_only_a_scored_score_has_a_value(state: str) -> None:
    with pytest.raises(ValueError, match="with value"):
        Score(state, 0.0, "why")  # type: ignore[arg-type]


def test_a_failure_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        Score("failed")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_and_log_likelihoods_are_finite(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Score.of(value)
    with pytest.raises(ValueError, match="finite"):
        Output(logprob=value)


def test_an_output_is_an_answer_or_a_failure() -> None:
    with pytest.raises(ValueError, match="either"):
        Output()
    with pytest.raises(ValueError, match="either"):
        Output(text="x", failure="too long")


@pytest.mark.parametrize(
    "output",
    [
        Output(text=""),
        Output(text="a", tokens=2, truncated=True, ids=(1, 0), logprobs=(-0.5, 0.0), near_ties=1),
        Output(logprob=0.0, is_greedy=False, tokens=1),
        Output(logprob=-1.5, is_greedy=True),
        Output(failure="too long"),
    ],
)
def test_an_output_comes_back_from_json_and_leaves_out_what_it_does_not_say(output: Output) -> None:
    record = json.loads(json.dumps(output.as_json()))
    assert Output.from_json(record) == output == Output.from_json(asdict(output))
    assert None not in record.values()


def test_a_score_outside_its_bounds_becomes_a_failure_that_says_so() -> None:
    spec = MetricSpec("accuracy")
    checked = spec.checked(Score.of(1.5))
    assert checked.state == "failed"
    assert "[0, 1]" in checked.reason
    assert spec.checked(Score.of(1.0)).value == 1.0


def test_a_pair_is_complete_only_with_both_values() -> None:
    assert PairedScore("a", baseline=Score.of(1), candidate=Score.of(0)).values == (1.0, 0.0)
    assert PairedScore("a", baseline=Score.of(1), candidate=Score.failed("timeout")).values is None
    assert PairedScore("a", baseline=Score.of(1), candidate=Score.failed("timeout")).asked
    assert not PairedScore("a").asked


def test_request_hash_tells_requests_apart() -> None:
    requests = [
        Generate("a"),
        Generate("a", max_tokens=1),
        Generate((Message("user", "a"),)),
        LogLikelihood("a", "b"),
        LogLikelihood("ab", ""),
    ]
    assert len({request_hash(r) for r in requests}) == len(requests)
    assert request_hash(Generate("a")) == request_hash(Generate("a"))


def test_request_hash_is_that_of_all_fields() -> None:
    for request in (
        Generate("a", ("x", "y"), 3, 0.5, 0.9, 7),
        Generate((Message("user", "hi"), Message("assistant", "é"))),
        LogLikelihood((Message("user", "hi"),), " b"),
        LogLikelihood((), "b"),
        RollingLogLikelihood("\ud800"),
        Generate((Message("assistant", "", '[{"name":"f"}]'), Message("tool", "2", tool_call_id="c")), tools="[]"),
    ):
        values = {k: v for k, v in asdict(request).items() if v != "" or k not in GIVEN}
        for key, turns in values.items():
            if isinstance(turns, tuple) and turns and isinstance(turns[0], dict):
                values[key] = [{k: v for k, v in turn.items() if v or k not in GIVEN} for turn in turns]
        assert request_hash(request) == content_hash({"kind": type(request).__name__, **values})


GIVEN = (
    "tools",
    "tool_choice",
    "response_format",
    "tool_calls",
    "tool_call_id",
    "pictures",
)  # part of a hash only where given


def test_content_hash_ignores_key_order_and_refuses_nan() -> None:
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        content_hash(math.nan)


def test_slices_keep_the_order() -> None:
    pairs = (PairedScore("1", tags=("x",)), PairedScore("2"), PairedScore("3", tags=("x", "y")))
    evidence = Evidence("s", MetricSpec("m"), pairs)
    assert [p.sample_id for p in evidence.slice("x")] == ["1", "3"]
    assert evidence.slice(None) == pairs


def test_an_improvement_guard_turns_the_sign() -> None:
    assert Guard("s", "m", margin=0.02).tolerated == 0.02
    assert Guard("s", "m", must_improve=0.3).tolerated == -0.3
    assert Guard("s", "m", slice="x").label == "s/m[x]"
