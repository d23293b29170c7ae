"""The main tables: lm-eval run twice at its best batch size against ours, each saving alone and all together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from benchmarks.engine_bench.counting import unique_prefix_tokens
from benchmarks.engine_bench.jobs import BASE, Job, run, say
from benchmarks.engine_bench.ledger import Ledger
from benchmarks.engine_bench.model import AGREEING
from benchmarks.engine_bench.results import (
    Disagreement,
    Round,
    Row,
    agreement,
    disagreement,
    order,
    per_round,
    row_of,
)
from benchmarks.engine_bench.workloads import GENERATION, Ask, Workload, input_rows, samples_of, some

_NOTHING = {"share_prefixes": False, "trim_logits": False, "draft": False}

LM_EVAL = "lm-eval, twice"
NO_DRAFT = "ours, radix, all but drafts"


@dataclass(frozen=True, slots=True, eq=False)
class Alternative:
    """A way of ours: an engine with its options. `drafts` says that it differs from others on generation only."""

    name: str
    title: str
    engine: str
    options: Mapping[str, Any] = field(default_factory=dict)
    drafts: bool = False
    warm: bool = False


ALTERNATIVES = (
    Alternative("plain", "ours, plain", "plain"),
    Alternative("none", "ours, radix, nothing saved", "radix", _NOTHING),
    Alternative("share", "ours, radix, shared prefixes only", "radix", {**_NOTHING, "share_prefixes": True}),
    Alternative("trim", "ours, radix, trimmed logits only", "radix", {**_NOTHING, "trim_logits": True}),
    Alternative("draft", "ours, radix, drafts only", "radix", {**_NOTHING, "draft": True}, drafts=True),
    Alternative("no-draft", NO_DRAFT, "radix", {"draft": False}, drafts=True),
    Alternative("all", "ours, radix, all", "radix"),
    Alternative("warm", "ours, radix, all, baseline known", "radix", warm=True),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What all measurements have in common; `adapters` are candidates by name, the first of which agrees."""

    model: Path
    adapters: Mapping[str, Path]
    data: Path
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 2
    repeats: int = 3
    batch_sizes: tuple[int | str, ...] = (1, 8, 32, "auto")
    probe: int = 64
    engine: str = "radix"
    ledger: Ledger = field(default_factory=Ledger)

    def job(self, runner: str, arms: Sequence[str], asks: Sequence[Ask] = ()) -> Job:
        """A job on this model; `arms` are the base and names of adapters."""
        paired = tuple((arm, None if arm == BASE else str(self.adapters[arm])) for arm in arms)
        return Job(
            runner, str(self.model), paired, tuple(asks), engine=self.engine, device=self.device, dtype=self.dtype,
            threads=self.threads,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """One workload: what it allows, lm-eval's batch sizes, and a table for each candidate."""

    title: str
    samples: int
    requests: int
    lm_eval_tokens: int
    unique_tokens: int
    batch_sizes: Mapping[str, Any]
    tables: Mapping[str, Sequence[Row]]
    agreement: Mapping[str, float]

    @property
    def allowed(self) -> float:
        """How many times fewer tokens there are to read when every common prefix is read once."""
        return self.lm_eval_tokens / max(1, self.unique_tokens)


def compare(setup: Setup, workload: Workload, asks: Sequence[Ask], chosen: Collection[str]) -> Comparison:
    """Measure one workload in rounds; `chosen` names alternatives."""
    from transformers import AutoTokenizer

    rows = input_rows(asks, AutoTokenizer.from_pretrained(setup.model))
    tokens, unique = sum(map(len, rows)), unique_prefix_tokens(rows)
    candidates = list(setup.adapters)[:2] if workload.kind == GENERATION else list(setup.adapters)[:1]
    best, tried = best_batch(setup, workload.name, some(asks, setup.probe))
    ways = [way for way in ALTERNATIVES if way.name in chosen and (workload.kind == GENERATION or not way.drafts)]
    jobs = {
        LM_EVAL: [replace(setup.job("lm-eval", [arm], asks), batch_size=best) for arm in (BASE, *candidates)],
        **{way.title: [_job(setup, workload, way, [BASE, *candidates], asks)] for way in ways},
    }
    measured = in_rounds(setup, workload.name, jobs)
    bounds = {
        way.title: tokens / unique * (2 if way.warm else 1) if workload.kind != GENERATION else None for way in ways
    }
    return Comparison(
        workload.title, len(samples_of(asks)), len(asks), tokens, unique,
        {"best": best, "samples": min(setup.probe, len(samples_of(asks))), "seconds": tried},
        {candidate: table_of(asks, candidate, measured, bounds) for candidate in candidates},
        _agreements([one for way in ways for one in measured[way.title]], candidates),
    )  # fmt: skip


def best_batch(setup: Setup, name: str, asks: Sequence[Ask]) -> tuple[int | str, dict[str, Any]]:
    """lm-eval's quickest batch size on a sample, base only; what each took, or why it did not finish.

    On one thread of a CPU by processor seconds, which other work on the machine hardly moves, otherwise by wall
    seconds. One that takes more than three times as long as the best before it is stopped.
    """
    alone = setup.device == "cpu" and setup.threads == 1
    took: dict[int | str, float] = {}
    told: dict[str, Any] = {}
    limit, quickest = None, float("inf")
    for size in setup.batch_sizes:
        job = replace(setup.job("lm-eval", [BASE], asks), batch_size=size)
        result = setup.ledger.run(f"{name}, lm-eval's batch size {size} tried", job, limit)
        told[str(size)] = result.failure
        if not result.failure:
            arm = result.arms[BASE]
            took[size] = told[str(size)] = arm.cpu_seconds if alone else arm.seconds
            quickest = min(quickest, result.import_seconds + result.load_seconds + arm.seconds)
            limit = 3 * quickest + 15
        say(f"lm-eval, batch size {size}: {told[str(size)]}")
    assert took, f"lm-eval ran at no batch size: {told}"
    return min(took, key=lambda size: took[size]), told


def _job(setup: Setup, workload: Workload, way: Alternative, arms: Sequence[str], asks: Sequence[Ask]) -> Job:
    """One of ours; the outputs that a warm one begins with are made before the rounds, off the clock."""
    job = replace(setup.job("ours", arms, asks), engine=way.engine, options=way.options)
    if not way.warm:
        return job
    known = setup.ledger.run(f"{workload.name}, the base's outputs", replace(job, arms=job.arms[:1], keep=True))
    # Where that failed there are none, which the warm run then says.
    return replace(job, warm={BASE: known.arms[BASE].outputs if BASE in known.arms else ()})


def in_rounds(setup: Setup, name: str, jobs: Mapping[str, Sequence[Job]]) -> dict[str, list[Round]]:
    """Every alternative once in each round, each of its jobs in a process of its own."""
    measured: dict[str, list[Round]] = {title: [] for title in jobs}
    for turn in range(setup.repeats):
        for title in order(list(jobs), turn):
            results = [
                setup.ledger.run(f"{name}, round {turn + 1}, {title}: {', '.join(arm for arm, _ in job.arms)}", job)
                for job in jobs[title]
            ]
            measured[title].append(Round.of(results))
            took = {arm: round(one.seconds, 2) for result in results for arm, one in result.arms.items()}
            say(measured[title][-1].failure or str(took))
    return measured


def table_of(
    asks: Sequence[Ask], candidate: str, measured: Mapping[str, Sequence[Round]], bounds: Mapping[str, float | None]
) -> list[Row]:
    """lm-eval's line and ours, with ratios of each round; `bounds` are the ratios that sharing allows, where known."""
    rows = {title: row_of(title, rounds, BASE, candidate) for title, rounds in measured.items()}
    theirs, undrafted = rows[LM_EVAL], rows.get(NO_DRAFT, Row(NO_DRAFT))
    return [
        replace(
            row,
            ratio=per_round(theirs.seconds, row.seconds),
            cpu_ratio=per_round(theirs.cpu_seconds, row.cpu_seconds),
            share=per_round(theirs.seconds, row.seconds, bounds.get(title)),
            drafting=per_round(undrafted.candidate_seconds, row.candidate_seconds),
            disagreement=None if title == LM_EVAL else _gap(asks, candidate, measured[LM_EVAL], measured[title]),
        )
        for title, row in rows.items()
    ]


def _gap(asks: Sequence[Ask], candidate: str, theirs: Sequence[Round], ours: Sequence[Round]) -> Disagreement | None:
    """The worst of all rounds in which both have answers."""
    gaps = [
        reduce(or_, [disagreement(asks, a.arms[arm].answers, b.arms[arm].answers) for arm in (BASE, candidate)])
        for a, b in zip(theirs, ours, strict=True)
        if a.arms and b.arms
    ]
    return reduce(Disagreement.worst, gaps) if gaps else None


def _agreements(rounds: Sequence[Round], candidates: Sequence[str]) -> dict[str, float]:
    """How much of each candidate's greedy text equals the base's, token by token, in the first run that tells."""
    for one in rounds:
        if one.arms and one.arms[BASE].tokens:
            base = one.arms[BASE].tokens
            return {name: agreement(base, one.arms[name].tokens) for name in candidates}
    return {}


def profile(setup: Setup, asks: Sequence[Ask]) -> str:
    """Where the time of ours goes, on a sample."""
    job = setup.job("ours", [BASE, next(iter(setup.adapters), AGREEING)], some(asks, setup.probe))
    result = run(replace(job, profile=True))
    return result.failure or result.profile
