"""From evidence to comparisons, from comparisons to the verdict. Pure: stored evidence can be decided again anywhere.

PROMOTE when every required guard passes at its α (an intersection–union test, so no correction is needed). BLOCK when
any guard that is required, or has a veto, is shown to have regressed; that side is tested at α/k over those k guards,
so that a candidate equal to its baseline is blocked with probability ≤ α in total. HOLD for everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness import words
from harness.correction import Judged, corrected
from harness.records import Check, Comparison, Decision, Estimand, Evidence, Guard, MetricSpec, Verdict
from harness.statistics.clustered import clustered_interval
from harness.statistics.paired import Flips, chance_centred_forgetting, flips, mcnemar_exact, paired_interval
from harness.statistics.power import smallest_detectable_drop
from harness.statistics.sequential import Design, Draws, SequentialResult, sequential_test

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Table:
    """One evidence as arrays over its n pairs in committed order, so that many guards can look at it cheaply.

    `change` (candidate less baseline) is NaN where the pair is not complete, `baseline` and `candidate` also where both
    are tied; `cluster` numbers the clusters by first appearance; `usable` is false for every member of a cluster of
    which any member has not been asked, because a cluster is bet on whole.
    """

    def __init__(self, evidence: Evidence) -> None:
        """Index `evidence`."""
        pairs = evidence.pairs
        self.metric = evidence.metric
        self.human = evidence.human
        self.ids = [pair.sample_id for pair in pairs]
        values = [pair.values or (math.nan, math.nan) for pair in pairs]
        self.baseline, self.candidate = np.array(values, dtype=float).reshape(-1, 2).T
        self.change = np.array([math.nan if (d := pair.difference) is None else d for pair in pairs], dtype=float)
        number: dict[str, int] = {}
        # A sample without a cluster is one of its own; "\0" keeps its key apart from any cluster's name.
        keys = [pair.cluster or f"\0{pair.sample_id}" for pair in pairs]
        self.cluster = np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)
        self.sizes = np.bincount(self.cluster, minlength=len(number))
        for name, size in evidence.sizes.items():
            self.sizes[number[name]] = size
        asked = np.array([pair.asked for pair in pairs], dtype=bool)
        unasked = np.bincount(self.cluster, weights=~asked, minlength=len(number)) > 0
        self.usable = ~unasked[self.cluster]
        self._by_tag: dict[str, list[int]] = {}
        for index, pair in enumerate(pairs):
            for tag in pair.tags:
                self._by_tag.setdefault(tag, []).append(index)

    def rows(self, tag: str | None) -> Ints:
        """Indices of the pairs in a slice, in order; all of them for None."""
        return np.arange(len(self.cluster)) if tag is None else np.array(self._by_tag.get(tag, []), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Observed:
    """What a guard has seen: complete pairs as arrays (score points), whole clusters as draws, and counts.

    `gains` is the oriented difference of every complete pair; `baseline` and `candidate` are NaN where it was tied.
    `rows` are the places of the complete pairs in the evidence. `weight` is the number of samples in all clusters that
    touch the guard's slice, asked or not: a cluster is drawn with probability in proportion to its whole size, whatever
    part of it lies in the slice. `largest` is the size of the largest of them: of all, because a bound that grew with
    what was seen would rescale the bets in hindsight.
    """

    gains: Floats
    baseline: Floats
    candidate: Floats
    cluster: Ints
    rows: Ints
    draws: Draws
    weight: int
    largest: int
    total: int
    asked: int

    @property
    def failed(self) -> int:
        """Pairs asked for that are not complete."""
        return self.asked - len(self.gains)

    @property
    def exhausted(self) -> bool:
        """Whether every sample of the slice was asked."""
        return self.asked == self.total


def decide(
    evidence: Sequence[Evidence], guards: Sequence[Guard], checks: Sequence[Check] = (), *, stopped: Sequence[str] = ()
) -> Verdict:
    """The verdict on all evidence so far.

    Args:
        evidence: one table per (suite, metric) that a guard names.
        guards: required and advisory ones; their order is kept within each group.
        checks: pre-flight checks; one that failed makes the verdict HOLD.
        stopped: reasons why the run ended other than by being decided (a budget, an interruption); they HOLD.
    """
    comparisons = tuple(compare_all(evidence, guards))
    verdict, reasons = _conclude(comparisons, [c for c in checks if not c.passed], stopped)
    return Verdict(verdict, reasons, comparisons, tuple(checks))


def compare_all(evidence: Sequence[Evidence], guards: Sequence[Guard]) -> Iterator[Comparison]:
    """One comparison a guard, required ones first."""
    tables = {(e.suite, e.metric.name): Table(e) for e in evidence}
    for guard in sorted(guards, key=lambda guard: not guard.required):
        yield compare(tables[guard.suite, guard.metric], guard, block_alpha=block_level(guard, guards))


def block_level(guard: Guard, guards: Sequence[Guard]) -> float:
    """Bonferroni level of "regressed": α over the number of guards of the same standing (those that block, or not)."""
    return guard.alpha / sum(other.decides == guard.decides for other in guards)


def compare(table: Table, guard: Guard, *, block_alpha: float) -> Comparison:
    """What the evidence says about one guard; `block_alpha` is the already corrected level of "regressed"."""
    seen = observe(table, guard.slice)
    result = _test(seen, guard, table.metric, block_alpha)
    comparison = _describe(seen, guard, table.metric, result)
    reason = _disqualified(seen, guard)
    if guard.labels and not reason:
        return corrected(comparison, _judged(table, seen), table.human, guard, block_alpha=block_alpha)
    return replace(comparison, outcome="undecided", reason=reason) if reason else comparison


def is_open(table: Table, guard: Guard, *, block_alpha: float) -> bool:
    """Whether asking more samples can still change what the guard says."""
    seen = observe(table, guard.slice)
    if seen.exhausted or seen.failed > guard.max_failures * seen.total:
        return False
    if guard.labels:  # people's labels correct the judge's mean over all samples, so the judge sees them all
        return True
    return bool(_disqualified(seen, guard)) or _test(seen, guard, table.metric, block_alpha).outcome == "undecided"


def stopping_point(table: Table, guard: Guard, *, block_alpha: float) -> int:
    """How many pairs, in order, a sequential run would have asked for before this guard was decided; all, if never.

    Where too many of those pairs failed to conclude anything, the run would have gone on to the end.
    """
    seen = observe(table, guard.slice)
    result = _test(replace(seen, total=seen.total + 1), guard, table.metric, block_alpha)  # one short of exhausted
    if result.decided_at is None:
        return len(table.cluster)
    stop = int(seen.draws.sizes[: result.decided_at].sum())
    asked = np.arange(len(table.cluster)) < stop
    failed = int(np.isnan(table.change[asked]).sum())
    return stop if failed <= guard.max_failures * stop else len(table.cluster)


def observe(table: Table, tag: str | None) -> Observed:
    """The asked part of a slice, with whole clusters as draws in the committed order."""
    rows = table.rows(tag)
    sizes = table.sizes[np.unique(table.cluster[rows])]
    asked = rows[table.usable[rows]]
    scored = asked[~np.isnan(table.change[asked])]
    # Clusters keep the order of their first appearance because they are numbered by it.
    drawn, place = np.unique(table.cluster[asked], return_inverse=True)
    sign = 1.0 if table.metric.higher_is_better else -1.0
    gain = sign * table.change[asked]
    complete = ~np.isnan(gain)
    draws = Draws(
        sums=np.bincount(place, weights=np.where(complete, gain, 0.0), minlength=len(drawn)).astype(np.float64),
        scored=np.bincount(place, weights=complete, minlength=len(drawn)).astype(np.int64),
        sizes=table.sizes[drawn],
    )
    whole = int(sizes.sum()), int(sizes.max(initial=1)), len(rows), len(asked)
    gains, cluster = sign * table.change[scored], table.cluster[scored]
    return Observed(gains, table.baseline[scored], table.candidate[scored], cluster, scored, draws, *whole)


def _judged(table: Table, seen: Observed) -> Judged:
    """The complete pairs of a guard as its correction reads them."""
    ids = tuple(table.ids[row] for row in seen.rows)
    return Judged(ids, seen.gains, seen.cluster, span=table.metric.span, left=seen.total - seen.asked)


def _test(seen: Observed, guard: Guard, metric: MetricSpec, block_alpha: float) -> SequentialResult:
    design = Design(
        margin=guard.tolerated,
        span=metric.span,
        estimand=guard.estimand,
        total=seen.weight,
        cluster_cap=max(seen.largest, guard.largest_cluster),
    )
    return sequential_test(seen.draws, design, alpha=guard.alpha, block_alpha=block_alpha, complete=seen.exhausted)


def _disqualified(seen: Observed, guard: Guard) -> str:
    """Why nothing may be concluded from what was seen, or an empty string."""
    if not len(seen.gains):
        return "no sample was scored on both sides" if seen.asked else "no sample was asked"
    if seen.failed > guard.max_failures * seen.asked:
        share = seen.failed / seen.asked
        return (
            f"{seen.failed} of {seen.asked} pairs failed ({share:.1%}), more than the {guard.max_failures:.1%} allowed"
        )
    return ""


def _describe(seen: Observed, guard: Guard, metric: MetricSpec, result: SequentialResult) -> Comparison:
    gains, valued = seen.gains, ~np.isnan(seen.baseline)
    used = len(gains)
    baseline, candidate = seen.baseline[valued], seen.candidate[valued]
    changed = flips(gains)
    stream = _population_interval(gains, seen.cluster, confidence=1 - 2 * guard.alpha)
    binary = bool(np.isin(np.concatenate([baseline, candidate]), metric.bounds).all())
    groups = len(np.unique(seen.cluster))
    resolved = smallest_detectable_drop(gains, seen.cluster, alpha=guard.alpha) if groups > 1 else None
    return Comparison(
        suite=guard.suite,
        metric=guard.metric,
        slice=guard.slice,
        estimand=guard.estimand,
        outcome=result.outcome,
        n=seen.total,
        n_used=used,
        n_failed=seen.failed,
        baseline_mean=float(baseline.mean()) if len(baseline) else None,
        candidate_mean=float(candidate.mean()) if len(candidate) else None,
        difference=float(gains.mean()) if used else None,
        interval=result.interval if used else None,
        margin=guard.margin,
        alpha=guard.alpha,
        lost=changed.lost,
        won=changed.won,
        required=guard.required,
        veto=guard.veto,
        must_improve=guard.must_improve,
        higher_is_better=metric.higher_is_better,
        bounds=metric.bounds,
        population_interval=stream,
        fragile=_fragile(guard.estimand, stream, guard.tolerated, result),
        forgetting=_forgetting(changed, used, metric) if binary and used else None,
        smallest_detectable_drop=resolved,
        # Its flips must be independent, which those of one cluster are not.
        mcnemar_p=mcnemar_exact(changed.lost, changed.won) if binary and seen.exhausted and groups == used else None,
        log_e_pass=_finite(result.log_e_pass),
        log_e_block=_finite(result.log_e_block),
        n_tied=used - len(baseline),
    )


def _forgetting(changed: Flips, used: int, metric: MetricSpec) -> float:
    return chance_centred_forgetting(changed.lost, changed.won, used, metric.chance)


def _population_interval(gains: Floats, clusters: Ints, *, confidence: float) -> tuple[float, float] | None:
    """Interval for a wider stream: Student's t, clustered where samples share a cluster; None below two clusters."""
    groups = len(np.unique(clusters))
    if groups < 2:
        return None
    if groups == len(clusters):
        interval = paired_interval(gains, confidence=confidence)
    else:
        interval = clustered_interval(gains, clusters, confidence=confidence)
    return interval.low, interval.high


