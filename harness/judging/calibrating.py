"""Holds a judge against people's labels: κ, AUC, confusion and accuracy with intervals, whole and by slice

**Held out** are the labels whose rows do not say `split: dev`: neither the prompt nor the model was chosen by looking
at them. Nothing else is fitted to them either, but for a judge whose values are no levels of the rubric (a classifier,
a jury's mean): there a rising map from value to level is fitted to the other folds of the held-out labels, and applied
to the fold that it has not seen. So every figure is about items that no choice was made on. Items of one cluster, and
outputs of one sample, count as one draw in every interval.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import DataError
from harness.judging.calibration import CONFIDENCE, Agreement, Calibration, Figure
from harness.judging.labels import Item, LabelFile, Scale
from harness.judging.records import Case, Judge, Judgement, PairCase
from harness.judging.rubric import Rubric
from harness.statistics import agreement
from harness.statistics.clustered import clustered_interval
from harness.statistics.paired import Interval
from harness.statistics.proportions import proportion_lower_bound

_FOLDS = 10

Refuse = Callable[[str, Sequence[Judgement]], None]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def calibrate(
    judge: Judge,
    rubric: Rubric,
    file: LabelFile,
    items: Sequence[Item],
    *,
    folder: Path | None = None,
    cut: float | None = None,
    refuse: Refuse = lambda name, judgements: None,
) -> Calibration:
    """Ask the judge about every labelled item, and hold what it says against what people said.

    The judge remembers what it has said, so that repeating this costs nothing. What it fails on or abstains from is
    counted and is no score.

    Args:
        judge: the judge, of this rubric.
        rubric: what it applies.
        file: the labels.
        items: what they are about (`labels.items_of`), in any order.
        folder: where the calibration will be stored; the file of labels is named relative to it.
        cut: level from which an item counts as good, for the AUC; default: the first above the middle of the scale.
        refuse: sees the judge's name and all judgements first, and raises where the judge was not heard: what a server
            that was down did not say must not become a calibration.

    Raises:
        DataError: no item can be told, or `cut` is no level above the lowest.
    """
    scale = file.scale
    cut = _cut(scale, cut)
    told = [item for item in items if not _identical(item)]
    if not told:
        raise DataError(f"{file.path}: no label says anything of a judge: none is told, or all outputs are the same")
    told.sort(key=_order)
    said = _ask(judge, told)
    refuse(judge.name, said)
    rows = [_Row(item, j.value) for item, j in zip(told, said, strict=True) if j.value is not None]
    ours = [row for row in rows if row.item.held_out]
    states = [j.state for item, j in zip(told, said, strict=True) if item.held_out]
    measured = _Measured(scale, cut, file.digest)
    held = [item for item in told if item.held_out]
    return Calibration(
        rubric=rubric.name,
        judge=judge.name,
        fingerprint=judge.fingerprint,
        described=judge.describe(),
        labels=_relative(file.path, folder or file.path.parent),
        labels_digest=file.digest,
        pairwise=scale.pairwise,
        levels=scale.levels,
        cut=cut,
        held_out=len(held),
        scored=len(ours),
        failed=states.count("failed"),
        abstained=states.count("abstained"),
        untold=_untold(file, items),
        identical=len(items) - len(told),
        annotators=len({label.annotator for label in file.labels}),
        mapped=measured.needs_map(ours),
        whole=measured.of(ours),
        development=measured.of([row for row in rows if not row.item.held_out]),
        slices=measured.by_slice(ours),
        ceiling=_ceiling(held),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """An item that the judge gave a value."""

    item: Item
    value: float


@dataclass(frozen=True, slots=True)
class _Measured:
    """Makes figures of rows on one scale; folds are committed to by the digest of the labels."""

    scale: Scale
    cut: float
    digest: str

    def of(self, rows: Sequence[_Row]) -> Agreement | None:
        """The agreement on all rows; None where there is none."""
        return self._agreement(rows, self._levels(rows)) if rows else None

    def by_slice(self, rows: Sequence[_Row]) -> dict[str, Agreement]:
        """The agreement on each slice, with the map that was fitted to all rows."""
        judged = self._levels(rows)
        found = {}
        for name in sorted({name for row in rows for name in row.item.slices}):
            places = [i for i, row in enumerate(rows) if name in row.item.slices]
            found[name] = self._agreement([rows[i] for i in places], judged[places])
        return found

    def needs_map(self, rows: Sequence[_Row]) -> bool:
        """Whether the judge's values are something else than levels of the scale."""
        return any(row.value not in self.scale.levels for row in rows)

    def _levels(self, rows: Sequence[_Row]) -> Ints:
        """(n,) the place on the scale of what the judge said."""
        values = np.array([row.value for row in rows], dtype=np.float64)
        clusters = [_cluster(row.item) for row in rows]
        folds = min(_FOLDS, len(set(clusters)))
        if not self.needs_map(rows):
            return np.array([self.scale.levels.index(value) for value in values], dtype=np.int64)
        if folds < 2:  # nothing to fit a map to, and nothing to say either: the interval will be as wide as can be
            return np.array([self.scale.levels.index(self.scale.nearest(value)) for value in values], dtype=np.int64)
        placed = agreement.committed_folds(len(rows), folds, self.digest.encode(), cluster_of=clusters)
        return agreement.cross_fitted(values, self._human(rows), placed, levels=len(self.scale.levels))

    def _human(self, rows: Sequence[_Row]) -> Ints:
        """(n,) the place on the scale of what people said; of a mean, the nearest."""
        return np.array([self.scale.levels.index(self.scale.nearest(row.item.value)) for row in rows], dtype=np.int64)

    def _agreement(self, rows: Sequence[_Row], judged: Ints) -> Agreement:
        human, levels = self._human(rows), len(self.scale.levels)
        clusters = np.unique([_cluster(row.item) for row in rows], return_inverse=True)[1].astype(np.int64)

        def kappa(weights: agreement.Weights) -> Figure:
            estimate = agreement.cohen_kappa(human, judged, levels=levels, weights=weights)
            return _figure(
                estimate,
                clusters,
                lambda: agreement.kappa_interval(
                    human, judged, levels=levels, weights=weights, confidence=CONFIDENCE, clusters=clusters
                ),
            )

        table = agreement.confusion(human, judged, levels=levels)
        return Agreement(
            n=len(rows),
            accuracy=_share((human == judged).astype(np.float64), clusters),
            kappa=kappa("none"),
            quadratic_kappa=kappa("quadratic"),
            auc=self._auc(rows, human, clusters),
            confusion=tuple(tuple(int(count) for count in line) for line in table),
        )

    def _auc(self, rows: Sequence[_Row], human: Ints, clusters: Ints) -> Figure | None:
        values = np.array([row.value for row in rows], dtype=np.float64)
        kept = np.ones(len(rows), dtype=bool)
        if self.scale.pairwise:
            kept = human != self.scale.levels.index(0.0)  # a tie is neither kind
        positive = np.array(self.scale.levels)[human] >= self.cut
        values, positive, clusters = values[kept], positive[kept], clusters[kept]
        if not positive.any() or positive.all():
            return None
        return _figure(
            agreement.auc(values, positive),
            clusters,
            lambda: agreement.auc_interval(values, positive, confidence=CONFIDENCE, clusters=clusters),
        )


