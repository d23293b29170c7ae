"""The main tables: lm-eval run twice at its best batch size against ours, each saving alone and all together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.engine_bench.counting import unique_prefix_tokens
from benchmarks.engine_bench.jobs import BASE, Job, Result, run, say
from benchmarks.engine_bench.model import AGREEING
from benchmarks.engine_bench.results import Disagreement, Row, agreement, disagreement, row_of, share_of_allowed
from benchmarks.engine_bench.workloads import GENERATION, Ask, Workload, input_rows, samples_of, some

_NOTHING = {"share_prefixes": False, "trim_logits": False, "draft": False}

LM_EVAL = "lm-eval, twice"


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
    Alternative("no-draft", "ours, radix, all but drafts", "radix", {"draft": False}, drafts=True),
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
    repeats: int = 1
    batch_sizes: tuple[int | str, ...] = (1, 8, 32, "auto")
    probe: int = 64
    engine: str = "radix"

    def job(self, runner: str, arms: Sequence[str], asks: Sequence[Ask] = ()) -> Job:
        """A job on this model; `arms` are the base and names of adapters."""
        paired = tuple((arm, None if arm == BASE else str(self.adapters[arm])) for arm in arms)
        return Job(
            runner, str(self.model), paired, tuple(asks), engine=self.engine, device=self.device, dtype=self.dtype,
            threads=self.threads, repeats=self.repeats,
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
    remarks: Mapping[str, Sequence[str]]
    usage: Mapping[str, Any]

    @property
    def allowed(self) -> float:
        """How many times fewer tokens there are to read when every common prefix is read once."""
        return self.lm_eval_tokens / max(1, self.unique_tokens)


def compare(setup: Setup, workload: Workload, asks: Sequence[Ask], chosen: Collection[str]) -> Comparison:
    """Measure one workload; `chosen` names alternatives."""
    from transformers import AutoTokenizer

    rows = input_rows(asks, AutoTokenizer.from_pretrained(setup.model))
    candidates = list(setup.adapters)[:2] if workload.kind == GENERATION else list(setup.adapters)[:1]
    best, tried = best_batch(setup, some(asks, setup.probe))
    say(f"{workload.name}: lm-eval at batch size {best}")
    reference = {arm: run(replace(setup.job("lm-eval", [arm], asks), batch_size=best)) for arm in (BASE, *candidates)}
    ours = _ours(setup, workload, asks, chosen, candidates)
    tokens, unique = sum(map(len, rows)), unique_prefix_tokens(rows)
    return Comparison(
        workload.title, len(samples_of(asks)), len(asks), tokens, unique,
        {"best": best, "seconds of the sample": tried},
        {c: _table(asks, workload, c, reference, ours, tokens / unique) for c in candidates},
        _agreements(ours, candidates),
        {a.title: result.remarks for a, result in ours.items()},
        {a.title: {name: dict(arm.usage) for name, arm in result.arms.items()} for a, result in ours.items()},
    )  # fmt: skip


def best_batch(setup: Setup, asks: Sequence[Ask]) -> tuple[int | str, dict[str, Any]]:
    """lm-eval's quickest batch size on a sample, base only; what each took, or why it did not finish."""
    took: dict[int | str, float] = {}
    told: dict[str, Any] = {}
    for size in setup.batch_sizes:
        limit = 4 * max(took.values()) + 120 if str(size).startswith("auto") and took else None
        result = run(replace(setup.job("lm-eval", [BASE], asks), batch_size=size, repeats=1), limit)
        told[str(size)] = result.failure
        if not result.failure:
            took[size] = told[str(size)] = result.arms[BASE].seconds[0]
        say(f"lm-eval, batch size {size}: {told[str(size)]}")
    assert took, f"lm-eval ran at no batch size: {told}"
    return min(took, key=lambda size: took[size]), told


def _ours(
    setup: Setup, workload: Workload, asks: Sequence[Ask], chosen: Collection[str], candidates: Sequence[str]
) -> dict[Alternative, Result]:
    measured: dict[Alternative, Result] = {}
    known: Sequence[Mapping[str, Any]] = ()
    for way in ALTERNATIVES:
        if way.name not in chosen or (way.drafts and workload.kind != GENERATION):
            continue
        say(f"{workload.name}: {way.title}")
        job = replace(setup.job("ours", [BASE, *candidates], asks), engine=way.engine, options=way.options)
        if way.warm:
            known = known or _outputs(run(replace(job, arms=job.arms[:1], keep=True, repeats=1)))
            job = replace(job, warm={BASE: known})
        result = run(replace(job, keep=way.name == "all"))
        if way.name == "all":
            known = _outputs(result)
        measured[way] = result
        say(result.failure or f"{ {name: arm.seconds for name, arm in result.arms.items()} }")
    return measured


def _outputs(result: Result) -> Sequence[Mapping[str, Any]]:
    """The base's outputs, to be put into a cache; nothing where the run failed, which the warm run then says."""
    return result.arms[BASE].outputs if BASE in result.arms else ()


def _table(
    asks: Sequence[Ask],
    workload: Workload,
    candidate: str,
    reference: Mapping[str, Result],
    ours: Mapping[Alternative, Result],
    allowed: float,
) -> list[Row]:
    """lm-eval's line and ours, with ratios; what sharing allows holds where nothing but prompts is read."""
    theirs = row_of(LM_EVAL, [reference[BASE], reference[candidate]], BASE, candidate)
    rows = [replace(theirs, ratio=None if theirs.seconds is None else 1.0)]
    for way, result in ours.items():
        row = row_of(way.title, [result], BASE, candidate)
        if row.seconds is not None and theirs.seconds is not None:
            ratio = theirs.seconds / row.seconds
            bound = allowed * (2 if way.warm else 1) if workload.kind != GENERATION else None
            gaps = [
                disagreement(asks, reference[arm].arms[arm].answers, result.arms[arm].answers)
                for arm in (BASE, candidate)
            ]
            row = replace(row, ratio=ratio, share=share_of_allowed(ratio, bound), disagreement=_merge(gaps))
        rows.append(row)
    return rows


def _merge(gaps: Sequence[Disagreement]) -> Disagreement:
    total = Disagreement()
    for gap in gaps:
        total = total | gap
    return total


def _agreements(ours: Mapping[Alternative, Result], candidates: Sequence[str]) -> dict[str, float]:
    """How much of each candidate's greedy text equals the base's, token by token, in the first run that tells."""
    for result in ours.values():
        if not result.failure and result.arms[BASE].tokens:
            base = result.arms[BASE].tokens
            return {name: agreement(base, result.arms[name].tokens) for name in candidates}
    return {}


def profile(setup: Setup, asks: Sequence[Ask]) -> str:
    """Where the time of ours goes, on a sample."""
    job = setup.job("ours", [BASE, next(iter(setup.adapters), AGREEING)], some(asks, setup.probe))
    result = run(replace(job, profile=True, repeats=1))
    return result.failure or result.profile
