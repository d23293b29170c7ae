"""Served-form parity: is what a server answers with what was evaluated, merged, quantised or in another engine?

The samples that a run asked are put to the server in the run's own order, exactly as they were put to the candidate.
The candidate's stored answers take the baseline's place, the server's answers the candidate's, and the same policy
decides on the differences of their scores. Texts are compared besides: greedy answers of two engines part at near-ties,
so agreement is told and does not decide. What is shown is that the served form is no worse, not that it is no better.
Where candidate and baseline had answered differently, the server has to be nearer to the candidate; nearer to the
baseline means that the adapter is not applied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from harness import plugins, policy, runs
from harness.config import LoadedConfig, SubjectSection
from harness.errors import ConfigError, PromotionError, UsageError
from harness.execution.local import SuiteState
from harness.gate import make_plan
from harness.progress import Observer
from harness.records import EXIT_CODES, Check, Generate, Guard, Output, Sample, Verdict
from harness.statistics.paired import paired_interval
from harness.statistics.proportions import proportion_lower_bound
from harness.subjects import Subject, SubjectContext
from harness.suites import AnsweredPair

_CONFIDENCE = 0.95
_ALPHA = 0.05
_TOKEN = re.compile(r"\w+|[^\w\s]|\s+")
_WAY_OUT = "Ask more with --samples, tolerate more with --tolerance, or take a run that did not stop early"


@dataclass(frozen=True, slots=True)
class Served:
    """Where the served form is: URL of an OpenAI-compatible API, the model's name there, the variable of its key."""

    url: str
    model: str
    api_key_env: str | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How texts compare. `same` of `texts` are identical; the `kept` share of the evaluated text came before the first
    difference, median over those that differ (None: none does). `tokens` is the mean share of tokens before the first
    difference over all texts, with its interval at 95 %; a token is a word or a mark, since a server need not tell its
    own. Of the answers in which candidate and baseline had parted, `candidate` are nearer to the candidate's text,
    `baseline` to the baseline's.
    """

    texts: int = 0
    same: int = 0
    kept: float | None = None
    tokens: float | None = None
    tokens_interval: tuple[float, float] = (0.0, 1.0)
    candidate: int = 0
    baseline: int = 0
    failed: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        """Exact limits on the share of identical texts, each at 95 % (Clopper & Pearson 1934)."""
        if not self.texts:
            return 0.0, 1.0
        low = proportion_lower_bound(self.same, self.texts, confidence=_CONFIDENCE)
        return low, 1 - proportion_lower_bound(self.texts - self.same, self.texts, confidence=_CONFIDENCE)

    @property
    def unapplied(self) -> bool:
        """Whether it is shown (exact binomial, 95 %) that answers are nearer to the baseline than to the candidate."""
        told = self.candidate + self.baseline
        return bool(told) and proportion_lower_bound(self.baseline, told, confidence=_CONFIDENCE) > 0.5


@dataclass(frozen=True, slots=True)
class Parity:
    """What the comparison came to. `verdict` is PROMOTE where the served form is as good as what was evaluated."""

    verdict: Verdict
    agreement: Agreement
    left_out: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 as good within the tolerance, 1 worse or without the adapter, 3 undecided."""
        return EXIT_CODES[self.verdict.verdict]

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        if self.agreement.unapplied:
            return "the adapter is not applied: the server answers as the baseline did"
        return {
            "promote": "what is served is as good as what was evaluated, within the tolerance",
            "block": "what is served is not what was evaluated: it is worse",
            "hold": f"undecided: {'; '.join(self.verdict.reasons)}. {_WAY_OUT}",
        }[self.verdict.verdict]

    def rows(self) -> list[tuple[Any, ...]]:
        """The figures in words."""
        found, (low, high) = self.agreement, self.agreement.interval
        kept = "" if found.kept is None else f"; the others agree for {found.kept:.0%} of the text (median)"
        rows: list[tuple[Any, ...]] = [
            ("identical texts", f"{found.same} of {found.texts} ({low:.1%} to {high:.1%}){kept}"),
            ("tokens before the first difference", _percent(found.tokens, found.tokens_interval)),
            ("nearer to the candidate, to the baseline", f"{found.candidate}, {found.baseline}"),
            ("requests that failed", found.failed),
        ]
        for c in self.verdict.comparisons:
            low, high = c.interval or (float("nan"), float("nan"))
            difference = "none" if c.difference is None else f"{c.difference:+.4f} ({low:+.4f} to {high:+.4f})"
            rows.append((f"{c.label}: served less evaluated", f"{difference}, {c.n_used} samples: {c.outcome}"))
        return rows + [("left out", reason) for reason in self.left_out]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        agreement = {
            **asdict(self.agreement),
            "interval": self.agreement.interval,
            "unapplied": self.agreement.unapplied,
        }
        return {**self.verdict.as_json(), "parity": self.sentence, "agreement": agreement, "left_out": self.left_out}


