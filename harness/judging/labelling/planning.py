"""Which pairs of a stored run people should look at: more often those on which the judge may be wrong

The corrected interval is narrow where labels are spent on the pairs for which human and judge may differ. Whatever is
guessed here, the interval stays valid (`harness.statistics.ppi`), since every pair's probability is known. The draws
are committed to before the first label: their seed is a hash of the run's manifest, and the plan is on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness import labelled, runs
from harness.errors import HoldError, UsageError, nearest
from harness.judging.labelling.texts import texts_of
from harness.labelled import FramePair, LabelPlan
from harness.records import MetricSpec, content_hash
from harness.runs import Entry
from harness.statistics.ppi import committed_draws, draw_probabilities

JUDGEMENTS = "judgements.jsonl"
MAX_LABELS = 100_000

# How far a judgement may be off, as a share of what it could be: guesses, whose only effect is on the width.
_DISAGREED, _TIED, _AGREED = 1.0, 0.6, 0.3
_SURE = 0.3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that may be drawn: scored on both sides, with outputs that are not the same."""

    sample_id: str
    baseline: str
    candidate: str
    residual: float


def plan_labels(run: Path, suite: str, metric: str, n: int, *, pairwise: bool | None = None) -> LabelPlan:
    """The plan of a run for one metric, with at least `n` draws; made and stored on the first call.

    A later call with more draws extends it: the draws that were there stay, and so does what they were drawn from.

    Args:
        run: a run directory whose gate has ended.
        suite: name of the suite.
        metric: one of its metrics.
        n: labels that will be made, fixed before the first of them; the same pair may be drawn again.
        pairwise: whether the judge compares two outputs; None takes it from the run's judgements.

    Raises:
        UsageError: no such suite or metric, or `n` is not between 1 and 100,000.
        HoldError: no pair can be drawn, or the run has gone on since the plan was made.
        StorageError: a file of the run is missing or damaged.
    """
    if not 1 <= n <= MAX_LABELS:
        raise UsageError(f"labels: {n} must lie between 1 and {MAX_LABELS:,}")
    spec = judged_metric(run, suite, metric)
    said = read_judgements(run, suite, metric)
    compared = any("pair" in line for line in said.values()) if pairwise is None else pairwise
    candidates = candidates_of((e for e in runs.read_entries(run) if e.suite == suite), spec, said)
    path = labelled.plan_path(run, suite, metric)
    if path.exists():
        return _extended(path, candidates, n)
    if not candidates:
        raise HoldError(
            f"{run}: {suite}/{metric} has no pair to label: none was judged on both sides with outputs that differ"
        )
    plan = _made(run, spec, suite, candidates, compared)
    return _store(path, _drawn(plan, n))


def judged_metric(run: Path, suite: str, metric: str) -> MetricSpec:
    """What a run's evidence says of a metric.

    Raises:
        UsageError: it has no such suite or metric; the nearest is named.
        StorageError: the run has no evidence, since its gate did not end.
    """
    known = {(e.suite, e.metric.name): e.metric for e in runs.read_evidence(run / runs.EVIDENCE)}
    if (suite, metric) not in known:
        near = nearest(f"{suite}/{metric}", (f"{s}/{m}" for s, m in known))
        raise UsageError(f"{run}: this run has no {suite}/{metric}: {near}")
    return known[suite, metric]


def read_judgements(run: Path, suite: str, metric: str) -> dict[str, dict[str, Any]]:
    """What the judge said, by sample, in the suite's own lines; empty where the run has no such file."""
    path = run / JUDGEMENTS
    if not path.exists():
        return {}
    rows = (row for _, row in labelled.read_rows(path))
    return {str(row.get("sample")): row for row in rows if (row.get("suite"), row.get("metric")) == (suite, metric)}


def judged_metrics(run: Path) -> list[tuple[str, str]]:
    """Every (suite, metric) that a judge has scored in this run, in the order of their first judgement."""
    path = run / JUDGEMENTS
    if not path.exists():
        return []
    return list(dict.fromkeys((str(row.get("suite")), str(row.get("metric"))) for _, row in labelled.read_rows(path)))


