"""The sequential gate on live traffic: evidence grows session by session, and the policy reads along

The claim is about the mean over sessions: a session is one draw from the stream, however many calls it has, and its
score is the mean over its calls. So calls of one conversation, which depend on each other, are never taken for several
observations, and no bound on their number slows the bets. In a mirror both means are over the calls that both sides
have a score for. In a split no call has two answers: the i-th complete session of one arm is paired with the i-th of
the other. Which arm a session belongs to is drawn by hash, so both are independent draws, and the pair of them is one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import policy
from harness.errors import StorageError
from harness.mirror.config import SUITE, Loaded, specs_of
from harness.mirror.ledger import BY_CHOICE, COMPARED, RECEIVED, Ledger, Pair, Session
from harness.records import Check, Comparison, Evidence, PairedScore, Score, Verdict

_ENOUGH = 50  # calls of a kind before its coverage says anything


@dataclass(slots=True)
class Evidences:
    """The evidence of one ledger so far, by metric; `besides` are further checks that the verdict rests on."""

    loaded: Loaded
    ledger: Ledger
    besides: Sequence[Check] = ()
    _specs: dict[str, Any] = field(init=False)
    _pairs: dict[str, list[PairedScore]] = field(init=False)
    _after: int = 0
    _alone: dict[str, list[tuple[Session, list[tuple[str, Pair]]]]] = field(default_factory=dict)
    _told: dict[str, int] = field(default_factory=dict)
    _calls: Counter[tuple[str, str]] = field(default_factory=Counter)  # by metric and arm; a mirror has one arm
    _failed: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._specs = specs_of(self.loaded)
        self._pairs = {name: [] for name in self._specs}

    def grow(self) -> bool:
        """Take in what has become complete; whether there was anything."""
        sessions = self.ledger.settled(self._after)
        for session, pairs in sessions:
            self._after = session.place
            self._count_failures("" if self.loaded.mode == "mirror" else session.arm, pairs)
            if self.loaded.mode == "mirror":
                self._take(session, pairs)
            elif pairs:
                self._alone.setdefault(session.arm, []).append((session, pairs))
        self._match()
        return bool(sessions)

    def now(self) -> Callable[[], Verdict]:
        """What decides on the evidence as it is now; may be called on another thread."""
        evidence = [Evidence(SUITE, self._specs[name], tuple(pairs)) for name, pairs in self._pairs.items()]
        guards, checks = self.loaded.guards(), self.checks()
        return lambda: policy.decide(evidence, guards, checks)

    def checks(self) -> list[Check]:
        """Whether enough of the traffic was compared, no kind of it too little, and the policy was tried."""
        found = [*self.besides, coverage_check(self.ledger.counts(), self.loaded.config.policy.min_coverage)]
        found.append(kinds_check(self.ledger.by_kind(), self.loaded.config.policy.max_gap))
        named = [guard.metric for guard in self.loaded.config.guards if guard.required]
        shares = {
            f"{name} ({arm})" if arm else name: self._failed[name, arm] / calls
            for (name, arm), calls in self._calls.items()
            if name in named
        }
        found.append(failures_check(shares, self.loaded.config.policy.max_failures))
        if self.loaded.config.policy.tried and not self.loaded.aa:
            found.append(trial_check(self.loaded))
        return found

    def note(self, verdict: Verdict) -> None:
        """Keep the intervals for the page, and the verdict for whoever reads the folder."""
        now = time.time()
        # A hundredth more is a step that a chart can show; so the history grows with the logarithm of the evidence.
        changed = [c for c in verdict.comparisons if c.n_used > 1.01 * self._told.get(c.metric, 0)]
        self._told.update({c.metric: c.n_used for c in changed})
        self.ledger.add_history([_row(now, c) for c in changed])
        _write(self.loaded.folder / "verdict.json", {**verdict.as_json(), **self._besides()})
        if self.loaded.aa and no_difference(verdict):
            _note_trial(self.loaded)

    def _besides(self) -> dict[str, Any]:
        counts = self.ledger.counts()
        return {"mode": self.loaded.mode, "aa": self.loaded.aa, "counts": counts, "coverage": coverage(counts)}

    def _count_failures(self, arm: str, pairs: Sequence[tuple[str, Pair]]) -> None:
        """By arm in a split: the few failures of a large arm must not hide the many of a small one."""
        for _, pair in pairs:
            for name, scores in pair.items():
                self._calls[name, arm] += 1
                self._failed[name, arm] += any(score.value is None for score in scores)

    def _take(self, session: Session, pairs: Sequence[tuple[str, Pair]]) -> None:
        """One session of a mirror."""
        for name in self._specs:
            scores = [pair[name] for _, pair in pairs if name in pair]
            if scores:
                whole = [both for both in scores if None not in (both[0].value, both[1].value)]
                sides = _mean([b[0] for b in whole or scores]), _mean([b[1] for b in whole or scores])
                self._pairs[name].append(PairedScore(session.cluster, "", (), *sides))

    def _match(self) -> None:
        """Pair complete sessions of the two arms, in order."""
        ours, theirs = (self._alone.setdefault(arm, []) for arm in ("champion", "candidate"))
        n = min(len(ours), len(theirs))
        for (left, left_pairs), (right, right_pairs) in zip(ours[:n], theirs[:n], strict=True):
            for name in self._specs:
                sides = [[pair[name][0] for _, pair in pairs if name in pair] for pairs in (left_pairs, right_pairs)]
                if all(sides):  # a metric that concerns no call of a session says nothing of it
                    pair = PairedScore(f"{left.place}|{right.place}", "", (), _mean(sides[0]), _mean(sides[1]))
                    self._pairs[name].append(pair)
        del ours[:n], theirs[:n]


def _mean(scores: Sequence[Score]) -> Score:
    """The mean of those that have a value; failed where none has."""
    values = [score.value for score in scores if score.value is not None]
    return Score.of(math.fsum(values) / len(values)) if values else Score.failed(scores[0].reason or "not scored")


# ---------------------------------------------------------------- what the verdict rests on


def eligible(counts: dict[str, int]) -> int:
    """Calls that were meant to be compared, and of which it is known what became of them."""
    return sum(n for what, n in counts.items() if what != RECEIVED and what not in BY_CHOICE)


def coverage(counts: dict[str, int]) -> float | None:
    """Share of the eligible calls that were compared; None where there was none."""
    meant = eligible(counts)
    return counts.get(COMPARED, 0) / meant if meant else None


def coverage_check(counts: dict[str, int], least: float) -> Check:
    """Whether enough of what was meant to be compared was."""
    share, meant = coverage(counts), eligible(counts)
    if share is None:
        return Check("coverage", least == 0, "no call was eligible yet")
    lost = {w: n for w, n in counts.items() if w not in (RECEIVED, COMPARED) and w not in BY_CHOICE and n}
    why = (
        "; not compared: " + ", ".join(f"{w} {n:,}" for w, n in sorted(lost.items(), key=lambda i: -i[1]))
        if lost
        else ""
    )
    said = f"{counts.get(COMPARED, 0):,} of {meant:,} eligible calls were compared ({share:.1%}, at least {least:.0%})"
    return Check("coverage", share >= least, said + why)


def failures_check(shares: dict[str, float], most: float) -> Check:
    """Whether calls failed so seldom that those left still speak for all; a session of which one failed hides it.

    `shares` are of calls by metric, in a split by metric and arm.
    """
    above = ", ".join(f"{name} {share:.1%}" for name, share in sorted(shares.items()) if share > most)
    told = f"calls without a score on both sides: {above}" if above else "few enough calls are without a score"
    return Check("failures", not above, f"{told} (at most {most:.1%})")


def kinds_check(kinds: dict[str, tuple[int, int]], gap: float) -> Check:
    """Whether some kind of call is compared so much less often than all are that the sample no longer speaks for it."""
    meant, compared = kinds.get("all", (0, 0))
    overall = compared / meant if meant else 0.0
    short = {k: c / n for k, (n, c) in kinds.items() if n >= _ENOUGH and overall - c / n > gap}
    if short:
        told = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(short.items()))
        return Check("coverage by kind", False, f"compared less often than all calls ({overall:.0%}): {told}")
    return Check("coverage by kind", True, f"no kind of call is compared more than {gap:.0%} less often than all")


# ---------------------------------------------------------------- the trial of a policy


def no_difference(verdict: Verdict) -> bool:
    """Whether a trial has shown what is true: that no required guard differs by its margin, either way."""
    required = [c for c in verdict.comparisons if c.required]
    return verdict.verdict == "promote" and all(_within(c) for c in required)


def _within(comparison: Comparison) -> bool:
    interval, margin = comparison.interval, comparison.margin
    return interval is not None and -margin < interval[0] and interval[1] < margin


def trial_check(loaded: Loaded) -> Check:
    """Whether the policy, exactly as it is, has passed where there is nothing to find."""
    passed = (_trials(loaded) / f"{loaded.policy_digest()}.json").exists()
    detail = "passed" if passed else (
        "this policy has not been tried where there is no difference; run the mirror with --aa until it says so, "
        "or set policy.tried: false"
    )  # fmt: skip
    return Check("A/A trial", passed, detail)


def _trials(loaded: Loaded) -> Path:
    return loaded.path.parent / loaded.config.state / "trials"


def _note_trial(loaded: Loaded) -> None:
    path = _trials(loaded) / f"{loaded.policy_digest()}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, {"passed_at": time.time(), "policy": loaded.policy_digest()})


def _row(now: float, c: Comparison) -> tuple[float, str, int, float | None, float | None, float | None, str]:
    low, high = c.interval or (None, None)
    return now, c.metric, c.n_used, c.difference, low, high, c.outcome


def _write(path: Path, held: dict[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(held, indent=2), "utf-8")
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
