"""`harness advise` as a user meets it: flags, the dialogue, the page, the document, and a recipe that loads."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings

from harness import plugins
from harness.cli import main
from harness.errors import ConfigError, DataError
from harness.training.advice import asking, command, rules
from harness.training.advice.asking import QUESTIONS, count_rows, settle
from harness.training.advice.deciding import advise
from harness.training.advice.shapes import guessed
from harness.training.advice.situation import Situation
from harness.training.advice.telling import as_document, tell
from harness.training.advice.writing import Places, recipe_text
from harness.training.recipe import Recipe, load_recipe
from tests.test_advice_rules import ALL, CLASSES, LABELS, OBJECTIVES, PAIRS, SCOPES, SITUATIONS, situation

FLAGS = {
    "--model": "7B", "--task": "generation", "--need": "behaviour", "--prompting": "gap", "--rows": "5k",
    "--memory": "80GB",
}  # fmt: skip


def flags(**changes: str | None) -> list[str]:
    chosen = {**FLAGS, **{f"--{key}": value for key, value in changes.items()}}
    return [part for flag, value in chosen.items() if value is not None for part in (flag, value)]


def harness(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["advise", *arguments])
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    return said


# ---------------------------------------------------------------- flags


def test_flags_alone_are_enough_and_what_was_not_said_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    out = harness(capsys, *flags()).out
    assert "Fine-tune." in out
    assert "arXiv 2106.09685" in " ".join(out.split())  # however narrow the terminal is
    assert "--keep" in out.split("Assumed")[1]


def test_one_document_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    said = harness(capsys, *flags(), "--json", "--no-keep")
    document = json.loads(said.out)
    assert document["train"] is True
    assert document["plan"]["scope"] == "lora"
    assert document["situation"]["rows"] == 5_000
    assert document["situation"]["keep"] is False
    assert document["plan"]["memory"]["total"] <= document["situation"]["machine"]["free"]
    cited = {source for reason in document["plan"]["reasons"] for source in reason["sources"]}
    assert cited <= document["sources"].keys()


def test_missing_flags_are_named_where_nobody_can_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    err = harness(capsys, *flags(task=None, rows=None), code=2).err
    assert "missing: --task, --rows" in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "generaton"}, "did you mean 'generation'"),
        ({"rows": "many"}, "--rows 'many': expected a number"),
        ({"memory": "lots"}, "no amount of memory"),
        ({"device": "gpu"}, "--device 'gpu'"),
        ({"memory": None, "device": "cuda"}, "--device says what --memory is of"),
        pytest.param({"model": "./nowhere/at/all"}, "cannot be read|no config", marks=pytest.mark.slow),
        ({"parameters": "x"}, "no number of parameters"),
        ({"rows": None, "data": "nowhere.jsonl"}, "no such file"),
    ],
)
def test_a_wrong_flag_is_one_message(capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str) -> None:
    err = harness(capsys, *flags(**changes), code=2).err
    assert any(part in err for part in said.split("|")), err


def test_rows_are_counted_in_the_data(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n')
    assert count_rows(path) == 2
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["a", "b", "c"]}), tmp_path / "rows.parquet")
    assert count_rows(tmp_path / "rows.parquet") == 3
    (tmp_path / "rows.csv").write_text("a\n")
    with pytest.raises(DataError, match="--rows"):
        count_rows(tmp_path / "rows.csv")


@pytest.mark.slow
def test_starting_without_a_model_config_loads_no_model_library() -> None:
    heavy = ("torch", "transformers", "peft", "trl", "scipy", "datasets", "lm_eval")
    code = (
        "import sys\nfrom harness.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "advise", *flags()]
    result = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert result.stderr.strip() == "[]"
    assert "Fine-tune." in result.stdout


# ---------------------------------------------------------------- the dialogue


class Typist:
    """Answers questions from a script; an empty answer takes what is offered."""

    def __init__(self, **answers: str) -> None:
        self.answers, self.asked = answers, list[str]()

    def __call__(self, question: str) -> str:
        key = next(q.key for q in QUESTIONS if q.text in question)
        self.asked.append(question)
        return self.answers.pop(key, "")


def test_the_dialogue_asks_what_applies_and_takes_defaults() -> None:
    typist = Typist(model="7B", task="g", need="b", prompting="gap", rows="3k")
    now = settle({"memory": "80GB"}, typist).now
    assert replace(now, machine=situation().machine) == situation()
    asked = " ".join(typist.asked)
    assert "How many judgements?" not in asked  # nothing was judged
    assert "change more often" not in asked  # no facts are needed
    assert "(generation/classification)" in asked
    assert "[yes]" in asked


def test_the_dialogue_asks_again_after_what_is_no_answer() -> None:
    said = iter(["", "12 dozen", "500"])
    typist = Typist(model="7B", task="c", need="b", prompting="gap")
    settled = settle({"memory": "80GB"}, lambda q: next(said) if "How many rows" in q else typist(q))
    assert settled.now.rows == 500
    assert settled.now.task == "classification"


def test_nothing_is_asked_where_everything_needed_was_said() -> None:
    def refuse(question: str) -> str:
        raise AssertionError(question)

    given = {key.removeprefix("--"): value for key, value in FLAGS.items()}
    settled = settle(given, refuse)
    assert settled.now.rows == 5_000
    assert "--priority balanced" in settled.assumed


def test_questions_and_options_of_the_command_line_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(harness(capsys, *flags(), "--json").out)
    fields = set(document["situation"]) - {"shape", "machine"}
    assert fields == {q.key for q in QUESTIONS} - {"model"}
    assert {*fields, "model", "parameters", "memory", "device", "data", "gate"} <= command.GIVEN


# ---------------------------------------------------------------- the page


def test_the_page_is_as_wide_as_the_terminal() -> None:
    for _, now in (*SCOPES, *OBJECTIVES):
        for line in tell(advise(now), now, ("--keep",), width=72).splitlines():
            assert len(line) <= 72 or " " not in line.strip()


def test_too_large_says_how_much_is_missing() -> None:
    now = situation(70_000_000_000, 24)
    page = " ".join(tell(advise(now), now).split())
    assert "needed at least" in page
    assert "24.0 GiB free" in page


@settings(max_examples=60, deadline=None)
@given(SITUATIONS)
def test_every_page_and_document_can_be_made(now: Situation) -> None:
    advice = advise(now)
    assert tell(advice, now)
    assert json.loads(json.dumps(as_document(advice, now, ())))["course"] == advice.course


# ---------------------------------------------------------------- the recipe


@settings(max_examples=60, deadline=None)
@given(SITUATIONS)
def test_every_plan_is_a_recipe(now: Situation) -> None:
    advice = advise(now)
    if advice.plan is None:
        with pytest.raises(ValueError, match="has no recipe"):
            recipe_text(advice, now, Places())
        return
    recipe = Recipe.model_validate(yaml.safe_load(recipe_text(advice, now, Places())))
    assert recipe.scope.kind == advice.plan.scope
    assert [stage.objective.kind for stage in recipe.stages] == [stage.objective for stage in advice.plan.stages]
    for section, stage in zip(recipe.stages, advice.plan.stages, strict=True):
        if advice.plan.scope != "features":
            assert section.settings.learning_rate == stage.learning_rate
            assert section.settings.batch_size * section.settings.gradient_accumulation >= min(stage.batch, 16)
        assert (section.data.replay.share if section.data.replay else 0) == stage.replay


def test_the_recipe_says_what_to_fill_in_and_nothing_once_all_is_named(tmp_path: Path) -> None:
    now = situation()
    assert recipe_text(advise(now), now, Places()).count("FILL IN") == 1 + 4
    places = Places("base", None, "train.jsonl", None, "broad.jsonl", "gate.yaml")
    text = recipe_text(advise(now), now, places)
    assert text.count("FILL IN") == 1
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert load_recipe(path).recipe.base.model == "base"


@pytest.mark.parametrize(
    ("now", "stages", "marked"),
    [
        (situation(**PAIRS), ["sft", "dpo"], "chosen and rejected"),
        (situation(**LABELS), ["sft", "kto"], "label (true: wanted)"),
        (situation(rows=0, prompts=500, verifiable=True), ["grpo"], "name the reward"),
        (situation(rows=0, prompts=500, teacher=True), ["sft"], "answers that the stronger model has written"),
        (situation(need="preference", teacher=True), ["dpo"], "pairs that the stronger model has labelled"),
        (situation(**CLASSES), ["classify"], "text and label"),
        (situation(500_000_000, **ALL, priority="quality"), ["sft"], "float32"),
    ],
)
def test_stages_name_their_rows_and_what_they_need(now: Situation, stages: list[str], marked: str) -> None:
    text = recipe_text(advise(now), now, Places())
    assert [stage["name"] for stage in yaml.safe_load(text)["stages"]] == stages
    assert marked in text


def test_paths_in_the_recipe_start_at_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data" / "train.jsonl"
    data.parent.mkdir()
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 300)
    out = tmp_path / "recipe.yaml"
    said = harness(capsys, *flags(rows=None, data=str(data)), "--out", str(out)).out
    assert "Recipe: " in said
    assert load_recipe(out).recipe.stages[0].data.train[0].path == "data/train.jsonl"


def test_a_recipe_against_the_advice_is_not_handed_over_quietly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recipe.yaml"
    assert "No recipe" in harness(capsys, *flags(prompting="enough"), "--out", str(out), code=3).out
    assert not out.exists()
    assert "falls short" in harness(capsys, *flags(prompting="untried"), "--out", str(out), code=3).out
    assert load_recipe(out).path.read_text().count("Measure prompting first") == 1
    document = json.loads(harness(capsys, *flags(rows="3"), "--out", str(out), "--json", code=3).out)
    assert document["recipe"] is None


# ---------------------------------------------------------------- with the plugins


@pytest.mark.parametrize("scope", rules.SCOPES_BY_SIZE)
def test_scopes_that_are_advised_are_plugins_and_take_these_options(scope: str) -> None:
    if scope not in plugins.names("training.scopes"):
        pytest.skip("this checkout has no such scope yet")
    found = [advise(now).plan for _, now in (*SCOPES, *OBJECTIVES)]
    for options in [plan.options for plan in found if plan is not None and plan.scope == scope] or [{}]:
        plugins.options("training.scopes", scope, options, where="advice")


@pytest.mark.parametrize("objective", sorted({o for rule in rules.OBJECTIVES for o in rule.then}))
def test_objectives_that_are_advised_are_plugins(objective: str) -> None:
    if not plugins.names("training.objectives"):
        pytest.skip("this checkout has no objectives yet")
    assert objective in plugins.names("training.objectives")


@pytest.mark.slow
def test_a_model_is_read_from_its_config(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM

    document = json.loads(harness(capsys, *flags(model=str(tiny.model("qwen2")), memory="4GB"), "--json").out)
    model = AutoModelForCausalLM.from_pretrained(tiny.model("qwen2"))
    assert document["situation"]["shape"]["exact"] is True
    assert document["situation"]["length"] == 256  # the model's context
    assert document["situation"]["shape"]["parameters"] == sum(p.numel() for p in model.parameters())


def test_a_shape_is_told_in_a_line() -> None:
    assert asking.describe(guessed(7_000_000_000)) == "a decoder of 7.00 B parameters"
    assert "layers of" in asking.describe(replace(guessed(7_000_000_000), exact=True, name="m"))
    with pytest.raises(ConfigError, match="nothing was named"):
        QUESTIONS[0].parse(" ")
