"""The demo's gate.yaml: one that the product reads, with a guard for every skill."""

from pathlib import Path

from harness.config import load_gate
from harness.demo.frozen import GOLDEN_SKILLS
from harness.demo.gates import IMPROVEMENT, MARGIN, write_gate
from harness.demo.training import MODEL


def written(tmp_path: Path):
    return load_gate(write_gate(tmp_path / "work" / "gate.yaml", tmp_path / "adapter", tmp_path / "rows.jsonl"))


def test_every_skill_has_its_guard(tmp_path: Path):
    suites = written(tmp_path).gate.suites
    golden = {suite.options["set"]: suite.guards[0] for suite in suites if suite.kind == "golden"}
    assert set(golden) == {f"demo-{skill.name}@1" for skill in GOLDEN_SKILLS}
    assert golden.pop("demo-consonants@1").must_improve == IMPROVEMENT
    assert {guard.margin for guard in golden.values()} == {MARGIN}


def test_a_capability_suite_is_part_of_it(tmp_path: Path):
    loaded = written(tmp_path)
    (suite,) = (suite for suite in loaded.gate.suites if suite.kind == "capability")
    assert (loaded.folder / suite.options["task"]).is_file()
    assert suite.guards[0].metric == "acc"


def test_paths_are_relative_to_the_file(tmp_path: Path):
    loaded = written(tmp_path)
    candidate = loaded.gate.candidate.options
    assert (loaded.folder / candidate["model"]).resolve() == MODEL.resolve()
    assert (loaded.folder / candidate["adapter"]).resolve() == (tmp_path / "adapter").resolve()
    assert loaded.gate.training_data == ("../rows.jsonl",)
