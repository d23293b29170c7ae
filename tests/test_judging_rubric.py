"""Rubrics: what two files come to, and one clear error for each way in which they can be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, DataError, PluginError
from harness.judging import rubric as module
from harness.judging.rubric import json_schema, load_rubric, names, require
from harness.records import Sample
from tests.judging_example import FILE, PROMPT, SAMPLE, SCALE, pair_rubric, rubric, write


def test_a_rubric_is_what_its_two_files_say(tmp_path: Path) -> None:
    made = rubric(tmp_path, abstain=True, parse={"key": "grade"})
    assert (made.name, made.version, made.pairwise, made.bounds) == ("quality", 1, False, (1.0, 3.0))
    assert (made.levels, made.key, made.verdicts) == ((1, 2, 3), "grade", (1, 2, 3, "cannot tell"))
    assert made.shown == ("context", "prompt", "output")
    assert made.needs == ("context", "prompt")
    assert names(tmp_path) == ["quality"]


def test_a_pairwise_rubric_says_a_side(tmp_path: Path) -> None:
    made = pair_rubric(tmp_path)
    assert (made.pairwise, made.bounds, made.key) == (True, (-1.0, 1.0), "better")
    assert made.verdicts == ("A", "B", "tie")
    assert made.needs == ("conversation",)


def test_the_folder_is_found_from_where_one_stands(tmp_path: Path) -> None:
    write(tmp_path / "judges")
    (tmp_path / "deep" / "down").mkdir(parents=True)
    assert load_rubric("quality", start=tmp_path / "deep" / "down").name == "quality"


def test_the_hash_changes_with_whatever_can_change_a_judgement(tmp_path: Path, monkeypatch: Any) -> None:
    made = [
        rubric(tmp_path), rubric(tmp_path, PROMPT + "\nLook twice."), rubric(tmp_path, criteria=["It is short."]),
        rubric(tmp_path, scale=[*SCALE[:2], {**SCALE[2], "anchor": "Perfect."}]), rubric(tmp_path, version=2),
        rubric(tmp_path, abstain=True), rubric(tmp_path, max_tokens=100), rubric(tmp_path, max_chars=1000),
        rubric(tmp_path, checks=[{"metric": "contains", "options": {"mode": "all"}}]),
    ]  # fmt: skip
    assert len({r.hash for r in made}) == len(made)
    assert rubric(tmp_path, description="Said otherwise.").hash == made[0].hash
    monkeypatch.setattr(module, "FRAMING_VERSION", 0)
    assert rubric(tmp_path).hash != made[0].hash


def test_the_order_of_keys_and_comments_mean_nothing(tmp_path: Path) -> None:
    before = rubric(tmp_path)
    path = tmp_path / "quality.yaml"
    path.write_text("# a comment\n" + path.read_text("utf-8"), "utf-8")
    assert load_rubric("quality", tmp_path).hash == before.hash


def test_an_unknown_judge_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match="no judge 'qualty': did you mean 'quality'"):
        load_rubric("qualty", tmp_path)
    with pytest.raises(ConfigError, match="no judge"):
        load_rubric("../quality", tmp_path)


def test_a_prompt_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"quality\.prompt\.md: no such file"):
        load_rubric("quality", write(tmp_path, None))


LEVEL = {"value": 4, "name": "best", "anchor": "Better still."}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"scale": [SCALE[0], SCALE[2]]}, r"quality\.yaml:\d+: scale: level 3 \(good\) follows 1: .* gap at 2"),
        ({"scale": SCALE[::-1]}, r"level 2 \(middling\) stands after 3: order the levels from worst to best"),
        ({"scale": [*SCALE, {**LEVEL, "value": 2}]}, r"level 2 \(best\) is there twice"),
        ({"scale": [*SCALE, {**LEVEL, "name": "good"}]}, r"level 4 \(good\) has the name of another level"),
        ({"scale": SCALE[:1]}, "at least two levels"),
        ({"scale": None}, "at least two levels"),
        ({"scale": [*SCALE, {**LEVEL, "value": 3.5}]}, r"scale\.3\.value"),
        ({"scale": [*SCALE, {**LEVEL, "value": True}]}, r"scale\.3\.value"),
        ({"scale": [*SCALE, {**LEVEL, "anchor": ""}]}, r"scale\.3\.anchor"),
        ({"scale": [*SCALE, {**LEVEL, "ancor": "x"}]}, r":\d+: unknown key 'scale\.3\.ancor': did you mean 'anchor'"),
        ({"crieria": ["x"]}, r":\d+: unknown key 'crieria': did you mean 'criteria'"),
        ({"mode": "pairwise"}, "a pairwise judge has no scale"),
        ({"mode": "pairwise", "scale": None, "criteria": None}, "needs criteria"),
        ({"mode": "listwise"}, "mode"),
        ({"name": "other"}, "the file says 'other', its name 'quality'"),
        ({"version": "1.0"}, "version"),
        ({"criteria": ["  "]}, "a criterion is empty"),
        ({"sees": ["prompt", "context", "output"]}, "'output' is always seen"),
        ({"sees": ["prompt", "context", "prompt"]}, "'prompt' is named twice"),
        ({"sees": ["prompt", "context", "the rest"]}, "'the rest' is no field"),
        ({"optional": ["contxt"]}, "'contxt' is not in sees: did you mean 'context'"),
        ({"sees": ["prompt"]}, r"prompt\.md:3: the prompt shows \{\{context\}\}, which quality\.yaml does not name"),
        ({"parse": {"key": "reason"}}, "is the key of the judge's reason"),
        ({"parse": {"key": "Score!"}}, r"parse\.key"),
        ({"checks": [{"metric": "contains", "options": {"mod": "all"}}]}, r":\d+: checks: metric 'contains'.*'mod'"),
        ({"checks": [{"metric": "code_execution"}]}, "runs code; a judge may not do that"),
        ({"checks": [{"metric": "multiple_choice"}]}, "reads no text"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_with_its_line(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        rubric(tmp_path, **changed)


def test_a_check_by_an_unknown_metric_is_told(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"quality\.yaml:\d+: checks: metric 'contain'.*did you mean 'contains'"):
        rubric(tmp_path, checks=[{"metric": "contain"}])


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("{{output}}\n\n{{contxt}}", r"prompt\.md:3: unknown placeholder \{\{contxt\}\}: did you mean 'context'"),
        ("{{output}}\n{{reference}}", r"prompt\.md:2: the prompt shows \{\{reference\}\}, which"),
        ("The answer: {{output}}", r"prompt\.md:1: a placeholder .* stands alone on its line"),
        ("{{output}}\n{{ prompt }", r"prompt\.md:2: a placeholder"),
        ("{{output}}\n{{output}}", r"prompt\.md:2: \{\{output\}\} is shown twice"),
        ("{{prompt}}", r"never shows \{\{output\}\}"),
        ("{{output_a}}\n{{output}}", "unknown placeholder"),
        ("{{output.__class__}}", "unknown placeholder"),
        ("", r"never shows \{\{output\}\}"),
    ],
)
def test_a_wrong_prompt_is_told_with_its_line(prompt: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        rubric(tmp_path, prompt)


def test_a_pairwise_prompt_shows_both(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"never shows \{\{output_b\}\}"):
        pair_rubric(tmp_path, "{{conversation}}\n{{output_a}}")
    with pytest.raises(ConfigError, match=r":\d+: sees: each output of a pair is shown with its own earlier answers"):
        pair_rubric(tmp_path, sees=["conversation", "answers"])
    with pytest.raises(ConfigError, match="a pairwise judge has no best level"):
        pair_rubric(tmp_path, checks=[{"metric": "contains", "if_passed": "best"}])


@pytest.mark.parametrize("content", [b"\xff", b"- a list", b"", b"name: [", b"name: x\nname: y"])
def test_what_is_no_rubric_at_all_is_told(content: bytes, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "quality.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"quality\.yaml"):
        load_rubric("quality", tmp_path)


@pytest.mark.parametrize("missing", ["context", "prompt"])
def test_a_field_that_a_sample_lacks_is_told_before_anything_is_asked(missing: str, tmp_path: Path) -> None:
    whole = SAMPLE
    lacking = replace(whole, id="s2", prompt="") if missing == "prompt" else replace(whole, id="s2", data={})
    require(rubric(tmp_path), [whole])
    with pytest.raises(DataError, match=f"judge 'quality' shows '{missing}', which sample 's2' lacks"):
        require(rubric(tmp_path), [whole, lacking])


def test_an_empty_field_is_a_missing_one_but_for_the_calls_that_are_not_expected(tmp_path: Path) -> None:
    made = rubric(tmp_path, PROMPT + "\n{{calls}}\n", sees=["prompt", "context", "calls"])
    require(made, [Sample("s", "?", data={"context": "c", "calls": []})])
    for empty in ("", [], {}, None):
        with pytest.raises(DataError, match="context"):
            require(made, [Sample("s", "?", data={"context": empty, "calls": []})])


def test_an_optional_field_may_be_missing(tmp_path: Path) -> None:
    made = rubric(tmp_path, optional=["context"])
    require(made, [Sample("s", "?")])
    assert made.needs == ("prompt",)


def test_targets_stand_for_a_reference_that_the_data_do_not_give(tmp_path: Path) -> None:
    made = rubric(tmp_path, "{{reference}}\n{{output}}", sees=["reference"])
    require(made, [Sample("s", "?", ("Paris",))])
    with pytest.raises(DataError, match="its data or its targets"):
        require(made, [Sample("s", "?")])


def test_the_schema_for_editors_knows_every_key() -> None:
    schema = json_schema()
    assert schema["properties"].keys() >= FILE.keys()
    assert schema["additionalProperties"] is False
