"""The demo's committed files: written again they are the same bytes, and no training ever saw their questions."""

import json
from pathlib import Path

import pytest
import yaml

from harness.demo import frozen
from harness.demo.skills import NEW_SKILL, OLD_SKILLS, Question, skill_named
from harness.demo.training import PLANS, training_rows
from harness.goldens import load_card, read_samples

ROOT = Path(__file__).parent.parent
GOLDENSETS = ROOT / "goldensets"
NAMES = [skill.name for skill in frozen.GOLDEN_SKILLS]


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def frozen_prompts() -> set[str]:
    prompts = {row["prompt"] for name in NAMES for row in rows_of(GOLDENSETS / f"demo-{name}/1/samples.jsonl")}
    return prompts | {row["question"] for row in rows_of(frozen.TASKS / "demo_opposites_test.jsonl")}


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_set_written_again_is_the_same_bytes(name: str, tmp_path: Path):
    frozen.write_golden(skill_named(name), tmp_path)
    for file in ("card.yaml", "samples.jsonl"):
        place = Path(f"demo-{name}", frozen.VERSION, file)
        assert (tmp_path / place).read_bytes() == (GOLDENSETS / place).read_bytes()


def test_the_capability_task_written_again_is_the_same_bytes(tmp_path: Path):
    frozen.write_capability(tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted(path.name for path in frozen.TASKS.iterdir())
    for name in written:
        assert (tmp_path / name).read_bytes() == (frozen.TASKS / name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_set_is_one_that_the_product_reads(name: str):
    folder = GOLDENSETS / f"demo-{name}" / frozen.VERSION
    card = load_card(folder)
    samples = read_samples(folder / "samples.jsonl", card)
    assert 200 <= len(samples) <= 300
    assert {tag for sample in samples for tag in sample.tags} == set(card.tags)
    assert len({sample.prompt for sample in samples}) == len(samples)


@pytest.mark.parametrize("style", sorted(PLANS))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_training_row_is_a_frozen_question(style, seed: int):
    rows, replayed = training_rows(PLANS[style], seed)
    assert not frozen_prompts() & {row.prompt for row in rows}
    assert replayed == sum(not row.prompt.startswith("Consonants of") for row in rows)


def test_pretraining_draws_from_the_old_skills_alone():
    assert NEW_SKILL.name not in {skill.name for skill in OLD_SKILLS}
    assert all(skill_named(name).kept(Question(prompt, "", "")) for name, prompt in named_prompts())


def named_prompts() -> list[tuple[str, str]]:
    return [(n, row["prompt"]) for n in NAMES for row in rows_of(GOLDENSETS / f"demo-{n}/1/samples.jsonl")]


def test_shots_of_the_capability_task_are_no_rows_of_it():
    test = {row["question"] for row in rows_of(frozen.TASKS / "demo_opposites_test.jsonl")}
    shots = {row["question"] for row in rows_of(frozen.TASKS / "demo_opposites_shots.jsonl")}
    assert len(test) >= 200
    assert shots
    assert not test & shots


def test_choices_hold_the_answer_once():
    for row in rows_of(frozen.TASKS / "demo_opposites_test.jsonl"):
        assert len(set(row["choices"])) == len(row["choices"]) == 4
        assert 0 <= row["answer"] < 4


def test_the_task_names_its_files_relative_to_itself():
    task = yaml.safe_load((frozen.TASKS / "demo_opposites.yaml").read_text(encoding="utf-8"))
    for name in task["dataset_kwargs"]["data_files"].values():
        assert (frozen.TASKS / name).is_file()
