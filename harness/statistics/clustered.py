"""Intervals when samples come in groups that stand or fall together."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from harness.statistics.paired import Interval, t_interval


def clustered_interval(
    differences: npt.NDArray[np.float64], clusters: npt.NDArray[np.int64], *, confidence: float
) -> Interval:
    """Interval for the mean with cluster-robust standard error, and Student's t with G − 1 degrees of freedom.

    Args:
        differences: (n,) paired differences.
        clusters: (n,) integer label of each sample's cluster; at least two clusters.
        confidence: two-sided level, e.g. 0.95.
    """
    error, groups = clustered_error(differences, clusters)
    return t_interval(float(np.mean(differences)), error, groups - 1, confidence)


def clustered_error(values: npt.NDArray[np.float64], clusters: npt.NDArray[np.int64]) -> tuple[float, int]:
    """Standard error of the mean of values in clusters, both (n,), and the number G of clusters.

    SE² = G/(G−1) · Σ_c (Σ_{i∈c} (d_i − d̄))² / n² (Miller 2024, arXiv 2411.00640, equation 4, with the finite-cluster
    factor G/(G−1)).
    """
    _, place = np.unique(clusters, return_inverse=True)
    groups = int(place.max(initial=-1)) + 1
    if groups < 2:
        raise ValueError(f"a clustered interval needs at least two clusters, not {groups}")
    sums = np.bincount(place, weights=values - np.mean(values))
    return math.sqrt(groups / (groups - 1) * float(np.sum(sums**2))) / len(values), groups
