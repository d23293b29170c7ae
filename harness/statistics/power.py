"""What a set can show before it is asked: by simulating the very test that will decide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.records import Estimand
from harness.statistics.betting import guessed_gap, log_wealth
from harness.statistics.clustered import clustered_error

Floats = npt.NDArray[np.float64]

_POWER = 0.8
_BATCH = 150_000  # draws simulated at a time: few enough for the arrays to stay near the processor


@dataclass(frozen=True, slots=True)
class Plan:
    """Answers for one guard. Rates and shares lie in [0, 1]; drops are in score points.

    The three rates and the shares are for the true difference that was asked about. `aa_block_rate` is the chance
    that a candidate equal to the baseline is blocked, `detectable_drop` the drop that is blocked in 80 % of runs
    (None: no drop that this flip rate allows is). `error` is the Monte-Carlo standard error of a rate of one half.
    """

    n: int
    margin: float
    pass_rate: float
    block_rate: float
    undecided_rate: float
    mean_share: float
    share_90: float
    aa_block_rate: float
    detectable_drop: float | None
    fewest_samples: int
    error: float


@dataclass(frozen=True, slots=True)
class Setting:
    """A guard to simulate: N samples, of which a share `flip_rate` changes its score, in clusters of equal size.

    Where sets are drawn elsewhere and their clusters differ, `cluster_size` is the largest.
    """

    n: int
    flip_rate: float
    margin: float
    alpha: float
    block_alpha: float
    estimand: Estimand
    cluster_size: int = 1


@dataclass(frozen=True, slots=True)
class Outcomes:
    """(R,) per run: passed, regressed (both false: undecided), and the share of samples used."""

    passed: npt.NDArray[np.bool_]
    regressed: npt.NDArray[np.bool_]
    share: Floats


def plan(
    n: int,
    flip_rate: float,
    margin: float,
    alpha: float = 0.05,
    *,
    estimand: Estimand,
    cluster_size: int = 1,
    guards: int = 1,
    true_difference: float = 0.0,
    runs: int = 400,
    rng: np.random.Generator,
) -> Plan:
    """Simulate one of `guards` required guards on a metric of 0 and 1.

    Raises:
        ValueError: the true difference is larger than the flip rate allows.
    """
    setting = Setting(n, flip_rate, margin, alpha, alpha / guards, estimand, cluster_size)
    asked = simulate(setting, true_difference, runs, rng)
    equal = asked if true_difference == 0 else simulate(setting, 0.0, runs, rng)
    return Plan(
        n=n,
        margin=margin,
        pass_rate=float(asked.passed.mean()),
        block_rate=float(asked.regressed.mean()),
        undecided_rate=float((~asked.passed & ~asked.regressed).mean()),
        mean_share=float(asked.share.mean()),
        share_90=float(np.quantile(asked.share, 0.9)),
        aa_block_rate=float(equal.regressed.mean()),
        detectable_drop=_detectable_drop(setting, max(100, runs // 4), rng),
        fewest_samples=fewest_samples(n, margin, alpha, estimand),
        error=0.5 / math.sqrt(runs),
    )


def smallest_detectable_drop(differences: Floats, clusters: npt.NDArray[np.int64], *, alpha: float) -> float:
    """Drop that n paired differences of this spread would show with 80 % power at a one-sided level α, score points.

    (z_{1−α} + z_{0.8}) standard errors, by clusters (Miller 2024, arXiv 2411.00640, sections 2.2 and 5): the scale of
    what so many samples can resolve of the stream that they came from, whichever test is used. `differences` and
    `clusters`, the label of each one's cluster, are (n,) with at least two clusters.
    """
    from scipy.special import ndtri

    return float(ndtri(1 - alpha) + ndtri(_POWER)) * clustered_error(differences, clusters)[0]


def fewest_samples(n: int, margin: float, alpha: float, estimand: Estimand) -> int:
    """Samples after which the set can pass at the earliest: when no score at all changes."""
    ones = np.ones(n)
    total = float(n) if estimand == "frozen" else None
    path = log_wealth(np.zeros(n), ones, ones, -margin, gap=guessed_gap(margin), total=total, cap=1.0)
    return min(int(_first(path[None], alpha)[0]) + 1, n)


def simulate(setting: Setting, true_difference: float, runs: int, rng: np.random.Generator) -> Outcomes:
    """Run the sequential test on `runs` random sets; frozen ones hold exactly the difference that is asked for."""
    if abs(true_difference) > setting.flip_rate + 1e-12:
        raise ValueError(f"a difference of {true_difference:g} needs more flips than {setting.flip_rate:g}")
    size = max(1, _BATCH // setting.n)
    parts = [_simulate_some(setting, true_difference, min(size, runs - i), rng) for i in range(0, runs, size)]
    return Outcomes(
        np.concatenate([p.passed for p in parts]),
        np.concatenate([p.regressed for p in parts]),
        np.concatenate([p.share for p in parts]),
    )


def draw_sets(setting: Setting, true_difference: float, runs: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(sums, sizes), each (runs, T): differences of T clusters in random order.

    All members of a cluster change together, the worst case. A frozen set has the same lost and won in every run, to
    the nearest cluster, never better than asked; a population draws each cluster anew.
    """
    clusters = max(1, setting.n // setting.cluster_size)
    lost, won = (setting.flip_rate - true_difference) / 2, (setting.flip_rate + true_difference) / 2
    if setting.estimand == "population":
        u = rng.random((runs, clusters))
        signs = np.where(u < lost, -1.0, np.where(u < lost + won, 1.0, 0.0))
    else:
        down, up = math.ceil(lost * clusters - 1e-9), math.floor(won * clusters + 1e-9)
        row = np.concatenate([-np.ones(down), np.ones(up), np.zeros(clusters - down - up)])
        signs = rng.permuted(np.tile(row, (runs, 1)), axis=1)
    return signs * setting.cluster_size, np.broadcast_to(float(setting.cluster_size), (runs, clusters))


def decide_sets(setting: Setting, sums: Floats, sizes: Floats) -> Outcomes:
    """Outcomes of R sets, each (R, T) in drawing order; all sets of a frozen setting have the same size.

    Most runs are decided early, so the first eighth of the draws is tried before the rest is computed.
    """
    at = np.full((2, len(sums)), sums.shape[1])  # where each side first reached its threshold; T: nowhere
    waiting = np.arange(len(sums))
    for width in (max(1, sums.shape[1] // 8), sums.shape[1]):
        at[:, waiting] = _crossings(setting, sums[waiting], sizes[waiting], width)
        waiting = waiting[(at[:, waiting] == sums.shape[1]).all(axis=0)]
    passed, regressed = at[0] < at[1], (at[1] <= at[0]) & (at[1] < sums.shape[1])
    last = np.minimum(at.min(axis=0), sums.shape[1] - 1)
    drawn = np.cumsum(sizes, axis=1)
    share = drawn[np.arange(len(sums)), last] / drawn[:, -1]
    if setting.estimand == "frozen":
        above = sums.sum(axis=1) > -setting.margin * drawn[:, -1] + 1e-12 * drawn[:, -1]
        full = last == sums.shape[1] - 1
        passed, regressed = np.where(full, above, passed), np.where(full, ~above, regressed)
    return Outcomes(passed, regressed, share)


def _simulate_some(setting: Setting, true_difference: float, runs: int, rng: np.random.Generator) -> Outcomes:
    return decide_sets(setting, *draw_sets(setting, true_difference, runs, rng))


def _crossings(setting: Setting, sums: Floats, sizes: Floats, width: int) -> npt.NDArray[np.int64]:
    """(2, R) index of the draw at which pass and block first reach their thresholds within `width` draws; else T."""
    total = float(sizes[0].sum()) if setting.estimand == "frozen" and len(sizes) else None
    head, weight = sums[:, :width], sizes[:, :width]
    levels = {1: setting.alpha, -1: setting.block_alpha}
    first = np.full((2, len(sums)), sums.shape[1])
    for row, (side, level) in enumerate(levels.items()):
        path = log_wealth(
            side * head,
            weight,
            weight,
            -side * setting.margin,
            gap=guessed_gap(setting.margin),
            total=total,
            cap=float(setting.cluster_size),
        )
        at = _first(path, level)
        first[row] = np.where(at < width, at, sums.shape[1])
    return first


def _first(path: Floats, level: float) -> npt.NDArray[np.int64]:
    """(R,) index of the first crossing; T where there is none."""
    crossed = path >= -math.log(level)
    first: npt.NDArray[np.int64] = np.where(crossed.any(axis=1), crossed.argmax(axis=1), path.shape[1])
    return first


def _detectable_drop(setting: Setting, runs: int, rng: np.random.Generator) -> float | None:
    """Bisection over the true drop; the same random numbers for every drop make the search monotone."""
    seed = int(rng.integers(2**32))

    def blocked(drop: float) -> float:
        flips = max(setting.flip_rate, drop)  # a drop needs at least as many flips
        there = Setting(
            setting.n, flips, setting.margin, setting.alpha, setting.block_alpha, setting.estimand, setting.cluster_size
        )
        return float(simulate(there, -drop, runs, np.random.default_rng(seed)).regressed.mean())

    low, high = max(setting.margin, 0.0), 1.0
    if blocked(high) < _POWER:
        return None
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if blocked(middle) >= _POWER else (middle, high)
    return high
