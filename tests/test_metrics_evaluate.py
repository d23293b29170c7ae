"""Metrics of the Hugging Face evaluate library, from a local script as an offline machine has it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.errors import ConfigError
from harness.records import MetricSpec, Output, Sample, Score

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("evaluate") is None, reason="needs promotion-harness[eval]"),
]

SCRIPT = """
import datasets
import evaluate

class LengthRatio(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=[datasets.Features({"predictions": text, "references": text}),
                      datasets.Features({"predictions": text, "references": datasets.Sequence(text)})],
        )

    def _compute(self, predictions, references, scale=1.0):
        first = references[0] if isinstance(references[0], str) else references[0][-1]
        if predictions[0] == "raise":
            raise RuntimeError("as asked")
        ratio = float("nan") if predictions[0] == "nan" else scale * len(predictions[0]) / len(first)
        return {"ratio": ratio, "several": [ratio], "word": "three"}
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics") / "length_ratio"
    folder.mkdir()
    (folder / "length_ratio.py").write_text(SCRIPT)
    return folder


def make(**options: Any) -> Any:
    chosen = plugins.options("metrics", "hf_evaluate", options, where="gate.yaml: metrics")
    return plugins.load("metrics", "hf_evaluate").build(chosen)


def score(metric: Any, text: str, *targets: str) -> Score:
    result: Score = metric.score(Sample("s", "?", targets), [Output(text=text)])
    return result


def test_a_local_metric_scores_sample_by_sample(script: Path) -> None:
    metric = make(path=script, result_key="ratio", bounds=[0, 2])
    assert metric.spec == MetricSpec("ratio", True, (0.0, 2.0))
    assert score(metric, "ab", "abcd") == Score.of(0.5)
    assert score(metric, "abcdef", "abcd", "x") == Score.of(1.5)
    assert score(metric, "ab", "abcd") == Score.of(0.5)


def test_all_references_and_arguments_are_passed_on(script: Path) -> None:
    metric = make(path=script, result_key="several", references="all", arguments={"scale": 0.5})
    assert score(metric, "ab", "abcd", "ab") == Score.of(0.5)


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [("ratio", "nan", "ratio is nan"), ("ratio", "raise", "RuntimeError: as asked"), ("word", "ab", "no number"),
     ("ratoi", "ab", "holds no 'ratoi'"), ("ratio", "abcdefgh", "outside its bounds")],
)  # fmt: skip
def test_what_is_no_finite_number_within_bounds_is_a_failure(script: Path, key: str, text: str, says: str) -> None:
    result = score(make(path=script, result_key=key), text, "abcd")
    assert result.state == "failed"
    assert says in result.reason


def test_a_bare_name_offline_is_answered_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"no_such_metric_anywhere cannot be loaded.*name that as path"):
        make(metric="no_such_metric_anywhere", result_key="x")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"result_key": "x"}, "give metric or path"),
        ({"metric": "a", "path": "b", "result_key": "x"}, "give metric or path"),
        ({"metric": "../x", "result_key": "x"}, "metric"),
        ({"metric": "a"}, "'result_key' is missing"),
        ({"metric": "a", "result_key": "x", "bounds": [1, 0]}, "the smaller one first"),
        ({"metric": "a", "result_key": "x", "bounds": [0, float("inf")]}, "finite"),
        ({"metric": "a", "result_key": "x", "chance": 2}, "chance must lie"),
        ({"path": "/nonexistent", "result_key": "x"}, "no such file or folder"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make(**options)
