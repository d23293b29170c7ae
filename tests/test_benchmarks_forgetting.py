"""The benchmark of what keeps old skills: its arms differ in one thing, its rows are unseen, its tables say what is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.forgetting_bench import telling
from benchmarks.forgetting_bench.settings import ARMS, CARELESS, SETTINGS, write_project
from benchmarks.forgetting_bench.trials import TARGET, gain, loss, mean_loss
from harness.config import load_gate
from harness.demo.frozen import GOLDEN_SKILLS, golden_questions
from harness.errors import ConfigError
from harness.training.recipe import load_recipe

CASES = [(s, arm, value) for s in SETTINGS.values() for arm in ARMS for value in arm.strengths.get(s.name, ())]


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Places at which two documents differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [d for key in {*ours, *theirs} for d in differences(ours.get(key), theirs.get(key), f"{where}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [d for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for d in differences(a, b, f"{where}.{i}")]
    return [] if ours == theirs else [where]


def test_every_arm_adds_one_thing_to_the_careless_recipe() -> None:
    for setting, arm, strength in CASES:
        careless, changed = setting.recipe(1, ARMS[0], None), setting.recipe(1, arm, strength)
        assert len(differences(careless, changed)) == 1, (setting.name, arm.name)


@pytest.mark.slow
def test_what_the_guard_costs_is_measured_at_its_defaults_and_over_the_whole_training(tmp_path: Path) -> None:
    from harness.training.recipe import GuardingSection

    setting = SETTINGS["high"]
    recipe = load_recipe(write_project(tmp_path / "p", setting, 1, ARMS[0], None, guard=True)).recipe
    assert recipe.stages[0].forgetting.guard == GuardingSection(patience=setting.steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_a_project_can_be_trained_and_holds_no_frozen_question(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(write_project(tmp_path / "p", SETTINGS[name], 1, ARMS[0], None))
    assert load_gate(tmp_path / "p" / recipe.recipe.gate).gate.for_sweeps
    frozen = {question.prompt for skill in GOLDEN_SKILLS for question in golden_questions(skill)}
    for rows in ("new.jsonl", "broad.jsonl"):
        prompts = [json.loads(line)["prompt"] for line in (tmp_path / "p" / rows).read_text().splitlines()]
        assert prompts
        assert len(set(prompts)) == len(prompts)
        assert not frozen & set(prompts)


def test_a_demo_project_is_written_once_and_its_gate_names_its_model(tmp_path: Path) -> None:
    from harness.demo.project import write_project as write_demo

    *_, gate = write_demo(tmp_path / "walk")
    assert yaml.safe_load(gate.read_text())["candidate"]["model"] == "model"
    assert load_gate(gate).gate.suites
    with pytest.raises(ConfigError, match="not empty"):
        write_demo(tmp_path / "walk")


def trial(gained: float, lost: float, **more: Any) -> dict[str, Any]:
    found = {TARGET: gained, "demo-add": -lost, "demo-sort": 0.1}
    return {"differences": found, "outcome": {"steps": 10}, "curve": [], **more}


def test_what_was_gained_and_lost_is_read_from_the_gates_differences() -> None:
    one = trial(0.9, 0.4)
    assert (gain(one), loss(one)) == (0.9, 0.4)
    assert mean_loss(one) == pytest.approx(0.15)
    assert loss(trial(0.9, -0.2)) == 0


def found(name: str, *trials: dict[str, Any]) -> telling.Found:
    return telling.Found(name, name, None if name == CARELESS else 1.0, trials)


def test_both_aims_are_met_only_by_half_the_loss_at_four_fifths_of_the_gain() -> None:
    careless = found(CARELESS, trial(1.0, 0.4), trial(0.9, 0.6))
    rows = [(0.76, 0.25, "yes"), (0.75, 0.25, "**no**"), (0.9, 0.26, "**no**")]
    for gained, lost, both in rows:
        line = telling.arms_table([careless, found("x", trial(gained, lost))]).splitlines()[-1]
        assert line.endswith(f"| {both} |"), line
    assert "95.0 (90.0 to 100.0)" in telling.arms_table([careless])


def test_the_guards_cost_is_the_ratio_within_a_round() -> None:
    def run(seconds: float, **outcome: Any) -> dict[str, Any]:
        return {"seconds": seconds, "cpu_seconds": seconds / 2, "outcome": outcome}

    pairs = [(run(10.0), run(11.0, looks=3, looks_share=0.1)), (run(20.0), run(24.0, looks=3, looks_share=0.1))]
    assert "+15.0% (+10.0% to +20.0%)" in telling.cost_table({"a training": pairs})


def test_the_figure_is_well_formed_and_shows_where_the_guards_weights_are_from() -> None:
    from xml.etree import ElementTree

    scores = {TARGET.removeprefix("demo-"): 0.5, "add": 0.2, "sort": 0.4}
    one = trial(0.9, 0.4, curve=[{"step": 5, "scores": scores}, {"step": 10, "scores": scores}])
    kept = {**one, "outcome": {"steps": 10, "kept_step": 5}}
    setting = SETTINGS["high"]
    text = telling.figure({"high": (setting, [found(CARELESS, one), found("guard", kept)])}, "a < b")
    root = ElementTree.fromstring(text)  # noqa: S314
    assert len([e for e in root.iter() if e.get("stroke") == "#2f855a"]) == 1
