"""What trying prompts came to, in words and as a document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from harness import words
from harness.errors import HoldError
from harness.records import Comparison
from harness.training.advice.trying import Trial, Tried

_SHOWN = 5
_UNLIKE = 0.2  # of the scale


def exit_code(trial: Trial) -> int:
    """0 where the prompt was judged, or none was worth it; 3 where a pre-flight check forbade to judge it."""
    return HoldError.exit_code if trial.judged and words.failed_checks(trial.judged.verdict) else 0


def comparison(trial: Trial) -> Comparison | None:
    """The chosen prompt against no prompt on the frozen samples, by the metric that it was searched by."""
    found = trial.judged.verdict.comparisons if trial.judged else ()
    return next((c for c in found if c.metric == trial.metric and c.slice is None), None)


def tell(trial: Trial) -> str:
    """The search, the judgement, and what a fine-tuned model now has to beat."""
    return "".join(line + "\n" for line in (*_searched(trial), "", *_judged(trial), *_how_to_go_on(trial)))


def _searched(trial: Trial) -> Iterator[str]:
    bare, *others = trial.tried
    yield f"Prompts searched for {trial.suite}, by {trial.metric}, on {bare.n + bare.failed} held-out rows:"
    yield f"  {'gain (90 % interval)':<26} {'mean':>6}  prompt"
    ranked = sorted(others, key=lambda t: -(t.gain.estimate if t.gain else float("-inf")))
    for tried in [bare, *ranked[:_SHOWN]]:
        yield f"  {_gain(tried, trial):<26} {_mean(tried, trial):>6}  {_title(tried)}"
    if len(ranked) > _SHOWN:
        yield f"  and {len(ranked) - _SHOWN} more that did no better"


def _gain(tried: Tried, trial: Trial) -> str:
    if tried.proposal.prompt is None:
        return "(what it is set against)"
    if tried.gain is None:
        return f"not known: {tried.failed} failed"
    values = (tried.gain.estimate, tried.gain.low, tried.gain.high)
    mean, low, high = (f"{words.scaled(value, trial.bounds):+.1f}" for value in values)
    return f"{mean}{words.unit(trial.bounds)} [{low}, {high}]".replace("-", "\N{MINUS SIGN}")


def _mean(tried: Tried, trial: Trial) -> str:
    return words.MISSING if tried.mean is None else f"{words.scaled(tried.mean, trial.bounds):.1f}"


def _title(tried: Tried) -> str:
    title = tried.proposal.title
    return title if len(title) <= 60 else title[:59] + "…"


def _judged(trial: Trial) -> Iterator[str]:
    result = comparison(trial)
    if trial.judged is None or trial.chosen is None:
        yield "No prompt did better than none there, so none was judged."
        yield "A fine-tuned model has to beat the bare baseline."
        return
    yield f"The best one, judged once on the frozen samples ({trial.prompt}):"
    for check in words.failed_checks(trial.judged.verdict):
        yield f"  not judged: {check.name}: {check.detail}"
    if result is None or result.difference is None:
        return
    means = (
        f"{words.mean(result.baseline_mean, result)} without it, {words.mean(result.candidate_mean, result)} with it"
    )
    yield f"  {result.label}: {means}"
    flips = f"{result.lost} lost and {result.won} won"
    yield f"  on these samples: {words.difference(result)} ({flips}; {words.used(result)} samples)"
    yield from _uncertainty(result)
    yield from _unlike(trial, result)
    yield f"  report: {trial.judged.reports[0]}"


def _uncertainty(result: Comparison) -> Iterator[str]:
    """On the frozen samples the difference is known; about others like them, only an interval is."""
    if result.population_interval is not None:
        interval = words.span(result.population_interval, result)
        yield f"  for other samples like these: between {interval} ({words.level(result)} interval)"
    if result.mcnemar_p is not None:
        yield f"  McNemar's exact test: p = {result.mcnemar_p:.3g}"
    if result.n_failed:
        yield f"  {result.n_failed} pairs failed and count for nothing"


def _unlike(trial: Trial, result: Comparison) -> Iterator[str]:
    """Rows on which the bare model does much better or worse than on the frozen samples are other rows."""
    before, frozen = trial.tried[0].mean, result.baseline_mean
    if (
        before is not None
        and frozen is not None
        and abs(before - frozen) > _UNLIKE * (trial.bounds[1] - trial.bounds[0])
    ):
        held, golden = (f"{words.scaled(value, trial.bounds):.1f}" for value in (before, frozen))
        yield f"  beware: without a prompt the held-out rows score {held} and the frozen samples {golden};"
        yield "  rows that are so unlike the golden set choose a prompt for another task"


def _how_to_go_on(trial: Trial) -> Iterator[str]:
    result = comparison(trial)
    if trial.prompt is None or result is None or result.difference is None or exit_code(trial):
        return
    yield ""
    if result.difference <= 0:
        yield "On the frozen samples the prompt is no better than none: fine-tuning has to beat the bare baseline."
        return
    yield "What fine-tuning has to beat is the prompt. In the gate of the fine-tuned model, let the baseline be:"
    yield ""
    text = yaml.safe_dump({"baseline": trial.baseline}, sort_keys=False, allow_unicode=True)
    yield from (f"  {line}" for line in text.splitlines())
    yield ""
    yield f"and demand `must_improve: 0` of {trial.metric} in {trial.suite}."
    yield "This judgement is fair once: to try other seeds until the golden set agrees is to search on the golden set."


def as_document(trial: Trial) -> dict[str, Any]:
    """Everything that `tell` says, JSON-ready; scores in score points, gains oriented so that up is better."""
    judged = trial.judged
    return {
        "suite": trial.suite,
        "metric": trial.metric,
        "tried": [_tried(t) for t in trial.tried],
        "chosen": None if trial.chosen is None else _tried(trial.chosen),
        "prompt": None if trial.prompt is None else str(trial.prompt),
        "baseline": trial.baseline,
        "judged": None if judged is None else {"run": str(judged.path), **judged.verdict.as_json()},
    }


def _tried(tried: Tried) -> dict[str, Any]:
    gain = tried.gain
    return {
        "title": tried.proposal.title,
        "shots": len(tried.proposal.prompt.shots) if tried.proposal.prompt else 0,
        "mean": tried.mean,
        "gain": None if gain is None else gain.estimate,
        "interval": None if gain is None else [gain.low, gain.high],
        "n": tried.n,
        "failed": tried.failed,
    }