def candidates_of(
    entries: Iterable[Entry], spec: MetricSpec, judgements: Mapping[str, Mapping[str, Any]]
) -> list[Candidate]:
    """The pairs that may be drawn, in the order of the journal.

    Left out are pairs that the judge failed on, which are no part of its mean, and identical outputs, whose difference
    is known to be 0.
    """
    found = []
    for entry in entries:
        scores = entry.scores.get(spec.name)
        sides = [texts_of(side) for side in (entry.baseline, entry.candidate)]
        if scores is None or None in (scores[0].value, scores[1].value) or None in sides or sides[0] == sides[1]:
            continue
        difference = float(scores[1].value or 0.0) - float(scores[0].value or 0.0)
        residual = expected_residual(difference, spec.span, judgements.get(entry.sample_id, {}))
        digests = [labelled.digest_of_turns(side) for side in sides if side is not None]
        found.append(Candidate(entry.sample_id, digests[0], digests[1], residual))
    return found


def expected_residual(difference: float, span: float, judgement: Mapping[str, Any]) -> float:
    """A guess at the size of human minus judge, in score points; only ratios between pairs matter.

    A pair is the more doubtful the more the two orders or the jurors disagreed; a tie more than a preference; and two
    grades the more the nearer they are to each other, since a small difference is the one that a human may turn.
    """
    pair = judgement.get("pair")
    if isinstance(pair, Mapping):
        doubt = max(_orders(pair, difference), _split(pair, 2.0))
    else:
        sides = [side for arm in ("baseline", "candidate") if isinstance(side := judgement.get(arm), Mapping)]
        closeness = 1.0 - (1.0 - _SURE) * min(1.0, abs(difference) / span)
        doubt = max([closeness, *(_split(side, span) for side in sides)])
    return span * doubt


def _orders(pair: Mapping[str, Any], difference: float) -> float:
    """How doubtful a preference is, by whether both orders gave it."""
    orders = _details(pair).get("orders") or ()
    values = _values(orders.values() if isinstance(orders, Mapping) else orders)
    if len(set(values)) > 1:
        return _DISAGREED
    return _AGREED if difference else _TIED


def _split(judgement: Mapping[str, Any], span: float) -> float:
    """How far the jurors are apart, as a share of the scale; 0 for a single judge."""
    values = _values(_details(judgement).get("jurors") or ())
    return min(1.0, (max(values) - min(values)) / span) if len(values) > 1 else 0.0


def _details(judgement: Mapping[str, Any]) -> Mapping[str, Any]:
    details = judgement.get("details")
    return details if isinstance(details, Mapping) else {}


def _values(said: Iterable[Any]) -> list[float]:
    """The numbers among what orders or jurors said, be it a number or an object with a value."""
    bare = [one.get("value") if isinstance(one, Mapping) else one for one in said]
    return [float(value) for value in bare if isinstance(value, int | float)]


# ---------------------------------------------------------------- plans


def _made(run: Path, spec: MetricSpec, suite: str, candidates: Sequence[Candidate], pairwise: bool) -> LabelPlan:
    """A plan without a draw. Its seed names what it draws from, besides the run."""
    weights = draw_probabilities(np.array([c.residual for c in candidates], dtype=np.float64))
    frame = tuple(
        FramePair(c.sample_id, float(q), c.baseline, c.candidate) for c, q in zip(candidates, weights, strict=True)
    )
    manifest = content_hash(runs.read_json(run / runs.MANIFEST))
    seed = content_hash([manifest, suite, spec.name, [[p.sample_id, p.probability] for p in frame]])
    return LabelPlan(suite, spec.name, seed, pairwise, spec.higher_is_better, spec.bounds, frame, (), ())


def _drawn(plan: LabelPlan, n: int) -> LabelPlan:
    """The plan with `n` draws in all."""
    probabilities = np.array([pair.probability for pair in plan.frame])
    draws = tuple(int(index) for index in committed_draws(probabilities, n, plan.seed.encode()))
    if draws[: len(plan.draws)] != plan.draws:
        raise HoldError(f"{plan.suite}/{plan.metric}: the draws of the plan are not those of its seed; it was changed")
    return replace(plan, draws=draws, planned=(*plan.planned, n))


def _extended(path: Path, candidates: Sequence[Candidate], n: int) -> LabelPlan:
    """The stored plan, with further draws where `n` asks for more."""
    plan = labelled.read_plan(path)
    now = {(c.sample_id, c.baseline, c.candidate) for c in candidates}
    then = {(p.sample_id, p.baseline, p.candidate) for p in plan.frame}
    if now != then:
        raise HoldError(
            f"{path}: the run has gone on since this plan was made: {len(now - then)} pairs are new and "
            f"{len(then - now)} are gone. Move the plan away and label again; answers to pairs drawn again still hold"
        )
    return plan if n <= len(plan.draws) else _store(path, _drawn(plan, n))


def _store(path: Path, plan: LabelPlan) -> LabelPlan:
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(path, plan.as_json())
    return plan
