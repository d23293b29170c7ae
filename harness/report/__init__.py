"""Reports: a verdict and its evidence as Markdown, JUnit XML and one self-contained HTML page. One module each.

A report plugin holds `Options`, `FILENAME` (the name it takes in a run directory) and `build(options) -> Reporter`.
What a reporter renders depends on the document alone: no clock, no environment, no file, so that rendering a
stored run twice gives the same bytes. Everything in a document but the numbers is untrusted text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from harness.drift import SuiteDrift
from harness.records import Comparison, Score, Verdict
from harness.report._judges import JudgeFacts

__all__ = ["Change", "Document", "Item", "JudgeFacts", "Reporter", "change_of", "lost_clusters"]

Change = Literal["lost", "won", "failed", "changed"]


@dataclass(frozen=True, slots=True)
class Item:
    """One sample worth reading, under one metric: what was asked, what both subjects said, what each scored."""

    suite: str
    metric: str
    sample_id: str
    tags: tuple[str, ...]
    prompt: str
    target: str
    baseline_output: str
    candidate_output: str
    baseline_score: Score
    candidate_score: Score
    change: Change
    cluster: str = ""

    def belongs_to(self, comparison: Comparison) -> bool:
        """Whether the sample is part of what `comparison` looked at: its suite, its metric, its slice."""
        same = (self.suite, self.metric) == (comparison.suite, comparison.metric)
        return same and (comparison.slice is None or comparison.slice in self.tags)


@dataclass(frozen=True, slots=True)
class Document:
    """The input of every report: verdict, the run's manifest, samples that changed, advisory drift, and its judges."""

    verdict: Verdict
    manifest: Mapping[str, Any] = field(default_factory=dict)
    items: Sequence[Item] = ()
    title: str = "Promotion gate"
    drift: Sequence[SuiteDrift] = ()
    judges: Sequence[JudgeFacts] = ()


class Reporter(Protocol):
    """Turns a document into the text of one file."""

    def render(self, document: Document) -> str:
        """The whole report; the same document always gives the same text."""
        ...


def lost_clusters(items: Sequence[Item], comparison: Comparison) -> list[tuple[str, int]]:
    """The clusters that lost samples under a guard (for production calls: sessions), the most first."""
    lost = (item for item in items if item.change == "lost" and item.belongs_to(comparison))
    counted = Counter(item.cluster for item in lost if item.cluster)
    return sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))


def change_of(baseline: Score, candidate: Score, *, higher_is_better: bool = True) -> Change:
    """What happened to a sample: `failed` without both values, `changed` where the score is the same on both sides."""
    if baseline.state == candidate.state == "tied":
        return "changed"
    if baseline.value is None or candidate.value is None:
        return "failed"
    gain = candidate.value - baseline.value
    if gain == 0:
        return "changed"
    return "won" if (gain > 0) == higher_is_better else "lost"
