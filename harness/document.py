"""From a stored run to what its reports are made of: decide again, and pick the samples worth reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import plugins, runs
from harness.deciding import decide_again
from harness.drift import AnswerDrift, SuiteDrift, summarise
from harness.judged import judge_facts
from harness.records import Comparison, Output, Verdict
from harness.report import Document, Item, change_of

REPORTS = ("html", "markdown", "junit")


def read_run(path: Path) -> Document:
    """The document of a run directory; the verdict is decided anew from the stored evidence, not copied.

    Raises:
        StorageError: a file of the run is missing or damaged.
    """
    manifest, verdict = decide_again(path)
    return make_document(verdict, manifest, runs.read_entries(path))


def make_document(verdict: Verdict, manifest: Mapping[str, Any], entries: Sequence[runs.Entry]) -> Document:
    """What the reports show: samples whose score changed or failed, worst guard's suite first; drift by suite."""
    whole = [c for c in verdict.comparisons if c.slice is None]
    by_suite: dict[str, list[Comparison]] = {}
    for comparison in whole:
        by_suite.setdefault(comparison.suite, []).append(comparison)
    items = [item for entry in entries for item in _items(entry, by_suite.get(entry.suite, []))]
    rank = {(c.suite, c.metric): (_URGENCY[c.outcome], i) for i, c in enumerate(whole)}
    items.sort(key=lambda item: (rank[item.suite, item.metric], _CHANGES.index(item.change)))
    title = f"{manifest['candidate']['name']} against {manifest['baseline']['name']}"
    return Document(verdict, manifest, items, title, _drift(entries), judge_facts(manifest, entries, verdict.checks))


def write_reports(path: Path, document: Document) -> list[Path]:
    """Write every report into the run directory; their paths, the page first."""
    written = []
    for name in REPORTS:
        module = plugins.load("report", name)
        target = path / module.FILENAME
        runs.write_text(target, module.build(module.Options()).render(document))
        written.append(target)
    return written


_URGENCY = {"regressed": 0, "undecided": 1, "pass": 2}
_CHANGES = ("lost", "failed", "won", "changed")


def _drift(entries: Sequence[runs.Entry]) -> list[SuiteDrift]:
    """One record a suite that has any answer compared token by token."""
    found: dict[str, list[AnswerDrift]] = {}
    for entry in entries:
        if entry.drift:
            found.setdefault(entry.suite, []).extend(entry.drift)
    return [summarise(suite, answers) for suite, answers in found.items()]


def _items(entry: runs.Entry, comparisons: Sequence[Comparison]) -> Iterator[Item]:
    for comparison in comparisons:
        if comparison.metric not in entry.scores:
            continue
        baseline, candidate = entry.scores[comparison.metric]
        change = change_of(baseline, candidate, higher_is_better=comparison.higher_is_better)
        if change == "changed":
            continue
        yield Item(
            suite=entry.suite,
            metric=comparison.metric,
            sample_id=entry.sample_id,
            tags=entry.tags,
            prompt=entry.prompt,
            target=entry.target,
            baseline_output=_readable(entry.baseline),
            candidate_output=_readable(entry.candidate),
            baseline_score=baseline,
            candidate_score=candidate,
            change=change,
            cluster=entry.cluster,
        )


def _readable(outputs: Sequence[Output]) -> str:
    """Generated text as it is; log-likelihoods as a numbered list with the best one marked."""
    scored = [o.logprob for o in outputs if o.logprob is not None]
    best = max(scored, default=None)
    lines = []
    for number, output in enumerate(outputs, start=1):
        if output.failure is not None:
            lines.append(f"(no answer: {output.failure})")
        elif output.spoken is not None:
            lines.append(output.spoken)
        elif output.logprob is not None:
            mark = "  ← picked" if output.logprob == best and len(scored) > 1 else ""
            lines.append(f"choice {number}: log p = {output.logprob:.3f}{mark}")
    return "\n".join(lines)
