"""Whatever can apply a rubric: a served model, a classifier, a reward model, a jury, another library. One module each.

A kind's `build(options, rubric, context)` returns a `Judge` (harness.judging.records) for that rubric; a pairwise
rubric makes a pairwise judge. It need not mind the rubric's deterministic checks, nor two outputs that are the same
text: `harness.judging.building` puts both before every kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.judging.records import Judge
from harness.judging.rubric import Rubric
from harness.served.client import Budget


@dataclass(frozen=True, slots=True)
class JudgeContext:
    """What a judge may use: where relative paths start, the file of remembered replies, and what may be spent.

    `budget` is shared by all judges of a run, so that together they spend no more.
    """

    folder: Path = field(default_factory=Path)
    store: Path | None = None
    budget: Budget | None = None


def judged_by(judge: Judge, rubric: Rubric, **more: Any) -> dict[str, Any]:
    """What every kind tells a manifest of itself and its rubric, with `more` of its own."""
    return {
        "rubric": rubric.name,
        "version": rubric.version,
        "rubric_sha256": rubric.hash,
        "name": judge.name,
        "fingerprint": judge.fingerprint,
        "bounds": list(judge.bounds),
        "pairwise": judge.pairwise,
        **more,
    }


def remarks(judge: Judge) -> Sequence[str]:
    """How a judge was asked, in sentences worth telling: what a server did not take, what was waited for."""
    told: Sequence[str] = getattr(judge, "remarks", tuple)()  # not every judge has anything to tell
    return told
