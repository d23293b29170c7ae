"""From a situation to advice: the tables are asked in order, and the training is made to fit the machine."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.training.advice import settings as tables
from harness.training.advice.memory import Estimate, Load, Optimizer, estimate
from harness.training.advice.rules import COURSES, OBJECTIVES, SCOPES, Course, Rule, first
from harness.training.advice.settings import ADAPTERS, OTHERS, Stage
from harness.training.advice.situation import Situation

_USABLE = 0.9  # of the free memory: estimates and measurements agree to within a tenth
_WARMUP = 0.03  # of the steps: Dettmers 2023
_PAIRED = ("dpo", "ipo", "orpo")  # objectives that put two sequences of each row on the device


@dataclass(frozen=True, slots=True)
class Reason:
    """One piece of advice: what, its value, why, and where that is from (keys of `sources.SOURCES`)."""

    what: str
    value: Any
    because: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage with its starting values; `replay` is a share of the rows, 0 for none."""

    objective: str
    learning_rate: float | None
    epochs: float
    batch: int
    accumulation: int
    warmup_steps: int
    replay: float
    validation: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What would be trained: scope with its options, stages, and the memory of the most demanding of them."""

    scope: str
    options: dict[str, Any]
    stages: tuple[StagePlan, ...]
    load: Load
    memory: Estimate
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """The course to take, and the training that it means, or would mean if prompting falls short.

    `others` are further ways: (what, when, source).
    """

    course: Course
    reason: Reason
    plan: TrainingPlan | None
    others: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether the advice is to train now."""
        return self.course == "fine-tune"


@dataclass(frozen=True)
class Considered:
    """A `rules.Case`: the situation with what fits, found out once."""

    now: Situation
    _found: dict[str, Load | None] = field(default_factory=dict)

    def fits(self, scope: str) -> bool:
        """See `Case.fits`."""
        return self.load(scope) is not None

    def load(self, scope: str) -> Load | None:
        """The least sparing way of training this scope that the machine has memory for, or None."""
        if scope not in self._found:
            shape, room = self.now.shape, usable(self.now.machine.free)
            self._found[scope] = next((x for x in self.attempts(scope) if estimate(shape, x).total <= room), None)
        return self._found[scope]

    def attempts(self, scope: str) -> Iterator[Load]:
        """Ways of training a scope, from the quickest to the most sparing; none where the device cannot do it."""
        if scope == "qlora" and self.now.machine.device == "mps":  # bitsandbytes has no 4-bit kernels for it
            return
        needed = self._demand(scope)
        optimizers: tuple[Optimizer, ...] = ("adamw", "adamw-8bit") if scope == "full" else ("adamw",)
        for optimizer in optimizers:
            for rows, checkpointing in ((8, False), (4, False), (8, True), (2, False), (4, True), (2, True), (1, True)):
                yield replace(needed, rows=rows, checkpointing=checkpointing, optimizer=optimizer)

    def _demand(self, scope: str) -> Load:
        """What the most demanding stage needs, whichever it is."""
        objectives = self.objectives
        text = self.now.task == "generation"
        reference = scope == "full" and any(o in ("dpo", "ipo", "kto") for o in objectives)
        return Load(
            scope,
            rows=1,
            length=self.now.length,
            rank=max((_value("rank", Stage(self.now, scope, o)).then for o in objectives), default=16),
            device=self.now.machine.device,
            head="language" if text else "classes",
            factor=2 if any(o in _PAIRED for o in objectives) else 1,
            copies=int(reference),
        )

    @functools.cached_property
    def objectives(self) -> tuple[str, ...]:
        """What would be learned, stage by stage; imitation where nothing can be."""
        rule = first(OBJECTIVES, self)
        return rule.then if rule else ("sft",) if self.now.task == "generation" else ("classify",)


def usable(free: int) -> int:
    """Bytes that a plan may take of the free ones."""
    return int(_USABLE * free)


def advise(now: Situation) -> Advice:
    """The advice for a situation; a pure function of it."""
    case = Considered(now)
    course = first(COURSES, case)
    assert course is not None  # noqa: S101 - the last rule always holds
    plan = _plan(case) if course.then in ("fine-tune", "prompt first") else None
    named = (plan.scope, *(stage.objective for stage in plan.stages)) if plan else ()
    others = tuple(other for name in named for other in OTHERS.get(name, ()))
    reason = Reason("course", course.then, course.because, course.sources)
    return Advice(course.then, reason, plan, others, tuple(_notes(case, plan)))


