"""Trying prompts: nothing frozen is searched on, the search repeats itself, and the judgement is the gate's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from harness.cli import main
from harness.config import load_gate
from harness.errors import ConfigError, DataError, HoldError, PluginError
from harness.progress import Silent
from harness.training.advice import reporting
from harness.training.advice.evolving import Evolution
from harness.training.advice.prompts import Candidates, proposals, read_candidates
from harness.training.advice.trying import Search, Trial, try_prompts
from tests.scripted_project import N, add_suite, project

OPTIONS: dict[str, Any] = {"trials": 4, "shots": 4, "seed": 0}


def rows(folder: Path, numbers: range = range(1000, 1080), **more: Any) -> Path:
    path = folder / "rows.jsonl"
    lines = [json.dumps({"prompt": f"{i} + {i} =", "completion": str(2 * i), **more}) for i in numbers]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path, seed: int = 0, share: float = 0.5, most: int = 200) -> Candidates:
    return read_candidates(path, share=share, most=most, seed=seed)


def know(folder: Path, candidates: Path, knows: Callable[[int, int], bool], instructions: tuple[str, ...] = ()) -> None:
    """Script what the baseline answers behind every prompt of the search: to sum i behind n examples."""
    split = read(candidates)
    asked = [int(s.prompt.split()[0]) for s in split.held_out] + list(range(N))
    answers = []
    for proposal in proposals(split, instructions, until=(), **OPTIONS):
        before = proposal.prompt.text() if proposal.prompt else ""
        shots = len(proposal.prompt.shots) if proposal.prompt else 0
        told = 10 if proposal.prompt and proposal.prompt.system else 0
        for i in asked:
            text = str(2 * i) if knows(i, shots + told) else "?"
            answers.append({"prompt": f"{before}{i} + {i} =", "text": text})
    (folder / "before.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers), encoding="utf-8")


def attempt(config: Path, candidates: Path, **changes: Any) -> Trial:
    search = Search(candidates, trials=OPTIONS["trials"], shots=OPTIONS["shots"], **changes)
    return try_prompts(load_gate(config), search, Silent())


def half_known(i: int, shots: int) -> bool:
    return i % 2 == 0 or (shots >= 2 and i % 5 > 0)


def test_the_best_prompt_of_the_search_is_judged_on_every_frozen_sample(tmp_path: Path) -> None:
    config, candidates = project(tmp_path), rows(tmp_path)
    know(tmp_path, candidates, half_known)
    trial = attempt(config, candidates)
    assert trial.chosen is not None
    assert trial.judged is not None
    assert trial.chosen.gain is not None
    assert trial.chosen.gain.low <= trial.chosen.gain.estimate <= trial.chosen.gain.high
    result = reporting.comparison(trial)
    assert result is not None
    assert (result.n_used, result.n_failed) == (N, 0)
    wanted = sum(half_known(i, 2) for i in range(N)) / N - 0.5
    assert result.difference == pytest.approx(wanted)
    assert result.population_interval is not None
    assert result.population_interval[0] < wanted < result.population_interval[1]
    assert "for other samples like these" in reporting.tell(trial)
    assert json.loads(json.dumps(reporting.as_document(trial)))["judged"]["verdict"] == "promote"


def test_of_equal_prompts_the_shortest_is_chosen(tmp_path: Path) -> None:
    config, candidates = project(tmp_path), rows(tmp_path)
    know(tmp_path, candidates, lambda i, shots: i % 2 == 0 or shots >= 1)
    trial = attempt(config, candidates)
    assert trial.chosen is not None
    assert trial.chosen.proposal.prompt is not None
    assert len(trial.chosen.proposal.prompt.shots) == 1


def test_the_same_seed_finds_the_same_prompt_and_asks_nothing_twice(tmp_path: Path) -> None:
    config, candidates = project(tmp_path), rows(tmp_path)
    know(tmp_path, candidates, half_known)
    first = attempt(config, candidates)
    asked = (tmp_path / "asked-baseline.log").read_text()
    again = attempt(config, candidates)
    assert (tmp_path / "asked-baseline.log").read_text() == asked
    assert again.chosen == first.chosen
    assert again.prompt is not None
    assert again.prompt.read_text().count("prompt:") >= 1


def test_an_instruction_alone_can_be_the_best(tmp_path: Path) -> None:
    config, candidates = project(tmp_path), rows(tmp_path)
    told = ("Add the two numbers.",)
    know(tmp_path, candidates, lambda i, shots: i % 2 == 0 or shots >= 10, told)
    trial = attempt(config, candidates, instructions=told)
    assert trial.prompt is not None
    assert yaml.safe_load(trial.prompt.read_text())["system"] == told[0]
    assert "shots" not in yaml.safe_load(trial.prompt.read_text())


def test_no_prompt_is_judged_where_none_helps(tmp_path: Path) -> None:
    config, candidates = project(tmp_path), rows(tmp_path)
    know(tmp_path, candidates, lambda i, shots: i % 2 == 0 and shots < 2)
    trial = attempt(config, candidates)
    assert trial.chosen is None
    assert trial.judged is None
    assert "none was judged" in reporting.tell(trial)
    assert not (tmp_path / "runs").exists()


def test_a_prompt_that_fails_on_the_frozen_samples_is_not_recommended(tmp_path: Path) -> None:
    config, candidates = project(tmp_path), rows(tmp_path)
    know(tmp_path, candidates, lambda i, shots: i < 1000 if shots < 2 else i >= 1000)
    trial = attempt(config, candidates)
    result = reporting.comparison(trial)
    assert result is not None
    assert result.difference == -1
    told = reporting.tell(trial)
    assert "no better than none" in told
    assert "held-out rows score 0.0 and the frozen samples 100.0" in told
    assert "must_improve" not in told


def test_a_frozen_sample_is_never_an_example(tmp_path: Path) -> None:
    config = project(tmp_path)
    with pytest.raises(DataError, match=r"frozen samples of sums are among the candidate rows: .*rows\.jsonl:1: "):
        attempt(config, rows(tmp_path, range(100, 180)))


def test_what_cannot_be_scored_is_no_finding(tmp_path: Path) -> None:
    config, candidates = project(tmp_path), rows(tmp_path)
    with pytest.raises(HoldError, match="no prompt, 40 of 40 held-out rows could not be scored"):
        attempt(config, candidates)


def test_the_suite_is_the_one_that_must_improve_or_the_one_named(tmp_path: Path) -> None:
    config, candidates = project(tmp_path), rows(tmp_path)
    add_suite(config, "names", 30)
    know(tmp_path, candidates, half_known)
    with pytest.raises(ConfigError, match=r"sums@1, names@1.*--suite"):
        attempt(config, candidates)
    with pytest.raises(ConfigError, match="did you mean 'sums@1'"):
        attempt(config, candidates, suite="sum@1")
    assert attempt(config, candidates, suite="sums@1").suite == "sums"
    document = yaml.safe_load(config.read_text())
    document["suites"][0]["guards"] = [{"metric": "exact_match", "must_improve": 0.1}]
    config.write_text(yaml.safe_dump(document))
    assert attempt(config, candidates).suite == "sums"


# ---------------------------------------------------------------- rows and their split


def test_the_split_shares_no_row_and_no_cluster(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"q{i}", "target": f"a{i}", "cluster": f"c{i // 4}"} for i in range(200)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    split = read(path)
    assert not {s.prompt for s in split.pool} & {s.prompt for s in split.held_out}
    assert not {s.cluster for s in split.pool} & {s.cluster for s in split.held_out}
    assert len(split.pool) + len(split.held_out) == 200
    assert read(path) == split
    assert read(path, seed=1).held_out != split.held_out
    assert len(read(path, most=30).held_out) == 30


def test_a_separator_is_one_that_no_answer_contains(tmp_path: Path) -> None:
    assert read(rows(tmp_path)).separator == "\n\n"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": f"a\n\n{i}"}) + "\n" for i in range(50)))
    assert read(path).separator == "\n###\n"


def test_proposals_are_distinct_and_begin_with_no_prompt(tmp_path: Path) -> None:
    split = read(rows(tmp_path))
    drawn = proposals(split, ("Add.",), trials=8, shots=8, until=("\n\n",), seed=3)
    assert drawn[0].prompt is None
    texts = [p.prompt.text() for p in drawn if p.prompt]
    assert len(set(texts)) == len(texts)
    assert {len(p.prompt.shots) for p in drawn if p.prompt} == {0, 1, 2, 4, 8}
    assert all(p.prompt.until == ("\n\n",) for p in drawn if p.prompt and p.prompt.shots)
    assert drawn == proposals(split, ("Add.",), trials=8, shots=8, until=("\n\n",), seed=3)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a"}', "answer|completion"),
        ('{"prompt": "", "completion": "b"}', "prompt"),
        ('{"prompt": "a", "completion": ""}', "answer is empty"),
        ('{"prompt": "a", "target": 7, "choices": ["x", "y"]}', "index of a choice"),
        ("{", "not valid JSON"),
        ('{"prompt": "1000 + 1000 =", "completion": "2000"}', "prompt of line 1"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path: Path, line: str, said: str) -> None:
    path = rows(tmp_path)
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=rf"rows\.jsonl:81: .*({said})"):
        read(path)


def test_too_few_rows_to_tell_prompts_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="20 held-out rows are the fewest"):
        read(rows(tmp_path, range(1000, 1020)))


# ---------------------------------------------------------------- the command


def test_the_command_leaves_a_prompt_that_a_gate_can_have_as_its_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, candidates = project(tmp_path), rows(tmp_path)
    know(tmp_path, candidates, half_known)
    prompt = tmp_path / "best.yaml"
    command = ["advise", "--try-prompts", str(config), "--candidates", str(candidates), "--json", "--trials", "4"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--shots", "4", "--prompt-out", str(prompt)])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    gate = yaml.safe_load(config.read_text())
    gate["baseline"] = document["baseline"]
    gate["suites"][0]["guards"] = [{"metric": "exact_match", "must_improve": 0}]
    config.write_text(yaml.safe_dump(gate))
    with pytest.raises(SystemExit) as ended:  # the candidate knows all sums, so it beats the prompt
        main(["gate", str(config), "--json"])
    verdict = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0, verdict["reasons"]
    assert verdict["comparisons"][0]["baseline_mean"] < 1


def test_candidates_must_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["advise", "--try-prompts", str(project(tmp_path))])
    assert ended.value.code == 2
    assert "--candidates" in capsys.readouterr().err


# ---------------------------------------------------------------- GEPA, at its boundary


def stub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A `gepa` that calls the adapter as the real one does, and finds one instruction."""
    seen: dict[str, Any] = {}

    def optimize(*, seed_candidate: Any, trainset: Any, valset: Any, adapter: Any, **settings: Any) -> Any:
        seen.update(settings, train=trainset, val=valset)
        batch = adapter.evaluate(trainset[:2], seed_candidate, capture_traces=True)
        seen["shown"] = adapter.make_reflective_dataset(seed_candidate, batch, ["instruction"])
        seen["scores"] = batch.scores
        found = [seed_candidate, {"instruction": "Add the two numbers."}]
        return SimpleNamespace(candidates=found, val_aggregate_scores=[0.1, 0.9])

    package, core, adapter = ModuleType("gepa"), ModuleType("gepa.core"), ModuleType("gepa.core.adapter")
    package.optimize = optimize  # type: ignore[attr-defined]
    adapter.EvaluationBatch = SimpleNamespace  # type: ignore[attr-defined]
    for name, module in (("gepa", package), ("gepa.core", core), ("gepa.core.adapter", adapter)):
        monkeypatch.setitem(sys.modules, name, module)
    return seen


