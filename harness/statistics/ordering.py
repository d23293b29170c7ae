"""The order in which samples are asked, fixed by a hash before any output exists."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def commit_order(cluster_of: Sequence[str] | None, n: int, seed_material: bytes, *, size_biased: bool) -> list[int]:
    """A permutation of range(n) that anyone can compute again from `seed_material`.

    Clusters stay together, their members in the order given. With `size_biased` a cluster comes next with probability
    in proportion to its size among those left (successive sampling; keys of Efraimidis & Spirakis 2006: the arrival
    times of exponential clocks that run at rate size); otherwise all orders of clusters are equally likely.

    Args:
        cluster_of: the cluster of every sample, or None when each stands alone.
        n: number of samples.
        seed_material: what the order is committed to; its SHA-256 seeds the generator.
        size_biased: see above; without clusters it makes no difference.

    Raises:
        ValueError: `cluster_of` does not name the cluster of every sample.
    """
    if cluster_of is not None and len(cluster_of) != n:
        raise ValueError(f"{len(cluster_of)} clusters named for {n} samples")
    members: dict[str, list[int]] = {}
    for index in range(n):
        members.setdefault(str(index) if cluster_of is None else cluster_of[index], []).append(index)
    groups = list(members.values())
    rates = np.array([len(group) for group in groups], dtype=float) if size_biased else np.ones(len(groups))
    # The generator's raw words, because NumPy promises only those to be the same in every version.
    words = np.random.PCG64(int.from_bytes(hashlib.sha256(seed_material).digest(), "big")).random_raw(len(groups))
    arrival = -np.log(((words >> np.uint64(11)) + 0.5) * 2.0**-53) / rates
    return [index for place in np.argsort(arrival, kind="stable") for index in groups[place]]
