"""The golden suite: what it asks, how it scores, and what it refuses before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import goldens, plugins, sandbox
from harness.errors import ConfigError, DataError, LockError, UsageError
from harness.records import Generate, LogLikelihood, Message, Output, Sample, Score
from harness.suites import AnsweredPair, ScorePair, SuiteContext
from harness.suites.golden import GoldenSuite, Options, build

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Sky?", "target": "blue", "choices": ["blue", "red"], "tags": ["colour"], "cluster": "x"},
    {"id": "b", "prompt": "Sum:\n", "target": 2, "choices": ["3", " 4", "5", "6"]},
]
TEXT_ROWS: list[dict[str, Any]] = [{k: v for k, v in r.items() if k != "choices"} | {"target": "blue"} for r in ROWS]
NOBODY: Any = None


def make(
    folder: Path,
    rows: list[dict[str, Any]] = ROWS,
    metrics: list[Any] | None = None,
    *,
    options: dict[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    version: str = "v1",
) -> GoldenSuite:
    """A frozen set with these rows and card metrics, and the suite on it."""
    place = folder / "goldensets" / "set" / version
    place.mkdir(parents=True)
    (place / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    card = {
        "name": "set", "version": version, "description": "d", "licence": "l", "source": "s",
        "metrics": metrics or ["multiple_choice"], "tags": {"colour": "about colours"},
        "generation": {"max_tokens": 4, "until": ["\n"], "seed": 3},
    }  # fmt: skip
    (place / "card.yaml").write_text(yaml.safe_dump(card))
    for name, content in (files or {}).items():
        (place / name).write_text(content)
    goldens.freeze(folder / "goldensets", "set", version)
    values = {"set": f"set@{version}", **(options or {})}
    chosen = plugins.options("suites", "golden", values, where="gate.yaml:3: suites.0")
    assert isinstance(chosen, Options)
    return build(chosen, SuiteContext(folder, **(context or {})))


def answered(suite: GoldenSuite, *answers: tuple[list[Output], list[Output]]) -> list[Mapping[str, ScorePair]]:
    return suite.score([AnsweredPair(s, b, c) for s, (b, c) in zip(suite.samples(), answers, strict=True)])


def likely(*values: float) -> list[Output]:
    return [Output(logprob=v, tokens=1) for v in values]


# ---------------------------------------------------------------- requests


def test_choices_are_asked_one_by_one_with_one_space_between(tmp_path: Path) -> None:
    suite = make(tmp_path)
    first, second = (suite.requests(s, NOBODY) for s in suite.samples())
    assert first == (LogLikelihood("Sky?", " blue"), LogLikelihood("Sky?", " red"))
    assert [r.continuation for r in second if isinstance(r, LogLikelihood)] == ["3", " 4", "5", "6"]


def test_text_is_asked_as_the_card_says(tmp_path: Path) -> None:
    suite = make(tmp_path, TEXT_ROWS, ["exact_match"])
    (request,) = suite.requests(suite.samples()[0], NOBODY)
    assert request == Generate("Sky?", until=("\n",), max_tokens=4, seed=3)


def test_text_comes_before_choices_and_each_metric_gets_its_own(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "Sky?", "target": "blue", "choices": ["blue", "red"]}]
    suite = make(tmp_path, rows, ["multiple_choice", "exact_match"])
    (sample,) = suite.samples()
    assert [type(r).__name__ for r in suite.requests(sample, NOBODY)] == ["Generate", "LogLikelihood", "LogLikelihood"]
    right = [Output(text="blue"), *likely(-3, -1)]
    assert suite.score_one(sample, right) == {"multiple_choice": Score.of(0), "exact_match": Score.of(1)}


def test_chat_sends_messages_and_leaves_the_space_to_the_template(tmp_path: Path) -> None:
    suite = make(tmp_path, options={"chat": True})
    first = suite.requests(suite.samples()[0], NOBODY)
    assert first[0] == LogLikelihood((Message("user", "Sky?"),), "blue")


def test_messages_of_a_row_are_sent_as_they_are_with_or_without_chat(tmp_path: Path) -> None:
    rows = [{"id": "a", "messages": [{"role": "user", "content": "Hi"}], "target": "x"}]
    suite = make(tmp_path, rows, ["exact_match"])
    (request,) = suite.requests(suite.samples()[0], NOBODY)
    assert isinstance(request, Generate)
    assert request.prompt == (Message("user", "Hi"),)


# ---------------------------------------------------------------- scores


def test_both_sides_are_scored_sample_by_sample(tmp_path: Path) -> None:
    suite = make(tmp_path)
    a, b = answered(suite, (likely(-1, -2), likely(-2, -1)), (likely(-4, -3, -2, -1), likely(-4, -3, -1, -2)))
    assert a == {"multiple_choice": ScorePair(Score.of(1), Score.of(0))}
    assert b == {"multiple_choice": ScorePair(Score.of(0), Score.of(1))}


def test_a_failed_output_is_a_failed_score_on_its_side_only(tmp_path: Path) -> None:
    suite = make(tmp_path, TEXT_ROWS, ["exact_match"])
    fine, broken = [Output(text="blue")], [Output(failure="too long")]
    first, _ = answered(suite, (fine, broken), (fine, fine))
    assert first["exact_match"] == ScorePair(Score.of(1), Score.failed("too long"))


def test_chance_is_what_guessing_earns_on_these_samples(tmp_path: Path) -> None:
    assert make(tmp_path).metrics["multiple_choice"].chance == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_tags_and_clusters_reach_the_samples(tmp_path: Path) -> None:
    first, second = make(tmp_path).samples()
    assert (first.tags, first.cluster, second.tags) == (("colour",), "x", ())


def test_the_gates_metrics_replace_the_cards(tmp_path: Path) -> None:
    suite = make(tmp_path, options={"metrics": ["exact_match", {"contains": {"name": "says"}}]})
    assert list(suite.metrics) == ["exact_match", "says"]


# ---------------------------------------------------------------- digest


def test_the_digest_covers_everything_that_can_change_a_score(tmp_path: Path) -> None:
    def digest(number: int, **more: Any) -> str:
        return make(tmp_path / str(number), **more).digest()

    base = digest(0)
    assert digest(1) == base
    others = [
        digest(2, rows=[{**ROWS[0], "prompt": "Sky!"}, ROWS[1]]),
        digest(3, metrics=[{"multiple_choice": {"normalise": "bytes"}}]),
        digest(4, options={"chat": True}),
        digest(5, options={"metrics": [{"multiple_choice": {"name": "mc"}}]}),
    ]
    assert len({base, *others}) == 5


def test_the_digest_covers_a_file_that_a_metric_reads_but_not_its_place(tmp_path: Path) -> None:
    def digest(number: int, schema: str) -> str:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "schema.json").write_text(schema)
        metrics = [{"json": {"mode": "schema", "schema_file": "schema.json"}}]
        return make(folder, TEXT_ROWS, ["exact_match"], options={"metrics": metrics}).digest()

    assert digest(0, "{}") == digest(1, "{}") != digest(2, '{"type": "object"}')


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (["exact_mach"], "did you mean 'exact_match'"),
        ([{"exact_match": {"strikt": True}}], r"set@v1: metrics.exact_match: unknown key 'strikt'"),
        (["exact_match", "exact_match"], "two metrics are called 'exact_match'"),
        (["code_execution"], r"gate.yaml must say `allow: \[code-execution\]`"),
        ([], "an empty list scores nothing"),
        ("exact_match", "metrics"),
        ([{"json": {"mode": "schema", "schema_file": "none.json"}}], r"none\.json"),
    ],
)
def test_metrics_that_cannot_be_used_are_refused_at_once(tmp_path: Path, metrics: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make(tmp_path, options={"metrics": metrics})


def test_a_set_that_does_not_exist_is_a_slip_and_a_draft_is_not_decided_on(tmp_path: Path) -> None:
    make(tmp_path)
    context = SuiteContext(tmp_path)
    with pytest.raises(DataError, match="did you mean 'set'"):
        build(Options(set="sett"), context)
    goldens.new_version(tmp_path / "goldensets", "set")
    with pytest.raises(LockError, match="not frozen"):
        build(Options(set="set@v2"), context)
    assert build(Options(set="set"), context).samples()


def test_the_root_is_relative_to_the_gate_file(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere")
    suite = build(Options(set="set", root=Path("elsewhere/goldensets")), SuiteContext(tmp_path))
    assert suite.name == "set"
    with pytest.raises(ConfigError, match="no such folder"):
        build(Options(set="set", root=Path("nowhere")), SuiteContext(tmp_path))


def test_a_choice_metric_needs_choices_and_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sample 'a' of set@v1 lacks choices"):
        make(tmp_path, TEXT_ROWS, ["exact_match"], options={"metrics": ["multiple_choice"]})


def test_a_file_that_a_card_names_is_frozen_with_the_set(tmp_path: Path) -> None:
    metrics = [{"json": {"mode": "schema", "schema_file": "schema.json"}}]
    suite = make(tmp_path / "a", TEXT_ROWS, metrics, files={"schema.json": '{"type": "object"}'})
    assert suite.score_one(suite.samples()[0], [Output(text="{}")]) == {"json_schema": Score.of(1)}
    outside = [{"json": {"mode": "schema", "schema_file": "../../../schema.json"}}]
    with pytest.raises(ConfigError, match="not in the folder of the set"):
        make(tmp_path / "b", TEXT_ROWS, outside)


def test_code_that_a_metric_loads_is_named_by_the_user_and_not_by_a_card(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the user must name"):
        make(tmp_path, TEXT_ROWS, [{"hf_evaluate": {"metric": "x", "result_key": "y"}}])


# ---------------------------------------------------------------- checks


def test_an_intact_set_passes_its_check(tmp_path: Path) -> None:
    (check,) = make(tmp_path).checks()
    assert (check.name, check.passed) == ("golden-lock", True)


def test_a_byte_that_changes_while_the_gate_starts_fails_the_check(tmp_path: Path) -> None:
    suite = make(tmp_path)
    samples = tmp_path / "goldensets" / "set" / "v1" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes() + b"\n")
    (check,) = suite.checks()
    assert (check.name, check.passed) == ("golden-lock", False)
    assert str(samples) in check.detail


def test_a_training_row_among_the_samples_fails_the_check(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text('{"text": "nothing"}\n{"prompt": "sky", "completion": "blue"}\n')
    _, check = make(tmp_path, context={"training_files": (train,)}).checks()
    assert (check.name, check.passed) == ("no-training-row", False)
    assert f"{train}:2: exact match with sample 'a'" in check.detail
    assert "1 of 2 samples" in check.detail


def test_clean_training_data_passes_the_check(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text('{"text": "nothing"}\n')
    _, check = make(tmp_path, context={"training_files": (train,)}).checks()
    assert (check.name, check.passed) == ("no-training-row", True)


def test_training_data_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such training file"):
        make(tmp_path, context={"training_files": (tmp_path / "none.jsonl",)}).checks()


CODE_ROWS = [
    {
        "id": f"f{i}",
        "prompt": f"def f{i}():\n",
        "entry_point": f"f{i}",
        "test": f"def check(f):\n  assert f() == {i}\n",
    }
    for i in range(8)
]
ALLOWED = {"allow": frozenset({"code-execution"})}


def test_a_machine_without_a_sandbox_fails_the_check_of_a_set_that_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "available", lambda: "install Bubblewrap")
    suite = make(tmp_path, CODE_ROWS, ["code_execution"], context=ALLOWED)
    _, check = suite.checks()
    assert (check.name, check.passed, check.detail) == ("sandbox", False, "install Bubblewrap")


@pytest.mark.slow
def test_programs_are_scored_side_by_side_and_in_order(tmp_path: Path) -> None:
    if sandbox.available() is not None:
        pytest.skip(sandbox.available() or "")
    suite = make(tmp_path, CODE_ROWS, ["code_execution"], context=ALLOWED)
    right = [[Output(text=f"    return {i}")] for i in range(8)]
    wrong = [[Output(text="    return -1" if i % 2 else f"    return {i}")] for i in range(8)]
    scores = [s["pass@1"] for s in answered(suite, *zip(right, wrong, strict=True))]
    assert [(s.baseline.value, s.candidate.value) for s in scores] == [(1, 0 if i % 2 else 1) for i in range(8)]


def test_identical_outputs_are_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = make(tmp_path, CODE_ROWS, ["code_execution"], context=ALLOWED)
    ran: list[str] = []

    def once(sample: Sample, outputs: Any) -> dict[str, Score]:
        ran.append(sample.id)
        return {"pass@1": Score.of(1)}

    monkeypatch.setattr(suite, "score_one", once)
    same = [Output(text="    return 1")]
    other = [replace(same[0], text="    return 2")]
    answered(suite, *[(same, same)] * 4, *[(same, other)] * 4)
    assert len(ran) == 4 + 8
