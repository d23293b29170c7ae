"""A validation split that shares no cluster of near-duplicates with training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.training.data.mixing import order


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of each side, in their old order; `wanted` is how many validation rows were asked for."""

    train: list[int]
    validation: list[int]
    wanted: int


def split(
    rows: Sequence[int], cluster: Callable[[int], int], digest: Callable[[int], bytes], share: float, seed: int
) -> Split:
    """Put whole clusters aside until `share` of the rows is, or as near below it as clusters allow.

    The clusters come in an order that the seed and their content decide, so that it does not matter in which order the
    rows come; those that are too large for what is still wanted are passed over. A positive share asks for one row at
    least, as long as two are there.
    """
    wanted = min(max(round(share * len(rows)), 1), len(rows) - 1) if share > 0 and len(rows) > 1 else 0
    members: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        members[cluster(row)].append(row)
    least = {key: min(digest(row) for row in group) for key, group in members.items()} if wanted else {}
    aside: set[int] = set()
    for key in order(seed, "validation", list(least), lambda key: least[key]):
        if len(aside) + len(members[key]) <= wanted:
            aside.update(members[key])
    return Split([r for r in rows if r not in aside], [r for r in rows if r in aside], wanted)