def compare_served(
    loaded: LoadedConfig, run: Path, served: Served, samples: int, tolerance: float, observer: Observer
) -> Parity:
    """Put up to `samples` samples a suite of a finished run to a server and compare.

    Args:
        loaded: the gate.yaml of the run, for how its samples are asked and scored.
        run: the run directory.
        served: where the model is served.
        samples: how many samples of every suite, the first of the run's own random order.
        tolerance: δ of the comparison, in score points of each metric.
        observer: told of the progress.

    Raises:
        ConfigError: the gate.yaml asks other suites than the run did, or no suite asks for text.
        PromotionError: the run's files are not what they were when it finished.
        SubjectError: the server cannot be asked.
    """
    changed = runs.unsealed(run)
    if changed:
        raise PromotionError(f"{run / changed[0]}: changed since the run finished")
    manifest, entries = runs.read_json(run / runs.MANIFEST), runs.read_entries(run)
    with ExitStack() as stack:
        plan = make_plan(loaded)
        for state in plan.states:
            stack.callback(state.suite.close)
            _refuse_other(manifest, state, loaded)
        subject = stack.enter_context(closing(_subject(served, manifest)))
        comparing = _Comparing(subject, {}, [], [])
        for state in plan.states:
            observer.stage(f"asking {served.model}: {state.suite.name}")
            comparing.add(state, [e for e in entries if e.suite == state.suite.name][:samples])
    if not comparing.pairs:
        raise UsageError(f"{run}: no suite of it can be put to a server: {'; '.join(comparing.left_out)}")
    # The order that the run drew its samples in fits the suite's own estimand, and no other.
    guards = [
        Guard(*key, margin=tolerance, alpha=_ALPHA, estimand=s.suite.estimand, largest_cluster=s.suite.largest_cluster)
        for key, s in comparing.scored.items()
    ]
    evidence = [state.evidence(metric) for (_, metric), state in comparing.scored.items()]
    agreement = _agreement(comparing.pairs)
    checks = _checks(agreement)
    decided = policy.decide(evidence, guards, checks)
    if agreement.unapplied:  # a failed check alone would HOLD, and this has been shown
        decided = replace(decided, verdict="block")
    return Parity(decided, agreement, tuple(comparing.left_out))


@dataclass(frozen=True, slots=True)
class _Texts:
    """One request: what the baseline, the candidate and the server answered."""

    baseline: Output
    candidate: Output
    served: Output


@dataclass(slots=True)
class _Comparing:
    """Collects texts of every suite that asks for text, and scores where no judge has to be paid for them."""

    subject: Subject
    scored: dict[tuple[str, str], SuiteState]
    pairs: list[_Texts]
    left_out: list[str]

    def add(self, state: SuiteState, entries: Sequence[runs.Entry]) -> None:
        """Ask the samples of `entries` and keep what comes of it."""
        suite, by_id = state.suite, {sample.id: sample for sample in state.samples}
        asked = [(by_id[e.sample_id], e, suite.requests(by_id[e.sample_id], self.subject)) for e in entries]
        if any(not isinstance(r, Generate) for _, _, requests in asked for r in requests):
            self.left_out.append(f"{suite.name} asks for log-probabilities, which a server does not tell")
            return
        flat = [request for _, _, requests in asked for request in requests]
        answers = {i: output for batch in self.subject.answer(flat) for i, output in batch}
        said = iter([answers[i] for i in range(len(flat))])
        told = [(sample, entry, tuple(next(said) for _ in requests)) for sample, entry, requests in asked]
        for _, entry, outputs in told:
            # A conversation goes on by its own answers, so that only its first turns are alike.
            self.pairs += map(_Texts, entry.baseline, entry.candidate, outputs)
        self._score(state, told)

    def _score(self, state: SuiteState, told: Sequence[tuple[Sample, runs.Entry, tuple[Output, ...]]]) -> None:
        suite = state.suite
        if suite.asks_judges:
            self.left_out.append(f"{suite.name} is scored by a judge: its texts were compared, its scores were not")
            return
        pairs = [AnsweredPair(sample, entry.candidate, outputs) for sample, entry, outputs in told]
        for pair, scores in zip(pairs, suite.score(pairs), strict=True):
            state.scores[pair.sample.id] = {m: (both.baseline, both.candidate) for m, both in scores.items()}
        self.scored |= {(suite.name, metric): state for metric in suite.metrics}