def test_what_gepa_finds_is_compared_and_judged_like_any_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, candidates = project(tmp_path), rows(tmp_path)
    know(tmp_path, candidates, lambda i, shots: i % 2 == 0 or shots >= 10, ("Add the two numbers.",))
    seen = stub(monkeypatch)
    trial = attempt(config, candidates, gepa=Evolution(20))
    assert trial.chosen is not None
    assert trial.chosen.proposal.prompt is not None
    assert trial.chosen.proposal.prompt.system == "Add the two numbers."
    looked_at = {s.prompt for s in (*seen["train"], *seen["val"])}
    assert not looked_at & {s.prompt for s in read(candidates).held_out}
    assert seen["scores"] == [0.0, 0.0]  # unscored for GEPA alone: the script knows no such prompt
    assert "wanted answer" in seen["shown"]["instruction"][0]["Feedback"]
    assert seen["max_metric_calls"] == 20


def test_gepa_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gepa", None)
    config, candidates = project(tmp_path), rows(tmp_path)
    with pytest.raises(PluginError, match="pip install gepa"):
        attempt(config, candidates, gepa=Evolution(20))


@pytest.mark.slow
def test_with_a_model_the_prompt_under_which_it_knows_the_answers_is_found(tmp_path: Path, tiny: Any) -> None:
    """A random model knows nothing, so what it says behind one instruction is declared right."""
    from harness import plugins
    from harness.goldens import store
    from harness.records import LogLikelihood
    from harness.subjects import SubjectContext, prompted

    told = "Once upon a time there was a class Point."
    words = ["fox", "Answer: 5", "class Point", "blue", "def add", "happy", "lazy dog.", "red"]
    questions = [(f"Pick {i}:", [words[(i + k * (i % 3 + 1)) % 8] for k in range(4)]) for i in range(110)]
    section = {"kind": "local", "model": str(tiny.model()), "device": "cpu"}
    options = plugins.options("subjects", "local", {k: v for k, v in section.items() if k != "kind"}, where="here")
    inner = plugins.load("subjects", "local").build(options, SubjectContext(tmp_path))
    subject = prompted.PromptedSubject(prompted.Prompt(system=told), "told", inner)

    def picks(asked: Any) -> list[int]:
        requests = [LogLikelihood(question, f" {choice}") for question, choices in questions for choice in choices]
        said = dict(pair for batch in asked.answer(requests) for pair in batch)
        return [max(range(4), key=lambda k, i=i: said[4 * i + k].logprob) for i in range(len(questions))]

    bare, right = picks(inner), picks(subject)
    inner.close()
    agreed = sum(b == r for b, r in zip(bare[:40], right[:40], strict=True)) / 40
    assert agreed < 1
    lines = [{"prompt": q, "choices": c, "target": t} for (q, c), t in zip(questions, right, strict=True)]
    golden = tmp_path / "goldensets" / "picks" / "1"
    golden.mkdir(parents=True)
    frozen = [{"id": f"p{i}", **line} for i, line in enumerate(lines[:40])]
    (golden / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in frozen))
    card = {"name": "picks", "version": "1", "description": "picks", "licence": "Apache-2.0", "source": "made here",
            "metrics": ["multiple_choice"]}  # fmt: skip
    (golden / "card.yaml").write_text(yaml.safe_dump(card))
    store.freeze(tmp_path / "goldensets", "picks", "1")
    config, candidates = tmp_path / "gate.yaml", tmp_path / "rows.jsonl"
    document = {"baseline": section, "candidate": section, "suites": [{"kind": "golden", "set": "picks@1"}],
                "policy": {"noise_probe": 0}}  # fmt: skip
    config.write_text(yaml.safe_dump(document))
    candidates.write_text("".join(json.dumps(line) + "\n" for line in lines[40:]))
    trial = attempt(config, candidates, instructions=(told,))
    result = reporting.comparison(trial)
    assert trial.chosen is not None
    assert trial.chosen.mean == 1
    assert result is not None
    assert (result.baseline_mean, result.candidate_mean, result.n_used) == (pytest.approx(agreed), 1, 40)
