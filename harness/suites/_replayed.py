"""What is asked of a replayed production call without a judge: each a metric, and the calls that it concerns"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness import plugins
from harness.metrics import Metric
from harness.records import MetricSpec, Output, Sample, Score
from harness.served import Prices

COST = "cost"
Concerns = Callable[[Sample], bool]
Scoring = Callable[[Sample, Sequence[Output]], Score]


@dataclass(frozen=True, slots=True)
class Check:
    """One metric of a replay: what it measures, of which calls, and how."""

    spec: MetricSpec
    concerns: Concerns
    score: Scoring


def checks(max_seconds: float, max_tokens: int) -> dict[str, Check]:
    """All checks by name.

    Args:
        max_seconds: latency from which on slower is no worse; it bounds the metric `seconds`.
        max_tokens: the same for `output_tokens`.
    """
    every: Concerns = lambda _: True  # noqa: E731 - it stands in a table of such functions
    seconds = MetricSpec("seconds", higher_is_better=False, bounds=(0.0, max_seconds))
    tokens = MetricSpec("output_tokens", higher_is_better=False, bounds=(0.0, float(max_tokens)))
    table = {
        "complied": (every, _by("refusal", {}, _last)),
        "finished": (every, lambda _, outputs: Score.of(not outputs[-1].truncated)),
        "format": (_has_format, _format),
        "valid_calls": (_has_tools, _by("tool_calls", {"mode": "valid"}, _every_call)),
        "recorded_calls": (_recorded_calls, _by("tool_calls", {}, _first, calls="tool_calls")),
        "liked": (_was_liked, _by("token_f1", {}, _last, targets="text")),
    }
    made = {name: Check(MetricSpec(name), concerns, score) for name, (concerns, score) in table.items()}
    made["seconds"] = Check(seconds, every, lambda _, outputs: _seconds(outputs, max_seconds))
    made["output_tokens"] = Check(tokens, every, lambda _, outputs: _tokens(outputs, max_tokens))
    return made


def cost(prices: Prices, most: float) -> Check:
    """What the answers to a call cost one side, in US dollars; more than `most` is no worse."""

    def score(_: Sample, outputs: Sequence[Output]) -> Score:
        if not all(output.read and (output.tokens or not output.spoken) for output in outputs):
            return Score.failed("the subject does not say how many tokens it read and wrote; only a served one does")
        spent = sum(prices.input * output.read + prices.output * output.tokens for output in outputs) / 1e6
        return Score.of(min(spent, most))

    return Check(MetricSpec(COST, higher_is_better=False, bounds=(0.0, most)), lambda _: True, score)


# ---------------------------------------------------------------- which calls


def _has_format(sample: Sample) -> bool:
    return str(_format_of(sample).get("type", "text")) in ("json_object", "json_schema")


def _has_tools(sample: Sample) -> bool:
    return bool(sample.data.get("tools"))


def _recorded_calls(sample: Sample) -> bool:
    return _has_tools(sample) and sample.data.get("recorded", {}).get("tool_calls") is not None


def _was_liked(sample: Sample) -> bool:
    return sample.data.get("liked") is True and bool(sample.data.get("recorded", {}).get("text"))


# ---------------------------------------------------------------- what of the outputs


def _first(outputs: Sequence[Output]) -> Sequence[Output]:
    return outputs[:1]


def _last(outputs: Sequence[Output]) -> Sequence[Output]:
    return outputs[-1:]


def _every_call(outputs: Sequence[Output]) -> Sequence[Output]:
    """All steps as one output: an invalid call in any of them counts."""
    return [Output(text="\n".join(output.spoken or "" for output in outputs))]


# ---------------------------------------------------------------- how


def _by(
    metric: str, options: Mapping[str, Any], part: Callable[[Sequence[Output]], Sequence[Output]], **recorded: str
) -> Scoring:
    """A metric of ours on a part of the outputs; `recorded` names what of the recorded answer is which field."""
    built: list[Metric] = []  # made when it is first used: its dependencies may be no concern of this set

    def score(sample: Sample, outputs: Sequence[Output]) -> Score:
        if not built:
            module = plugins.load("metrics", metric)
            built.append(module.build(module.Options.model_validate(dict(options))))
        answer = sample.data.get("recorded", {})
        told = sample
        if "calls" in recorded:
            told = replace(told, data={**sample.data, "calls": answer.get(recorded["calls"]) or []})
        if "targets" in recorded:
            told = replace(told, targets=(str(answer.get(recorded["targets"], "")),))
        return built[0].score(told, part(outputs))

    return score


def _format(sample: Sample, outputs: Sequence[Output]) -> Score:
    """Whether the answer is what the request's response format demands."""
    wanted = _format_of(sample)
    schema = wanted.get("json_schema", {}).get("schema") if wanted.get("type") == "json_schema" else None
    options = {"mode": "parses"} if schema is None else {"mode": "schema", "schema": schema}
    return _by("json", {**options, "fence": False}, _last)(sample, outputs)


def _format_of(sample: Sample) -> Mapping[str, Any]:
    found = (sample.data.get("parameters") or {}).get("response_format")
    return found if isinstance(found, dict) else {}


def _seconds(outputs: Sequence[Output], most: float) -> Score:
    spent = sum(output.seconds for output in outputs)
    if not spent:
        return Score.failed("the subject does not say how long it took; only a served one does")
    return Score.of(min(spent, most))


def _tokens(outputs: Sequence[Output], most: int) -> Score:
    written = sum(output.tokens for output in outputs)
    if not written and any(output.spoken for output in outputs):
        return Score.failed("the subject does not say how many tokens it wrote")
    return Score.of(float(min(written, most)))
