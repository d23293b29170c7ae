"""The samples of a suite in two parts that share none: one for choosing among candidates, one for the verdict.

Who tries many candidates on some samples and takes the best has chosen its luck on those samples too: there its score
is too good, and whether it is any good has to be found out on others. So a gate can hold a share of every suite back
(`for_sweeps`), on which sweeps compare trials and `ForgettingGuard` looks, and its verdicts rest on the remaining ones.

Which samples these are is fixed by the samples' ids alone. No setting of a policy, metric or generation moves a sample
from one part to the other, and a larger share holds the same samples and more. A cluster is never cut. Clusters are
drawn with equal chances, so either part represents the stream that the suite was drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.config import Part
from harness.errors import DataError
from harness.execution.local import SuiteState
from harness.records import Guard, content_hash
from harness.statistics.ordering import commit_order
from harness.suites import Suite

NO_VERDICT = "these samples choose among candidates, so no verdict is made on them"


def part_of(state: SuiteState, share: float, part: Part) -> SuiteState:
    """The state with the samples of one part, in their order.

    Raises:
        DataError: the suite is too small to be divided.
    """
    if not share and part == "verdict":
        return state
    held = held_back(state.suite, share)
    return SuiteState(state.suite, tuple(s for s in state.samples if (s.id in held) == (part == "sweep")))


def held_back(suite: Suite, share: float) -> frozenset[str]:
    """Ids of the samples for choosing: those of the first `share` of the clusters, at least one on either side.

    Raises:
        DataError: there are fewer than two clusters, or no share.
    """
    samples = suite.samples()
    keys = [sample.cluster or f"\0{sample.id}" for sample in samples]
    clusters = len(set(keys))
    if clusters < 2 or not share:
        raise DataError(
            f"suite {suite.name!r} cannot hold samples back for choosing: "
            + (f"it has {clusters} sample or cluster" if share else "the gate's for_sweeps is 0")
        )
    material = content_hash({"for": "sweeps", "samples": [sample.id for sample in samples]}).encode()
    order = commit_order(keys, len(samples), material, size_biased=False)
    wanted = min(max(round(share * clusters), 1), clusters - 1)
    chosen = set(list(dict.fromkeys(keys[index] for index in order))[:wanted])
    return frozenset(s.id for s, key in zip(samples, keys, strict=True) if key in chosen)


def refuse_empty(states: Sequence[SuiteState], guards: Sequence[Guard], part: Part) -> None:
    """Refuse a required guard on a slice that only the other part has, since it could never be decided.

    Raises:
        DataError: there is one.
    """
    tags = {state.suite.name: {tag for s in state.samples for tag in s.tags} for state in states}
    for guard in guards:
        if guard.required and guard.slice is not None and guard.slice not in tags[guard.suite]:
            of = "held back for sweeps" if part == "sweep" else "left for the verdict"
            raise DataError(f"{guard.label}: none of the samples {of} is in this slice; change the gate's for_sweeps")
