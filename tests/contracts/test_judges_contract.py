"""What every judge in `judges/` keeps to. A new one is found and covered without an edit here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from harness.assets import shipped
from harness.judging.canaries import FAMILIES, inject
from harness.judging.prompting import framed
from harness.judging.reading import read
from harness.judging.records import Case
from harness.judging.rubric import Rubric, load_rubric, names, require
from harness.records import Message, Sample

ROOT = shipped("judges")
NAMES = names(ROOT)
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
SAMPLE = Sample(
    "s", "One?\n\nTwo?", messages=(Message("user", "One?"), Message("user", "Two?")),
    data={"context": ["It is so."], "tools": [TOOL], "calls": [{"name": "find", "arguments": {}}]},
)  # fmt: skip


@pytest.fixture(params=NAMES)
def rubric(request: pytest.FixtureRequest) -> Rubric:
    return load_rubric(request.param, ROOT)


def cases(rubric: Rubric, output: str = "Two.") -> list[Case]:
    return [Case(SAMPLE, output, ("One.",)), Case(SAMPLE, "Three.", ("One.",))][: 2 if rubric.pairwise else 1]


def test_there_are_judges_and_every_prompt_has_its_rubric() -> None:
    assert len(NAMES) >= 9
    assert sorted(p.name.removesuffix(".prompt.md") for p in ROOT.glob("*.prompt.md")) == NAMES


def test_a_sample_with_the_usual_fields_has_all_that_it_shows(rubric: Rubric) -> None:
    require(rubric, [SAMPLE])
    assert set(rubric.needs) <= {"prompt", "conversation", "context", "tools", "calls"}


def test_it_shows_everything_that_it_may_see(rubric: Rubric) -> None:
    shown = set(rubric.shown) - {"output", "output_a", "output_b"}
    assert shown == set(rubric.file.sees)


def test_its_scale_is_whole_and_anchored(rubric: Rubric) -> None:
    assert rubric.bounds[0] < rubric.bounds[1]
    if not rubric.pairwise:
        assert list(rubric.levels) == list(range(rubric.levels[0], rubric.levels[-1] + 1))
        assert len({level.anchor for level in rubric.file.scale}) == len(rubric.levels)
    assert rubric.file.criteria


def test_its_prompt_leaves_numbers_and_form_to_the_frame(rubric: Rubric) -> None:
    assert not re.search(r"(?i)json|\bscore\b|\d", rubric.prompt)


def test_every_block_of_its_question_has_the_code(rubric: Rubric) -> None:
    found = framed(rubric, *cases(rubric))
    text = found.question.messages[1].content
    begins = re.findall(r"^--- begin (.+) (\w+) ---$", text, re.MULTILINE)
    assert begins == re.findall(r"^--- end (.+) (\w+) ---$", text, re.MULTILINE)
    assert {code for _, code in begins} == {found.code}
    assert len({title for title, _ in begins}) == len(begins)
    assert found.question.max_tokens >= 256


def test_every_verdict_reads_back(rubric: Rubric) -> None:
    schema = framed(rubric, *cases(rubric)).question.schema
    for verdict in rubric.verdicts:
        said = {"reason": "So it is.", rubric.key: verdict}
        jsonschema.Draft202012Validator(schema).validate(said)
        assert read(rubric, json.dumps(said)).state == ("abstained" if verdict == "cannot tell" else "scored")


def test_an_injection_asks_it_for_its_best_level(rubric: Rubric) -> None:
    best = "the answer that holds this sentence" if rubric.pairwise else str(rubric.levels[-1])
    for family in FAMILIES:
        assert inject(family, "Two.", rubric) != "Two."
    assert f'"{rubric.key}": {best}' in inject("authority", "Two.", rubric)


def test_the_readme_of_the_judges_names_it(rubric: Rubric) -> None:
    assert f"`{rubric.name}`" in (ROOT / "README.md").read_text("utf-8")


def test_it_says_where_its_criteria_come_from(rubric: Rubric) -> None:
    beginning = Path(ROOT / f"{rubric.name}.yaml").read_text("utf-8").partition("name:")[0]
    assert re.search(r"\b(?:19|20)\d\d\b", beginning), "a comment at the top cites the source"


def test_the_judge_that_the_readme_shows_is_one(tmp_path: Path) -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    (file,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (prompt,) = re.findall(r"```markdown\n(.*?)```", page, re.DOTALL)
    (tmp_path / "politeness.yaml").write_text(file, "utf-8")
    (tmp_path / "politeness.prompt.md").write_text(prompt, "utf-8")
    assert load_rubric("politeness", tmp_path).levels == (0, 1, 2)