def sparing(now: Situation) -> Estimate:
    """What the most sparing training of the chosen scope would need; for saying how much memory is missing."""
    case = Considered(now)
    rule = first(SCOPES, case)
    *_, last = case.attempts(rule.then if rule else "qlora" if now.machine.device != "mps" else "lora")
    return estimate(now.shape, last)


def _plan(case: Considered) -> TrainingPlan | None:
    """The training, or None where there is nothing to learn from or it does not fit."""
    scope, objectives = first(SCOPES, case), first(OBJECTIVES, case)
    if scope is None or objectives is None:
        return None
    load = case.load(scope.then)
    if load is None:
        return None
    stages = tuple(_stage(Stage(case.now, scope.then, o), load) for o in objectives.then)
    effective = max(stage.batch * stage.accumulation for stage in stages)
    load = replace(load, accumulates=effective > load.rows)
    reasons = (
        Reason("scope", scope.then, scope.because, scope.sources),
        Reason("objective", " → ".join(objectives.then), objectives.because, objectives.sources),
    )
    options, why = _options(Stage(case.now, scope.then, objectives.then[0]))
    return TrainingPlan(scope.then, options, stages, load, estimate(case.now.shape, load), (*reasons, *why))


def _options(stage: Stage) -> tuple[dict[str, Any], tuple[Reason, ...]]:
    if stage.scope not in ADAPTERS:
        return {}, ()
    rank = _value("rank", stage)
    options: dict[str, Any] = {"rank": rank.then, "alpha": 2 * rank.then, "targets": "all-linear"}
    if rank.then >= 64:
        options["rslora"] = True
    alpha = Reason("alpha", 2 * rank.then, "twice the rank", ("Biderman 2024",))
    return options, (Reason("rank", rank.then, rank.because, rank.sources), alpha)


def _stage(stage: Stage, load: Load) -> StagePlan:
    batch = min(load.rows, _value("batch", stage).then)
    found = {name: _value(name, stage) for name in ("learning_rate", "epochs", "batch", "replay")}
    reasons = tuple(Reason(name, rule.then, rule.because, rule.sources) for name, rule in found.items())
    steps = stage.rows * found["epochs"].then / found["batch"].then
    return StagePlan(
        objective=stage.objective,
        learning_rate=None if stage.scope == "features" else found["learning_rate"].then,
        epochs=found["epochs"].then,
        batch=batch,
        accumulation=max(1, found["batch"].then // batch),
        warmup_steps=round(_WARMUP * steps),
        replay=found["replay"].then,
        validation=0.1 if stage.rows < 1_000 else 0.05,
        reasons=tuple(r for r in reasons if not (stage.scope == "features" and r.what != "replay")),
    )


def _value(name: str, stage: Stage) -> Rule[Stage, Any]:
    table: Sequence[Rule[Stage, Any]] = tables.TABLES[name]
    rule = first(table, stage)
    assert rule is not None  # noqa: S101 - the last rule of every table always holds
    return rule


def _notes(case: Considered, plan: TrainingPlan | None) -> Iterator[str]:
    now = case.now
    yield from now.shape.remarks
    if not now.shape.exact:
        yield "the model's shape was guessed from its number of parameters; --model reads the true one from its config"
    if now.shape.context is not None and now.length > now.shape.context:
        yield f"rows of {now.length:,} tokens are longer than the model's context of {now.shape.context:,}"
    if plan is None:
        return
    if plan.scope == "bitfit" and not now.shape.exact:
        yield "whether this model has biases is not known; where it has none, the scope is additive_bias"
    if any(s.objective in ("dpo", "kto") for s in plan.stages) and 0 < now.judgements < 1_000:
        yield f"{now.judgements:,} judgements are few; 1,000 to 10,000 are usual"
    if any(s.objective == "grpo" for s in plan.stages):
        yield "attempts are generated while it trains: the keys and values of 8 at a time come on top of the memory"
    if now.serving == "lowest-latency" and plan.scope == "lora":
        yield "serve it merged, which costs nothing at run time, and gate it so: `merge: true` in the gate's candidate"
    if now.serving == "lowest-latency" and plan.scope == "qlora":
        yield "an adapter cannot be merged into 4-bit weights without changing answers; it is served beside its base"
    if plan.load.rows == 1:
        yield "memory is so short that one row is trained at a time; shorter rows (--length) would help most"
    if now.machine.device == "cpu" and now.shape.parameters > 1_000_000_000:
        yield "on a CPU a model of this size trains for days; the memory is there, the time may not be"
