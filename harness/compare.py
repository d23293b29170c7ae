"""Decide from per-sample scores that were made elsewhere; needs the core install only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import policy
from harness.errors import DataError
from harness.records import Estimand, Evidence, Guard, MetricSpec, PairedScore, Score, Verdict, content_hash
from harness.scorefiles import Row, ScoreTable, read_scores
from harness.statistics.ordering import commit_order

_ABSENT = Score.failed("the sample is on the other side only")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a comparison is decided by; margin and bounds are in score points."""

    margin: float
    alpha: float = 0.05
    estimand: Estimand = "frozen"
    sequential: bool = False
    seed: int = 0
    bounds: tuple[float, float] = (0.0, 1.0)
    max_failures: float = 0.02
    metrics: Collection[str] = ()
    lower_is_better: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Compared:
    """The verdict, the evidence it rests on, and what was left out of the files and why."""

    verdict: Verdict
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...]


def compare_files(baseline: Path, candidate: Path, terms: Terms) -> Compared:
    """Pair two score files sample by sample and decide.

    Every (suite, metric) found in both is a required guard; slices are advisory. A sample on one side only is a
    failed pair.

    Raises:
        DataError: a file is wrong, the sides share no sample, or a score lies outside the bounds.
    """
    before, after = read_scores(baseline), read_scores(candidate)
    keys = _common_keys(before, after, terms)
    evidence = tuple(_pair(key, before, after, terms) for key in keys)
    guards = [guard for e in evidence for guard in _guards(e, terms)]
    if terms.sequential:
        evidence = tuple(_truncate(e, guards) for e in evidence)
    return Compared(policy.decide(evidence, guards), evidence, tuple(dict.fromkeys([*before.notes, *after.notes])))


def _common_keys(before: ScoreTable, after: ScoreTable, terms: Terms) -> list[tuple[str, str]]:
    for here, there in ((before, after), (after, before)):
        for suite, metric in here.rows:
            if (suite, metric) not in there.rows and _wanted(metric, terms):
                missing = f"{suite}/{metric} is not in {there.path}"
                raise DataError(f"{here.path}: {missing}; choose what both have with --metric")
    keys = [key for key in before.rows if _wanted(key[1], terms)]
    if not keys:
        known = ", ".join(sorted({metric for _, metric in before.rows}))
        raise DataError(f"{before.path}: no metric named {', '.join(terms.metrics)}; it has: {known}")
    return keys


def _wanted(metric: str, terms: Terms) -> bool:
    return not terms.metrics or metric in terms.metrics


def _pair(key: tuple[str, str], before: ScoreTable, after: ScoreTable, terms: Terms) -> Evidence:
    suite, name = key
    left, right = before.rows[key], after.rows[key]
    if not left.keys() & right.keys():
        files = f"{before.path} and in {after.path}"
        raise DataError(f"{suite}/{name}: no sample id is both in {files}; nothing can be paired")
    metric = MetricSpec(name, name not in terms.lower_is_better, terms.bounds)
    for row in (*left.values(), *right.values()):
        _check_bounds(row, metric)
    # Sorted, so that the order of the rows in a file cannot steer the order of the draws.
    identifiers = sorted(left.keys() | right.keys())
    pairs = [_pair_rows(i, left.get(i), right.get(i)) for i in identifiers]
    material = content_hash([suite, name, identifiers, terms.margin, terms.alpha, terms.estimand, terms.seed]).encode()
    clusters = [pair.cluster or f"\0{pair.sample_id}" for pair in pairs]
    clustered = clusters if len(set(clusters)) < len(pairs) else None
    order = commit_order(clustered, len(pairs), material, size_biased=terms.estimand == "frozen")
    return Evidence(suite, metric, tuple(pairs[i] for i in order))


def _check_bounds(row: Row, metric: MetricSpec) -> None:
    low, high = metric.bounds
    value = row.score.value
    if value is not None and not low <= value <= high:
        outside = f"score {value:g} is outside the bounds {low:g},{high:g}"
        raise DataError(f"{row.where}{outside}; state them with --bounds LO,HI")


def _pair_rows(identifier: str, left: Row | None, right: Row | None) -> PairedScore:
    if left and right:
        if left.digest and right.digest and left.digest != right.digest:
            raise DataError(f"{right.where}sample {identifier!r} is another document than at {left.place}")
        if left.cluster != right.cluster:
            raise DataError(f"{right.where}cluster {right.cluster!r}, but {left.cluster!r} at {left.place}")
    known = left or right
    assert known is not None  # noqa: S101 - an identifier comes from one side or the other
    slices = tuple(dict.fromkeys([*(left.slices if left else ()), *(right.slices if right else ())]))
    return PairedScore(
        identifier, known.cluster, slices, left.score if left else _ABSENT, right.score if right else _ABSENT
    )


def _guards(evidence: Evidence, terms: Terms) -> list[Guard]:
    whole = Guard(
        suite=evidence.suite,
        metric=evidence.metric.name,
        margin=terms.margin,
        alpha=terms.alpha,
        estimand=terms.estimand,
        max_failures=terms.max_failures,
    )
    tags = sorted({tag for pair in evidence.pairs for tag in pair.tags})
    return [whole, *(replace(whole, slice=tag, required=False) for tag in tags)]


def _truncate(evidence: Evidence, guards: Sequence[Guard]) -> Evidence:
    """The evidence as a sequential run would have left it: asked up to the draw at which the whole was decided."""
    guard = next(g for g in guards if (g.suite, g.metric, g.slice) == (evidence.suite, evidence.metric.name, None))
    stop = policy.stopping_point(policy.Table(evidence), guard, block_alpha=policy.block_level(guard, guards))
    unasked = (replace(pair, baseline=None, candidate=None) for pair in evidence.pairs[stop:])
    return replace(evidence, pairs=(*evidence.pairs[:stop], *unasked))
