"""The advice: every rule decides somewhere, carries a source, and nothing gets worse by having more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.training.advice import rules
from harness.training.advice.deciding import Considered, advise, sparing
from harness.training.advice.machine import Machine
from harness.training.advice.memory import GIB
from harness.training.advice.settings import OTHERS, TABLES, Stage
from harness.training.advice.shapes import ModelShape, guessed
from harness.training.advice.situation import Situation
from harness.training.advice.sources import SOURCES
from tests.fuzzing import examples

ENCODER = replace(guessed(110_000_000), vocabulary=0, exact=True)
BIASED = replace(guessed(124_000_000), biases=120_000, exact=True)
UNBIASED = replace(guessed(124_000_000), exact=True)


def situation(
    shape: ModelShape | int = 7_000_000_000, gib: float = 80, device: Any = "cuda", **changes: Any
) -> Situation:
    shape = guessed(shape) if isinstance(shape, int) else shape
    now = Situation("generation", "behaviour", "gap", 3_000, shape, Machine("x", device, int(gib * GIB)))
    return replace(now, **changes)


CLASSES = {"task": "classification"}
ALL = {"keep": False, "rows": 6_000}
PAIRS = {"need": "preference", "feedback": "pairs", "judgements": 2_000}
LABELS = {**PAIRS, "feedback": "labels"}

COURSES = [
    ("prompting is enough", situation(prompting="enough")),
    ("changing facts", situation(need="knowledge", changing=True)),
    ("facts, nothing tried", situation(need="knowledge", prompting="untried")),
    ("format, nothing tried", situation(need="format", prompting="untried")),
    ("prompting untried", situation(prompting="untried")),
    ("no judgements", situation(need="preference")),
    ("nothing to learn from", situation(rows=20)),
    ("does not fit", situation(70_000_000_000, 24)),
    ("cheaper", situation(need="cost", prompting="untried")),
    ("facts, after retrieval", situation(need="knowledge")),
    ("measured gap", situation()),
    ("encoder", situation(ENCODER, prompting="untried", **CLASSES)),
]
OBJECTIVES = [
    ("classes", situation(**CLASSES)),
    ("preferred, after imitation", situation(**PAIRS)),
    ("preferred, after imitation", situation(**PAIRS | {"need": "behaviour", "priority": "quality"})),
    ("preferred", situation(**PAIRS, rows=0)),
    ("labelled good or bad, after imitation", situation(**LABELS)),
    ("labelled good or bad", situation(**LABELS, rows=0)),
    ("a judge prefers", situation(need="preference", teacher=True)),
    ("checked by a program", situation(rows=10, prompts=500, verifiable=True)),
    ("a teacher answers", situation(rows=10, prompts=500, teacher=True)),
    ("imitation, then reward", situation(verifiable=True, priority="quality")),
    ("imitation", situation()),
]
SCOPES = [
    ("few classified rows", situation(**CLASSES, rows=500)),
    ("classified by an encoder", situation(ENCODER, **CLASSES)),
    ("classified by a decoder", situation(**CLASSES)),
    ("smallest change", situation(BIASED, priority="smallest")),
    ("smallest change", situation(priority="smallest")),
    ("smallest change, no biases", situation(UNBIASED, priority="smallest")),
    ("many adapters", situation(serving="many")),
    ("best narrow quality", situation(500_000_000, **ALL, priority="quality")),
    ("into a smaller model", situation(500_000_000, **ALL, need="cost")),
    ("default", situation()),
    ("large base", situation(70_000_000_000, 60)),
]


@pytest.mark.parametrize(("name", "now"), COURSES)
def test_course(name: str, now: Situation) -> None:
    rule = rules.first(rules.COURSES, Considered(now))
    assert rule is not None
    assert rule.name == name
    assert advise(now).course == rule.then


@pytest.mark.parametrize(("name", "now"), OBJECTIVES)
def test_objective(name: str, now: Situation) -> None:
    rule = rules.first(rules.OBJECTIVES, Considered(now))
    assert rule is not None
    assert rule.name == name


@pytest.mark.parametrize(("name", "now"), SCOPES)
def test_scope(name: str, now: Situation) -> None:
    rule = rules.first(rules.SCOPES, Considered(now))
    assert rule is not None
    assert rule.name == name


SETTINGS = {
    "learning_rate": [
        ("rewarded, adapter", "lora", "grpo", {}),
        ("rewarded", "full", "grpo", {}),
        ("judged, adapter", "qlora", "dpo", {}),
        ("judged", "full", "kto", {}),
        ("large base", "qlora", "sft", {"shape": guessed(33_000_000_000)}),
        ("adapter, keeping skills", "lora", "sft", {}),
        ("adapter", "lora", "sft", {"keep": False}),
        ("biases", "bitfit", "sft", {}),
        ("head", "head", "classify", {}),
        ("all weights, keeping skills", "full", "sft", {}),
        ("all weights", "full", "sft", {"keep": False}),
    ],
    "epochs": [
        ("judged", "lora", "dpo", {}),
        ("classes", "head", "classify", {}),
        ("few rows", "lora", "sft", {"rows": 500, "keep": False}),
        ("few rows, keeping skills", "lora", "sft", {"rows": 500}),
        ("some rows", "lora", "sft", {"keep": False}),
        ("many rows, or skills to keep", "lora", "sft", {}),
    ],
    "rank": [
        ("quality", "lora", "sft", {"priority": "quality"}),
        ("reward", "lora", "grpo", {}),
        ("few rows", "lora", "sft", {"rows": 500}),
        ("some rows", "lora", "sft", {}),
        ("many rows", "lora", "sft", {"rows": 20_000}),
    ],
    "batch": [
        ("rewarded", "lora", "grpo", {}),
        ("judged", "lora", "dpo", {}),
        ("classes", "head", "classify", {}),
        ("imitation", "lora", "sft", {}),
    ],
    "replay": [
        ("nothing can be forgotten", "features", "classify", {}),
        ("no imitation", "lora", "dpo", {}),
        ("nothing to keep", "lora", "sft", {"keep": False}),
        ("all weights", "full", "sft", {}),
        ("adapter", "lora", "sft", {}),
    ],
}


@pytest.mark.parametrize(
    ("table", "name", "scope", "objective", "changes"),
    [(table, *row) for table, rows in SETTINGS.items() for row in rows],
)
def test_starting_value(table: str, name: str, scope: str, objective: str, changes: dict[str, Any]) -> None:
    rule = rules.first(TABLES[table], Stage(situation(**changes), scope, objective))
    assert rule is not None
    assert rule.name == name


def test_every_rule_is_reached_by_a_case_above() -> None:
    reached = {"courses": COURSES, "objectives": OBJECTIVES, "scopes": SCOPES}
    for name, cases in reached.items():
        assert {case[0] for case in cases} == {rule.name for rule in getattr(rules, name.upper())}
    for name, table in TABLES.items():
        assert {case[0] for case in SETTINGS[name]} == {rule.name for rule in table}


def test_every_rule_has_sources_that_exist_and_no_source_is_idle() -> None:
    tables = [rules.COURSES, rules.OBJECTIVES, rules.SCOPES, *TABLES.values()]
    named = {source for table in tables for rule in table for source in rule.sources}
    named |= {source for others in OTHERS.values() for _, _, source in others}
    assert all(rule.sources and rule.because for table in tables for rule in table)
    assert named <= SOURCES.keys()
    in_memory = {"Rajbhandari 2019", "Dettmers 2021", "Korthikanti 2022", "Chen 2016", "Wijmans 2024"}
    in_docstrings = {"Dao 2022", "Kaplan 2020"}
    assert named | in_memory | in_docstrings == SOURCES.keys()


def test_learning_rates_lie_where_such_trainings_succeed() -> None:
    for scope, low, high in (("lora", 1e-5, 5e-4), ("qlora", 1e-5, 5e-4), ("full", 1e-6, 5e-5)):
        for keep in (True, False):
            rule = rules.first(TABLES["learning_rate"], Stage(situation(keep=keep), scope, "sft"))
            assert rule is not None
            assert low <= rule.then <= high


# ---------------------------------------------------------------- properties

SIZES = st.sampled_from([124_000_000, 500_000_000, 1_500_000_000, 8_000_000_000, 32_000_000_000, 70_000_000_000])
SHAPES = SIZES.map(guessed) | st.sampled_from([ENCODER, BIASED, UNBIASED])
ROWS = st.integers(0, 200_000)
SITUATIONS = st.builds(
    Situation,
    task=st.sampled_from(["generation", "classification"]),
    need=st.sampled_from(["behaviour", "format", "knowledge", "preference", "cost"]),
    prompting=st.sampled_from(["untried", "gap", "enough"]),
    rows=ROWS,
    shape=SHAPES,
    machine=st.builds(Machine, st.just("x"), st.sampled_from(["cuda", "cpu", "mps"]), st.integers(GIB, 700 * GIB)),
    prompts=ROWS,
    changing=st.booleans(),
    feedback=st.sampled_from(["none", "pairs", "labels"]),
    judgements=ROWS,
    verifiable=st.booleans(),
    teacher=st.booleans(),
    serving=st.sampled_from(["one", "many", "lowest-latency"]),
    keep=st.booleans(),
    priority=st.sampled_from(["balanced", "quality", "smallest"]),
    length=st.sampled_from([256, 1_024, 8_192]),
)
THOROUGH = settings(max_examples=examples(60), deadline=None)


@THOROUGH
@given(SITUATIONS)
def test_what_is_advised_fits_and_is_complete(now: Situation) -> None:
    advice = advise(now)
    assert advice == advise(now)
    assert set(advice.reason.sources) <= SOURCES.keys()
    if advice.trains:
        assert advice.plan is not None
    if advice.plan is None:
        return
    assert advice.plan.memory.total <= now.machine.free
    assert advice.plan.scope in rules.SCOPES_BY_SIZE
    for stage in advice.plan.stages:
        assert stage.replay == 0 or 0.05 <= stage.replay <= 0.2
        assert now.keep or stage.replay == 0
        assert 1 <= stage.epochs <= 3
        assert stage.batch * stage.accumulation <= 64


@THOROUGH
@given(SITUATIONS, st.integers(0, 700 * GIB))
def test_more_memory_never_restricts_the_scope(now: Situation, more: int) -> None:
    roomier = replace(now, machine=replace(now.machine, free=now.machine.free + more))
    before, after = advise(now), advise(roomier)
    if before.plan is None:
        assert before.course == after.course or before.course == "too large" or before.course == "prompt first"
        return
    assert after.plan is not None
    size = rules.SCOPES_BY_SIZE.index
    assert size(after.plan.scope) >= size(before.plan.scope)
    if after.plan.scope == before.plan.scope:
        attempts = [(x.rows, x.checkpointing, x.optimizer) for x in Considered(now).attempts(after.plan.scope)]
        places = [
            attempts.index((p.load.rows, p.load.checkpointing, p.load.optimizer)) for p in (before.plan, after.plan)
        ]
        assert places[1] <= places[0]


@THOROUGH
@given(SITUATIONS, ROWS)
def test_more_rows_never_stop_a_training(now: Situation, more: int) -> None:
    after = advise(replace(now, rows=now.rows + more))
    if advise(now).trains:
        assert after.trains or after.course == "too large"  # a second stage, or a higher rank, may need more memory
    if now.task == "generation" and after.plan and after.plan.stages[0].objective == "sft" and advise(now).plan:
        earlier = advise(now).plan
        assert earlier is not None
        if earlier.stages[0].objective == "sft":
            assert after.plan.stages[0].epochs <= earlier.stages[0].epochs


@THOROUGH
@given(SITUATIONS)
def test_nothing_is_trained_against_the_evidence(now: Situation) -> None:
    assert not advise(replace(now, prompting="enough")).trains
    assert not advise(replace(now, need="knowledge", changing=True)).trains
    assume(now.shape.decoder and now.need != "cost")
    assert not advise(replace(now, prompting="untried")).trains


@THOROUGH
@given(SITUATIONS)
def test_old_skills_at_risk_never_make_a_training_harsher(now: Situation) -> None:
    keeping, careless = advise(replace(now, keep=True)).plan, advise(replace(now, keep=False)).plan
    if keeping is None or careless is None:
        return
    size = rules.SCOPES_BY_SIZE.index
    assert size(keeping.scope) <= size(careless.scope)
    if keeping.scope == careless.scope:
        for gentle, harsh in zip(keeping.stages, careless.stages, strict=True):
            assert gentle.epochs <= harsh.epochs
            assert (gentle.learning_rate or 0) <= (harsh.learning_rate or 0)
            assert gentle.replay >= harsh.replay


def test_4_bits_are_not_advised_where_there_is_no_kernel_for_them() -> None:
    assert advise(situation(8_000_000_000, 12, device="cuda")).plan is not None
    assert advise(situation(8_000_000_000, 12, device="mps")).course == "too large"
    assert sparing(situation(8_000_000_000, 12, device="mps")).total > 12 * GIB
