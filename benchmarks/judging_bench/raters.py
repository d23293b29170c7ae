"""Tables about agreement: who is admitted by κ's lower bound, and how often lower bounds lie above the truth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from benchmarks.judging_bench.worlds import GRADES
from benchmarks.validity import Rate, Report, say, table
from harness.statistics.agreement import (
    Weights,
    alpha_interval,
    auc_interval,
    kappa_interval,
    krippendorff_alpha,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LABELS = (100, 200, 300)
NEEDED_KAPPA = 0.4


def rate(said: Sequence[bool]) -> Rate:
    """Share of runs."""
    return Rate(float(np.mean(said)), len(said))


@dataclass(frozen=True, slots=True)
class Raters:
    """A judge and a human of whom the true κ can be set; clusters copy a common pair of ratings in 3 of 5 members."""

    name: str
    share: tuple[float, ...]
    weights: Weights = "none"
    cluster: int = 1

    @property
    def cost(self) -> Floats:
        """(levels, levels) weight of each disagreement."""
        places = np.arange(len(self.share))
        apart = np.abs(places[:, None] - places)
        return (apart > 0).astype(float) if self.weights == "none" else apart**2 / (len(self.share) - 1) ** 2

    def joint(self, kappa: float) -> Floats:
        """(levels, levels) probabilities of human and judge, found by bisection over how well the judge sees."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if self._kappa(self._seen(middle)) < kappa else (low, middle)
        return self._seen(low)

    def _seen(self, sight: float) -> Floats:
        share, places = np.array(self.share), np.arange(len(self.share))
        if self.weights == "none":
            return sight * np.diag(share) + (1 - sight) * np.outer(share, share)
        near = np.exp(-4 * sight * np.abs(places[:, None] - places)) * share
        return share[:, None] * near / near.sum(axis=1, keepdims=True)

    def _kappa(self, joint: Floats) -> float:
        return float(1 - np.sum(self.cost * joint) / (joint.sum(axis=1) @ self.cost @ joint.sum(axis=0)))

    def draw(self, joint: Floats, n: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints | None]:
        """n items: human, judge, clusters."""
        levels, flat = len(self.share), joint.ravel() / joint.sum()
        both = rng.choice(levels**2, n, p=flat)
        if self.cluster == 1:
            return both // levels, both % levels, None
        clusters = np.arange(n) // self.cluster
        common = rng.choice(levels**2, n, p=flat)[clusters]
        both = np.where(rng.random(n) < 0.6, common, both)
        return both // levels, both % levels, clusters


RATERS = (
    Raters("κ, three outcomes", (0.35, 0.3, 0.35)),
    Raters("κ, one in ten bad", (0.9, 0.1)),
    Raters("quadratic κ, five levels", GRADES, "quadratic"),
    Raters("κ, three outcomes, clusters of 5", (0.35, 0.3, 0.35), cluster=5),
)


def admission_table(report: Report) -> str:
    """How often "κ's lower bound is at least 0.4" admits a judge, just below the line and above it."""
    head = ["raters", "labels", "true κ 0.39: admitted", "the same at a one-sided 95 %"]
    head += [f"true κ {kappa}: admitted" for kappa in (0.5, 0.6, 0.7)]
    rows = []
    for raters in RATERS:
        for n in LABELS:
            false, loose = (admitted(raters, 0.39, n, level, report) for level in (0.95, 0.90))
            report.hold(f"admission, {raters.name}, {n}", false)
            right = [admitted(raters, kappa, n, 0.95, report) for kappa in (0.5, 0.6, 0.7)]
            rows.append(say([raters.name, str(n), str(false), str(loose), *(f"{r.value:.2f}" for r in right)]))
    return table(head, rows)


def admitted(raters: Raters, kappa: float, n: int, confidence: float, report: Report) -> Rate:
    """Share of runs whose lower end is at least what the policy asks for by default."""
    joint, levels, lows = raters.joint(kappa), len(raters.share), []
    for _ in range(report.runs):
        human, judge, clusters = raters.draw(joint, n, report.rng)
        found = kappa_interval(
            human, judge, levels=levels, weights=raters.weights, confidence=confidence, clusters=clusters
        )
        lows.append(found.low >= NEEDED_KAPPA)
    return rate(lows)


def bounds_table(report: Report) -> str:
    """How often the lower bound at 95 % lies above the truth: it should in 5 % of runs, or less."""
    rows = []
    for raters in RATERS:
        for kappa in (0.4, 0.6, 0.8):
            rows.append(
                say([raters.name, f"{kappa:.1f}", *(str(above_kappa(raters, kappa, n, report)) for n in LABELS)])
            )
    for share, truth in itertools.product((0.3, 0.1), (0.7, 0.8, 0.9)):
        cells = [str(above_auc(share, truth, n, report)) for n in LABELS]
        rows.append(say([f"AUC, {share:.0%} positive", f"{truth}", *cells]))
    for skill in (0.65, 0.8):
        rows.append(say(alpha_row(skill, report)))
    return table(["coefficient", "truth", *(f"{n} items" for n in LABELS)], rows)


def above_kappa(raters: Raters, kappa: float, n: int, report: Report) -> Rate:
    """Of κ."""
    joint, levels, missed = raters.joint(kappa), len(raters.share), []
    for _ in range(report.runs):
        human, judge, clusters = raters.draw(joint, n, report.rng)
        found = kappa_interval(human, judge, levels=levels, weights=raters.weights, confidence=0.9, clusters=clusters)
        missed.append(found.low > kappa)
    return rate(missed)


def above_auc(share: float, truth: float, n: int, report: Report) -> Rate:
    """Of the AUC of two normal distributions."""
    apart, missed = float(ndtri(truth)) * 2**0.5, []
    for _ in range(report.runs):
        positive = np.arange(n) < share * n
        scores = report.rng.normal(np.where(positive, apart, 0.0))
        missed.append(auc_interval(scores, positive, confidence=0.9).low > truth)
    return rate(missed)


def alpha_row(skill: float, report: Report) -> list[str]:
    """Of ordinal α for three jurors, one rating of six missing; the truth is that of a very long table."""
    truth = krippendorff_alpha(jury(skill, 100_000, report.rng), level="ordinal")
    runs, cells = max(report.runs // 4, 1), []
    for n in LABELS:
        tables = (jury(skill, n, report.rng) for _ in range(runs))
        cells.append(str(rate([alpha_interval(t, level="ordinal", confidence=0.9).low > truth for t in tables])))
    return ["ordinal α, three jurors", f"{truth:.2f}", *cells]


def jury(skill: float, n: int, rng: np.random.Generator) -> Floats:
    """(3, n) grades."""
    levels = np.arange(1.0, 6.0)
    truth = rng.choice(levels, n, p=GRADES)
    ratings = np.where(rng.random((3, n)) < skill, truth, rng.choice(levels, (3, n), p=GRADES))
    return np.where(rng.random((3, n)) < 1 / 6, np.nan, ratings)
