"""A stored run with a judge, as a gate leaves it, for tests that label it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from harness import runs
from harness.records import Evidence, MetricSpec, Output, PairedScore, Score

PAIR = ("chat preference", "preference")
GRADE = ("chat helpfulness", "helpfulness")
# What a test may look for in everything that the page receives: none of it may ever be there.
GIVEAWAYS = ("baseline", "candidate", "careless-adapter", "base-model", "judge-model-9", "REASON-OF-THE-JUDGE")

_METRICS = {"preference": MetricSpec("preference", chance=0.5), "helpfulness": MetricSpec("helpfulness", bounds=(1, 5))}


def texts(number: int) -> tuple[str, str]:
    """Both outputs of a sample; every seventh pair is identical."""
    if number % 7 == 6:
        return f"the same answer {number}", f"the same answer {number}"
    return f"old answer {number}", f"new answer {number}"


def make_run(
    folder: Path, key: tuple[str, str] = PAIR, *, count: int = 40, labels: int = 20, unseen: int = 0,
    outputs: Mapping[int, tuple[str, str]] | None = None,
) -> Path:  # fmt: skip
    """A run directory with `count` judged samples; `unseen` more are in the evidence and were never asked."""
    suite, metric = key
    entries = [_entry(key, number, (outputs or {}).get(number) or texts(number)) for number in range(count)]
    pairs = [PairedScore(e.sample_id, "", (), *e.scores[metric]) for e in entries]
    pairs += [PairedScore(f"unseen-{number}") for number in range(unseen)]
    manifest = {
        "baseline": {"name": "base-model"},
        "candidate": {"name": "careless-adapter"},
        "suites": {suite: {"judge": {"rubric": metric, "model": "judge-model-9"}, "asked": "nothing@1"}},
        "guards": [{"suite": suite, "metric": metric, "labels": labels}],
    }
    with closing(runs.RunDirectory(folder, "careless-adapter", manifest)) as run:
        run.append(entries)
    runs.write_evidence(run.path / runs.EVIDENCE, [Evidence(suite, _METRICS[metric], tuple(pairs))])
    return run.path


def _entry(key: tuple[str, str], number: int, said: tuple[str, str]) -> runs.Entry:
    suite, metric = key
    scores, details = (_compared if metric == "preference" else _graded)(number)
    if said[0] == said[1]:
        scores, details = (Score.tied(), Score.tied()), {}
    sides = tuple((Output(text=text),) for text in said)
    return runs.Entry(
        suite,
        f"s{number}",
        f"Question {number}?",
        "",
        (),
        sides[0],
        sides[1],
        {metric: scores},
        details={metric: details},
    )


def _compared(number: int) -> tuple[tuple[Score, Score], dict[str, Any]]:
    """Every third pair: the orders disagree; else the candidate wins, or both tie."""
    straight, turned = ((1.0, -1.0), (1.0, 1.0), (0.0, 0.0))[number % 3]
    value = straight if straight == turned else 0.0
    orders = {"straight": {"state": "scored", "value": straight}, "turned": {"state": "scored", "value": turned}}
    said = {"state": "scored", "value": value, "reason": "REASON-OF-THE-JUDGE", "details": {"orders": orders}}
    return (Score.of((1 - value) / 2), Score.of((1 + value) / 2)), {"pair": [said]}


def _graded(number: int) -> tuple[tuple[Score, Score], dict[str, Any]]:
    before, after = 1.0 + number % 5, 1.0 + (3 * number) % 5

    def said(value: float) -> Sequence[dict[str, Any]]:
        return [{"state": "scored", "value": value, "reason": "REASON-OF-THE-JUDGE"}]

    return (Score.of(before), Score.of(after)), {"baseline": said(before), "candidate": said(after)}
