"""What a stored run says of its judges: calibration, biases, cost, canaries; needs no judge and no model"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any

from harness import runs
from harness.config import ARMS
from harness.judging.bias import agreement, position_bias, verbosity_bias
from harness.judging.records import Judgement, Usage
from harness.judging.suspicion import suspicious
from harness.records import Check, Output, PairedScore
from harness.report import JudgeFacts


def judge_facts(
    manifest: Mapping[str, Any], entries: Sequence[runs.Entry], checks: Sequence[Check]
) -> list[JudgeFacts]:
    """One record for each suite of a run that a judge scored, in the manifest's order."""
    by_suite: dict[str, list[runs.Entry]] = {}
    for entry in entries:
        by_suite.setdefault(entry.suite, []).append(entry)
    suites: Mapping[str, Mapping[str, Any]] = manifest.get("suites", {})
    canaries_of = {
        said["canaries_of"]: by_suite.get(name, []) for name, said in suites.items() if "canaries_of" in said
    }
    judged = ((name, said) for name, said in suites.items() if "judge" in said)
    calibrated = {check.name: check for check in checks}
    return [
        _facts(
            name, said, by_suite.get(name, []), canaries_of.get(name, []), calibrated.get(f"judge-calibrated {name}")
        )
        for name, said in judged
    ]


def _facts(
    suite: str,
    said: Mapping[str, Any],
    entries: Sequence[runs.Entry],
    tried: Sequence[runs.Entry],
    calibrated: Check | None,
) -> JudgeFacts:
    metric = str(said["judge"]["rubric"])
    changes = [_change(entry, metric) for entry in entries]
    known = [change for change in changes if change is not None]
    pairs = [judgement for entry in entries for judgement in _said(entry, metric, "pair")]
    said_all = pairs or [j for entry in entries for arm in ARMS for j in _said(entry, metric, arm)]
    lengths = [_length(entry.candidate) - _length(entry.baseline) for entry in entries]
    return JudgeFacts(
        suite=suite,
        metric=metric,
        description=said["judge"],
        calibration="" if calibrated is None else calibrated.detail,
        warning=str(said.get("warning", "")),
        pairs=len(entries),
        tied=sum(entry.scores[metric][0].state == "tied" for entry in entries),
        moved=(sum(change < 0 for change in known), sum(change > 0 for change in known)),
        failures=Counter(_silences(entries, metric)),
        usage=asdict(reduce(add, (_usage(entry, metric) for entry in [*entries, *tried]), Usage())),
        position=position_bias(pairs).as_json() if pairs else None,
        verbosity=verbosity_bias(changes, lengths).as_json(),
        agreement=agreement(said_all, pairwise=bool(pairs)),
        resisted=_resisted(tried),
        suspicious={arm: sum(_suspicious(getattr(entry, arm)) for entry in entries) for arm in ARMS},
    )


def _change(entry: runs.Entry, metric: str) -> float | None:
    """Candidate less baseline where a judge said it; None for a pair that it did not see, or not judge."""
    pair = PairedScore(entry.sample_id, "", (), *entry.scores[metric])
    return pair.difference if pair.values is not None else None


def _said(entry: runs.Entry, metric: str, side: str) -> Iterator[Judgement]:
    for said in entry.details.get(metric, {}).get(side, ()):
        yield Judgement(
            said["state"], said["value"], said["reason"], said.get("failure"), details=said.get("details", {})
        )


def _silences(entries: Sequence[runs.Entry], metric: str) -> Iterator[str]:
    for entry in entries:
        for side in ("pair", *ARMS):
            for judgement in _said(entry, metric, side):
                if judgement.value is None:
                    yield f"{judgement.failure or 'abstained'} ({side})"


def _usage(entry: runs.Entry, metric: str) -> Usage:
    """What an entry's judgements used; of a canary's entry too, which has a metric of its own."""
    details = entry.details.get(metric) or next(iter(entry.details.values()), {})
    return Usage(**details["usage"]) if "usage" in details else Usage()


def _resisted(tried: Sequence[runs.Entry]) -> dict[str, tuple[int, int]]:
    rates: dict[str, tuple[int, int]] = {}
    for index, arm in enumerate(ARMS):
        values = [scores[index].value for entry in tried for scores in entry.scores.values()]
        held = [value for value in values if value is not None]
        if held:
            rates[arm] = (sum(value == 1 for value in held), len(held))
    return rates


def _length(outputs: Sequence[Output]) -> int:
    return sum(len(output.text or "") for output in outputs)


def _suspicious(outputs: Sequence[Output]) -> bool:
    return any(suspicious(output.text) for output in outputs if output.text)
