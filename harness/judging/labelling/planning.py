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
from harness.records import Evidence, MetricSpec
from harness.runs import Entry
from harness.statistics.ppi import committed_draws, draw_probabilities

MAX_LABELS = 100_000

# How far a judgement may be off, as a share of what it could be: guesses, whose only effect is on the width. They are
# mild, because a confident judgement that is wrong after all is wrong by the most: for simulated judges that people
# agree with in 75 to 97 % of the decided pairs, these never widened the interval against uniform draws.
_DISAGREED, _TIED, _AGREED = 1.0, 0.7, 0.5
_SURE = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair that may be drawn: scored on both sides, with outputs that are not the same."""

    sample_id: str
    baseline: str
    candidate: str
    residual: float


def plan_labels(run: Path, suite: str, metric: str, n: int) -> LabelPlan:
    """The plan of a run for one metric, with at least `n` draws; made and stored on the first call.

    A later call with more draws extends it: the draws that were there stay, and so does what they were drawn from.

    Args:
        run: a run directory whose gate has ended.
        suite: name of a suite that a judge scored.
        metric: its metric.
        n: labels that will be made, fixed before the first of them; the same pair may be drawn again.

    Raises:
        UsageError: no such suite or metric, or `n` is not between 1 and 100,000.
        HoldError: no pair can be drawn, the judge has yet to see some, or the run has gone on since the plan was made.
        StorageError: a file of the run is missing or damaged.
    """
    if not 1 <= n <= MAX_LABELS:
        raise UsageError(f"labels: {n} must lie between 1 and {MAX_LABELS:,}")
    evidence = _judged(run, suite, metric)
    entries = [entry for entry in runs.read_entries(run) if entry.suite == suite]
    candidates = candidates_of(entries, evidence.metric)
    path = labelled.plan_path(run, suite, metric)
    if path.exists():
        return _extended(path, candidates, n)
    unseen = sum(not pair.asked for pair in evidence.pairs)
    if unseen:
        raise HoldError(
            f"{run}: the judge has yet to see {unseen} samples of {suite}; labels correct its mean over all of them. "
            "Repeat the gate first, with `labels` in the suite's section"
        )
    if not candidates:
        raise HoldError(
            f"{run}: {suite}/{metric} has no pair to label: none was judged on both sides with outputs that differ"
        )
    pairwise = any("pair" in entry.details.get(metric, {}) for entry in entries)
    return _store(path, _drawn(_made(run, evidence, candidates, pairwise=pairwise), n))


def judged_metrics(run: Path) -> dict[tuple[str, str], int]:
    """Every (suite, metric) of a run that a judge scored, with the labels that its guards ask for (0: none).

    Raises:
        StorageError: the manifest is missing or damaged.
    """
    manifest = runs.read_json(run / runs.MANIFEST)
    suites = manifest.get("suites", {})
    judged = [(name, str(said["judge"]["rubric"])) for name, said in suites.items() if "judge" in said]
    asked = [((g["suite"], g["metric"]), int(g.get("labels", 0))) for g in manifest.get("guards", ())]
    return {key: max((n for guard, n in asked if guard == key), default=0) for key in judged}


def candidates_of(entries: Iterable[Entry], spec: MetricSpec) -> list[Candidate]:
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
        residual = expected_residual(difference, spec.span, entry.details.get(spec.name, {}))
        digests = [labelled.digest_of_turns(side) for side in sides if side is not None]
        found.append(Candidate(entry.sample_id, digests[0], digests[1], residual))
    return found


def expected_residual(difference: float, span: float, details: Mapping[str, Any]) -> float:
    """A guess at the size of human minus judge, in score points; only ratios between pairs matter.

    A pair is the more doubtful the more the two orders or the jurors disagreed; a tie more than a preference; and two
    grades the more the nearer they are to each other, since a small difference is the one that a human may turn.

    Args:
        difference: candidate less baseline, as the judge has it.
        span: largest difference there can be.
        details: what the journal keeps of the judgements, turn by turn: `pair`, or `baseline` and `candidate`.
    """
    compared = _judgements(details, "pair")
    if compared:
        doubt = max(max(_orders(said), _split(said, 2.0)) for said in compared)
    else:
        closeness = 1.0 - (1.0 - _SURE) * min(1.0, abs(difference) / span)
        graded = [*_judgements(details, "baseline"), *_judgements(details, "candidate")]
        doubt = max([closeness, *(_split(said, span) for said in graded)])
    return span * doubt


def _judgements(details: Mapping[str, Any], side: str) -> list[Mapping[str, Any]]:
    return [said for said in details.get(side, ()) if isinstance(said, Mapping)]


def _orders(judgement: Mapping[str, Any]) -> float:
    """How doubtful a preference is, by whether both orders gave it."""
    orders = _within(judgement).get("orders")
    if isinstance(orders, Mapping) and len(set(_values(orders.values()))) > 1:
        return _DISAGREED
    return _AGREED if judgement.get("value") else _TIED


def _split(judgement: Mapping[str, Any], span: float) -> float:
    """How far the jurors are apart, as a share of the scale; 0 for a single judge."""
    values = _values(_within(judgement).get("jurors") or ())
    return min(1.0, (max(values) - min(values)) / span) if len(values) > 1 else 0.0


def _within(judgement: Mapping[str, Any]) -> Mapping[str, Any]:
    found = judgement.get("details")
    return found if isinstance(found, Mapping) else {}


def _values(said: Iterable[Any]) -> list[float]:
    """The values among what orders or jurors said; one without a value said nothing."""
    bare = [one.get("value") for one in said if isinstance(one, Mapping)]
    return [float(value) for value in bare if isinstance(value, int | float)]


def _judged(run: Path, suite: str, metric: str) -> Evidence:
    """What a run's evidence holds of a metric that a judge scored."""
    known = judged_metrics(run)
    if (suite, metric) not in known:
        near = nearest(f"{suite}/{metric}", (f"{s}/{m}" for s, m in known))
        raise UsageError(f"{run}: no judge scored {suite}/{metric} in this run: {near}")
    evidence = runs.read_evidence(run / runs.EVIDENCE)
    return next(e for e in evidence if (e.suite, e.metric.name) == (suite, metric))


# ---------------------------------------------------------------- plans


def _made(run: Path, evidence: Evidence, candidates: Sequence[Candidate], *, pairwise: bool) -> LabelPlan:
    """A plan without a draw. Its seed names what it draws from, besides the run."""
    weights = draw_probabilities(np.array([c.residual for c in candidates], dtype=np.float64))
    frame = tuple(
        FramePair(c.sample_id, float(q), c.baseline, c.candidate) for c, q in zip(candidates, weights, strict=True)
    )
    spec = evidence.metric
    seed = labelled.seed_of(runs.read_json(run / runs.MANIFEST), evidence.suite, spec.name, frame)
    return LabelPlan(evidence.suite, spec.name, seed, pairwise, spec.higher_is_better, spec.bounds, frame, (), ())


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