def _fragile(
    estimand: Estimand, stream: tuple[float, float] | None, tolerated: float, result: SequentialResult
) -> bool:
    """A frozen verdict that another draw of samples from the same stream might not repeat."""
    if estimand != "frozen" or stream is None or result.outcome == "undecided":
        return False
    return stream[0] <= -tolerated < stream[1]


def _finite(log_e: float) -> float | None:
    """JSON has no infinity: None stands for a hypothesis that the data have made impossible."""
    return log_e if math.isfinite(log_e) else None


def _conclude(
    comparisons: Sequence[Comparison], failed: Sequence[Check], stopped: Sequence[str]
) -> tuple[Decision, tuple[str, ...]]:
    required = [c for c in comparisons if c.required]
    regressed = [c for c in comparisons if c.blocks]
    undecided = [c for c in required if c.outcome == "undecided"]
    if failed:
        return "hold", tuple(f"pre-flight check {c.name} failed: {c.detail}" for c in failed)
    if regressed:
        return "block", tuple(_sentence(c) for c in [*regressed, *undecided])
    if stopped or undecided or not required:
        nothing = () if required else ("no required guard: nothing could be shown",)
        return "hold", (*stopped, *(_sentence(c) for c in undecided), *nothing)
    return "promote", tuple(_sentence(c) for c in required)


def _sentence(comparison: Comparison) -> str:
    """One guard's outcome in words and numbers."""
    if comparison.reason:
        return f"{comparison.label} is undecided: {comparison.reason}"
    said = _WORDS[comparison.outcome, comparison.must_improve is not None]
    before, after = (words.mean(mean, comparison) for mean in (comparison.baseline_mean, comparison.candidate_mean))
    demand = ("tolerated: " if comparison.must_improve is None else "demanded: ") + words.margin(comparison)
    counts = f"{comparison.lost} lost, {comparison.won} won, {words.used(comparison)} samples used"
    return f"{comparison.label} {said}: {before} → {after}, {words.difference(comparison)} ({demand}; {counts})"


_WORDS = {
    ("pass", False): "did not regress",
    ("pass", True): "improved as demanded",
    ("regressed", False): "regressed",
    ("regressed", True): "did not improve as demanded",
    ("undecided", False): "is undecided",
    ("undecided", True): "is undecided",
}