def _refuse_other(manifest: Mapping[str, Any], state: SuiteState, loaded: LoadedConfig) -> None:
    said = manifest["suites"].get(state.suite.name)
    if said is None or said["digest"] != state.suite.digest():
        raise ConfigError(f"{loaded.path}: suite {state.suite.name!r} is not the one that the run asked; give its "
                          "gate.yaml with --policy")  # fmt: skip


def _subject(served: Served, manifest: Mapping[str, Any]) -> Subject:
    """The server as a subject that is asked as the candidate was: plain text stays plain, unless that was served."""
    plain = manifest["candidate"].get("completions", True)
    section = SubjectSection(
        kind="served", model=f"openai/{served.model}", api_base=served.url, api_key_env=served.api_key_env,
        completions=plain, prices={"input": 0, "output": 0},
    )  # fmt: skip
    options = plugins.options("subjects", "served", section.options, where="--served")
    subject: Subject = plugins.load("subjects", "served").build(options, SubjectContext(Path()))
    return subject


def _agreement(pairs: Sequence[_Texts]) -> Agreement:
    whole = [p for p in pairs if p.served.failure is None and p.candidate.spoken is not None]
    texts = [(p.candidate.spoken or "", p.served.spoken or "") for p in whole]
    kept = [_shared(a, b) / max(len(a), 1) for a, b in texts if a != b]
    alike = [_tokens_alike(a, b) for a, b in texts]
    nearer = [_nearer(p) for p in whole]
    return Agreement(
        texts=len(texts),
        same=sum(a == b for a, b in texts),
        kept=median(kept) if kept else None,
        tokens=mean(alike) if alike else None,
        tokens_interval=_mean_interval(alike),
        candidate=sum(side > 0 for side in nearer),
        baseline=sum(side < 0 for side in nearer),
        failed=len(pairs) - len(whole),
    )


def _nearer(pair: _Texts) -> int:
    """1 where the server's text goes longer with the candidate's, −1 with the baseline's, 0 where it tells nothing."""
    candidate, baseline, served = (output.spoken or "" for output in (pair.candidate, pair.baseline, pair.served))
    if candidate == baseline or pair.baseline.spoken is None:  # a baseline that failed is near to nothing
        return 0
    if served in (candidate, baseline):
        return 1 if served == candidate else -1
    gap = _shared(candidate, served) - _shared(baseline, served)
    return (gap > 0) - (gap < 0)


def _tokens_alike(a: str, b: str) -> float:
    """The share of the tokens of the longer text that come before the first difference; 1 where both are empty."""
    first, second = _TOKEN.findall(a), _TOKEN.findall(b)
    return _shared(first, second) / (max(len(first), len(second)) or 1) if first or second else 1.0


def _mean_interval(shares: Sequence[float]) -> tuple[float, float]:
    """Student's interval of a mean share; where all are 1, what so many identical texts show (Clopper & Pearson)."""
    if len(set(shares)) < 2:
        low = proportion_lower_bound(len(shares), len(shares), confidence=_CONFIDENCE) if {*shares} == {1.0} else 0.0
        return low, 1.0
    found = paired_interval(np.array(shares), confidence=_CONFIDENCE)
    return max(found.low, 0.0), min(found.high, 1.0)


def _percent(share: float | None, interval: tuple[float, float]) -> str:
    return "none" if share is None else f"{share:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    """How many characters, or tokens, two texts begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _checks(found: Agreement) -> list[Check]:
    told = found.candidate + found.baseline
    if not told:
        detail = "candidate and baseline never answered differently, so texts cannot tell which of them is served"
        return [Check("adapter-applied", True, detail)]
    detail = f"{found.baseline} of {told} answers are nearer to the baseline's than to the candidate's"
    return [Check("adapter-applied", not found.unapplied, detail)]
