"""What the live page of a mirror shows, read from its books"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from harness import words
from harness.mirror.config import Loaded
from harness.mirror.evidence import coverage, eligible
from harness.mirror.ledger import BY_CHOICE, COMPARED, RECEIVED, Ledger
from harness.records import Comparison, Verdict
from harness.traces import live

_MINUTES = 60
_DISAGREEMENTS = 10


def rendered(loaded: Loaded, ledger: Ledger, verdict: Verdict | None, status: Mapping[str, Any]) -> tuple[str, str]:
    """The document and its Content-Security-Policy."""
    return live.render(_page(loaded, ledger, verdict, status))


def _page(loaded: Loaded, ledger: Ledger, verdict: Verdict | None, status: Mapping[str, Any]) -> live.Page:
    counts = ledger.counts()
    what = "mirror" if loaded.mode == "mirror" else "A/B split"
    return live.Page(
        title=f"Harness {what}{' · A/A trial' if loaded.aa else ''}",
        when=f"as of {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        facts=_facts(loaded, ledger, counts, status),
        decision=verdict.verdict if verdict is not None else "hold",
        headline=words.HEADLINE[verdict.verdict] if verdict is not None else "Nothing was looked at yet.",
        reasons=verdict.reasons[:6] if verdict is not None else (),
        checks=[(c.name, c.passed, c.detail) for c in verdict.checks] if verdict is not None else (),
        rows=[_row(c, ledger) for c in verdict.comparisons if c.n_used or c.required] if verdict is not None else (),
        minutes=_minutes(ledger),
        tables=(_outcomes(counts), _kinds(ledger)),
        disagreements=_disagreements(ledger) if loaded.mode == "mirror" else None,
        notes=_notes(status),
    )


def _facts(
    loaded: Loaded, ledger: Ledger, counts: Mapping[str, int], status: Mapping[str, Any]
) -> list[tuple[str, str]]:
    share, spent = coverage(dict(counts)), status["budget"]
    facts = [
        ("calls received", f"{counts.get(RECEIVED, 0):,}"), ("eligible", f"{eligible(dict(counts)):,}"),
        ("compared", f"{counts.get(COMPARED, 0):,}"), ("coverage", "–" if share is None else f"{share:.1%}"),
        ("under way", f"{status['under_way']:,}"), ("open sessions", f"{ledger.open_sessions():,}"),
    ]  # fmt: skip
    if loaded.mode == "mirror":
        facts.append(("breaker", str(status["breaker"])))
    for name, limit in spent["limits"].items():
        facts.append((f"{name} today", f"{spent[name]:,} of {limit:,}"))
    return facts


def _minutes(ledger: Ledger) -> list[tuple[str, int, int]]:
    now = int(time.time() // 60)
    found: dict[int, list[int]] = {minute: [0, 0] for minute in range(now - _MINUTES + 1, now + 1)}
    for minute, what, n in ledger.minutes(_MINUTES):
        if what != RECEIVED and minute in found:
            found[minute][0 if what == COMPARED else 1] += n
    return [(f"{datetime.fromtimestamp(60 * m, UTC):%H:%M}", taken, rest) for m, (taken, rest) in found.items()]


def _outcomes(counts: Mapping[str, int]) -> live.Table:
    total = max(1, counts.get(RECEIVED, 0))
    known = sorted(((w, n) for w, n in counts.items() if w != RECEIVED), key=lambda item: -item[1])
    rows = [
        (what.replace("_", " "), f"{n:,}", f"{n / total:.1%}", "no" if what in BY_CHOICE else "yes")
        for what, n in known
    ]
    waiting = counts.get(RECEIVED, 0) - sum(n for _, n in known)
    rows += [("under way", f"{waiting:,}", f"{waiting / total:.1%}", "")] if waiting else []
    return live.Table(
        "What became of every call", ("Outcome", "Calls", "Share", "Eligible"), rows,
        "Every call that was received is in exactly one row.",
    )  # fmt: skip


def _kinds(ledger: Ledger) -> live.Table:
    rows = [
        (kind, f"{n:,}", f"{compared:,}", f"{compared / n:.1%}") for kind, (n, compared) in ledger.by_kind().items()
    ]
    return live.Table("Coverage by kind of call", ("Kind", "Eligible", "Compared", "Coverage"), rows)


def _row(c: Comparison, ledger: Ledger) -> live.Row:
    history = ledger.history(c.metric) if c.n_used else []
    scale = words.scaled(1.0, c.bounds)
    points = [(n, scale * d, scale * low, scale * high) for _, n, d, low, high in history]
    series = live.Series(points, scale * words.threshold(c), words.unit(c.bounds).strip()) if points else None
    return live.Row(
        label=c.metric, standing=c.standing, outcome=c.outcome, outcome_word=words.outcome_word(c),
        baseline=words.mean(c.baseline_mean, c), candidate=words.mean(c.candidate_mean, c),
        difference=words.difference(c), interval=words.interval(c), margin=words.margin(c), used=f"{c.n_used:,}",
        remark=c.reason or (f"{c.n_failed:,} failed" if c.n_failed else ""),
        series=series if c.required or c.veto else None,
    )  # fmt: skip


def _disagreements(ledger: Ledger) -> list[live.Disagreement]:
    return [
        live.Disagreement(
            f"{datetime.fromtimestamp(d['at'], UTC):%H:%M:%S} UTC · {d['tenant']}", ", ".join(d["metrics"]),
            d["run_id"], d["asked"], d["champion"], d["candidate"],
        )
        for d in ledger.shown(_DISAGREEMENTS)
    ]  # fmt: skip


def _notes(status: Mapping[str, Any]) -> list[str]:
    notes = ["Copying is switched off; users are served on."] if status["off"] else []
    lost = status["spans_lost"]
    return notes + ([f"{lost:,} spans could not be delivered."] if lost else [])
