"""Wear of a set: the plain warning after many looks, and a verdict without the numbers that teach the next candidate

A frozen guard that has asked all of its N samples stays exact: it speaks of these, and a sample does not change by
being asked again. What wears off is what the set says about anything else, because whoever saw the numbers chose the
next candidate by them. A guard that stops before the end, is about a stream, or rests on some labels by people errs
with probability α, once for every candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness import words
from harness.records import Check, Comparison, Guard, Verdict
from harness.statistics.wear import luck, standard_error

WORN, BUDGET = "worn-set", "wear-budget"
FACT = "wear"
"""The fact of a journal that says how often each set had been decided on, and what was disclosed."""
_FEW = 5  # looks that are nothing to speak of


@dataclass(frozen=True, slots=True)
class Looks:
    """How many candidates were decided on a frozen version before a run, and with it; `planned` is 0 without a plan."""

    suite: str
    version: str
    number: int
    planned: int = 0


@dataclass(frozen=True, slots=True)
class Worn:
    """What looks did to one guard: `lucky` is the luck of the best in score points; a small one has no `warning`."""

    label: str
    number: int
    lucky: float
    warning: str


def worn(comparison: Comparison, looks: Looks) -> Worn | None:
    """The wear of a guard's set as its own numbers show it; None where there are too few pairs to say."""
    if comparison.population_interval is None:
        return None
    error = standard_error(comparison.population_interval, 1 - 2 * comparison.alpha)
    lucky = luck(looks.number, error)
    room = abs(words.threshold(comparison)) or comparison.margin
    if looks.number <= _FEW or lucky < room / 2:
        return Worn(comparison.label, looks.number, lucky, "")
    size = words.signed(lucky, comparison).lstrip("+") + words.unit(comparison.bounds)
    return Worn(
        comparison.label, looks.number, lucky,
        f"{looks.version}: {looks.number} candidates have been decided on this set. The best of {looks.number} equal "
        f"candidates would look {size} better on it than it is, more than half of what {comparison.label} turns on "
        f"({words.margin(comparison)}). {advice(looks)}",
    )  # fmt: skip


def advice(looks: Looks) -> str:
    """What to do about a worn set."""
    if "@" not in looks.version:
        return "Draw new samples for this suite."
    name = looks.version.split("@")[0]
    return f"Draw new samples: harness golden new-version {name}"


def warnings(verdict: Verdict, looks: Sequence[Looks]) -> list[Check]:
    """One check a worn set, passed, because wear takes nothing from what a frozen guard says of its samples."""
    by_suite = {one.suite: one for one in looks}
    found: dict[str, Worn] = {}
    for comparison in verdict.comparisons:
        if comparison.suite not in by_suite or comparison.slice is not None:
            continue
        said = worn(comparison, by_suite[comparison.suite])
        if said is not None and said.warning and said.lucky >= found.get(comparison.suite, said).lucky:
            found[comparison.suite] = said
    return [Check(f"{WORN} {suite}", True, said.warning) for suite, said in found.items()]


def told(verdict: Verdict) -> list[str]:
    """The warnings in a verdict."""
    return [check.detail for check in verdict.checks if check.passed and check.name.startswith(WORN)]


def may_err(guard: Guard, *, stops_early: bool) -> bool:
    """Whether a guard's outcome is an inference that has a level, and not the known mean of all of its samples."""
    return guard.estimand == "population" or guard.labels > 0 or stops_early


def budget(looks: Sequence[Looks], inferred: frozenset[str]) -> list[Check]:
    """For each suite whose α is shared over a planned number of candidates: which one this is, or that none is left.

    `inferred` are the suites with a guard that may err.
    """
    found = [_budget(one) for one in looks if one.planned and one.suite in inferred]
    if not found and any(one.planned for one in looks):
        detail = "every guard is frozen and asks all of its samples, and so exact: there is no α to share"
        return [Check(BUDGET, True, detail)]
    return found


def _budget(looks: Looks) -> Check:
    name = f"{BUDGET} {looks.suite}"
    if looks.number <= looks.planned:
        return Check(
            name, True, f"{looks.version}: candidate {looks.number} of the {looks.planned} that α is shared over"
        )
    return Check(
        name, False,
        f"{looks.version}: {looks.number - 1} candidates have been decided on this set, and α was shared over "
        f"{looks.planned} (wear.candidates), so there is none left for this one. {advice(looks).rstrip('.')}. A frozen "
        "guard needs none where all samples are asked (policy.sequential: false)",
    )  # fmt: skip


# ---------------------------------------------------------------- what is disclosed


def withheld(verdict: Verdict, rungs: Mapping[str, float]) -> Verdict:
    """The verdict as it may be shown where a Ladder guards the numbers: outcomes, and the best gain shown so far.

    `rungs` maps a guard's label to that gain, in score points, oriented so that up is better. Slices that only inform
    are left out; a sample's own fate is nowhere to be seen.
    """
    shown = tuple(_masked(c, rungs.get(c.label, 0.0)) for c in verdict.comparisons if c.slice is None or c.required)
    by_label = {c.label: c for c in shown}
    reasons = tuple(_reason(reason, by_label) for reason in verdict.reasons)
    return Verdict(verdict.verdict, reasons, shown, verdict.checks)


def _masked(comparison: Comparison, rung: float) -> Comparison:
    best = f"{words.signed(rung, comparison)}{words.unit(comparison.bounds)}" if rung else "none"
    return replace(
        comparison, withheld=True, baseline_mean=None, candidate_mean=None, difference=None, interval=None,
        population_interval=None, fragile=False, forgetting=None, smallest_detectable_drop=None, mcnemar_p=None,
        log_e_pass=0.0, log_e_block=0.0, lost=0, won=0, n_tied=0, correction=None,
        reason=comparison.reason or f"numbers are withheld (wear.disclose: ladder); largest gain shown so far: {best}",
    )  # fmt: skip


def _reason(reason: str, by_label: Mapping[str, Comparison]) -> str:
    """A sentence about a guard without its numbers; any other as it is."""
    labels = [label for label in by_label if reason.startswith(f"{label} ")]
    if not labels:
        return reason
    comparison = by_label[max(labels, key=len)]
    return f"{comparison.label}: {words.outcome_word(comparison).lower()}; {comparison.reason}"