def _figure(estimate: float, clusters: Ints, interval: Callable[[], Interval]) -> Figure:
    """An estimate with its interval, which takes at least two clusters."""
    if len(np.unique(clusters)) < 2:
        return Figure(estimate=estimate)
    found = interval()
    return Figure(estimate=estimate, low=found.low, high=found.high)


def _share(right: Floats, clusters: Ints) -> Figure:
    """A share with its interval, which is at least as wide as the exact binomial one: all right is not surely right."""
    found = _figure(float(right.mean()), clusters, lambda: clustered_interval(right, clusters, confidence=CONFIDENCE))
    if found.low is None or found.high is None:
        return found
    hits, n, level = int(right.sum()), len(right), (1 + CONFIDENCE) / 2
    least = proportion_lower_bound(hits, n, confidence=level)
    most = 1.0 - proportion_lower_bound(n - hits, n, confidence=level)
    return Figure(estimate=found.estimate, low=max(0.0, min(found.low, least)), high=min(1.0, max(found.high, most)))


def _ask(judge: Judge, items: Sequence[Item]) -> list[Judgement]:
    """One judgement an item, in order."""
    if judge.pairwise:
        return judge.compare([item.case for item in items if isinstance(item.case, PairCase)])
    return judge.grade([item.case for item in items if isinstance(item.case, Case)])


def _cut(scale: Scale, given: float | None) -> float:
    """The lowest level that counts as good."""
    middle = (scale.levels[0] + scale.levels[-1]) / 2
    chosen = next(level for level in scale.levels if level > middle) if given is None else given
    if chosen not in scale.levels[1:]:
        known = ", ".join(f"{level:g}" for level in scale.levels[1:])
        raise DataError(f"cut: {chosen:g} must be a level above the lowest: {known}")
    return chosen


def _identical(item: Item) -> bool:
    """Whether a pair shows the same output twice, so that no judge is asked."""
    case = item.case
    return isinstance(case, PairCase) and (case.first.output, case.first.answers) == (
        case.second.output,
        case.second.answers,
    )


def _untold(file: LabelFile, items: Sequence[Item]) -> int:
    """Items that somebody was shown and nobody could tell."""
    shown = {(label.sample_id, tuple(sorted(label.outputs))) for label in file.labels}
    return len(shown) - len(items)


def _order(item: Item) -> tuple[str, str]:
    return item.sample_id, item.case.key


def _cluster(item: Item) -> str:
    """What an item stands or falls with: its cluster, or the other outputs of its sample."""
    return f"c {item.cluster}" if item.cluster else f"s {item.sample_id}"


def _ceiling(items: Sequence[Item]) -> Figure | None:
    """Krippendorff's α between people on the items that several of them told; None where there is none."""
    shared = [item for item in items if len(item.by_annotator) > 1]
    if not shared:
        return None
    people = sorted({name for item in shared for name in item.by_annotator})
    ratings = np.array([[item.by_annotator.get(name, np.nan) for item in shared] for name in people])
    clusters = np.unique([_cluster(item) for item in shared], return_inverse=True)[1].astype(np.int64)
    estimate = agreement.krippendorff_alpha(ratings, level="ordinal")
    return _figure(
        estimate,
        clusters,
        lambda: agreement.alpha_interval(ratings, level="ordinal", confidence=CONFIDENCE, clusters=clusters),
    )


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
