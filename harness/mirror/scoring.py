"""What is measured on a live answer, without a judge: the checks of a replay, and whether there was an answer at all"""

from __future__ import annotations

from collections.abc import Mapping

from harness.mirror.calls import Answer, Asked
from harness.mirror.config import ANSWERED, PolicySection, metric_specs
from harness.records import Sample, Score
from harness.suites import _replayed

Scores = Mapping[str, Score]


class Scoring:
    """Scores answers by the metrics of `metric_specs`."""

    def __init__(self, policy: PolicySection) -> None:
        self.specs = metric_specs(policy)
        checks = _replayed.checks(policy.max_seconds, policy.max_output_tokens)
        self._checks = {name: checks[name] for name in self.specs if name != ANSWERED}

    def score(self, asked: Asked, answer: Answer) -> dict[str, Score]:
        """One side by itself, for every metric that concerns the request."""
        sample = asked.sample()
        scores = {name: self._checked(name, sample, answer) for name, check in self._checks.items()
                  if check.concerns(sample)}  # fmt: skip
        return {ANSWERED: _answered(answer), **scores}

    def pair(self, asked: Asked, champion: Answer, candidate: Answer) -> dict[str, tuple[Score, Score]]:
        """Both sides of one request.

        A request that the champion rejected as wrong says nothing of its answers, so then only `answered` is compared.
        """
        ours, theirs = self.score(asked, champion), self.score(asked, candidate)
        names = [ANSWERED] if champion.rejected else list(ours)
        return {name: (ours[name], theirs[name]) for name in names}

    def _checked(self, name: str, sample: Sample, answer: Answer) -> Score:
        if answer.failure or answer.rejected:
            return Score.failed(answer.failure or answer.rejected)
        if name == "complied" and answer.refused:
            return Score.of(0.0)
        if name == "output_tokens" and answer.output_tokens is None:
            return Score.failed("the server counts no tokens")
        check = self._checks[name]
        return check.spec.checked(check.score(sample, [answer.output()]))


def _answered(answer: Answer) -> Score:
    if answer.failure:
        return Score.failed(answer.failure)
    return Score.of(not answer.rejected)
