"""The arithmetic of benchmarks/engine.py, its requests, and one measurement from end to end."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.engine import Wanted
from benchmarks.engine_bench import counting, jobs, model, results, tables, workloads
from benchmarks.engine_bench.counting import Size, Work
from benchmarks.engine_bench.jobs import Arm, Job, Result
from benchmarks.engine_bench.results import Row
from benchmarks.engine_bench.workloads import Ask


def test_unique_prefix_tokens_are_the_distinct_prefixes() -> None:
    dice = random.Random(0)
    for _ in range(30):
        rows = [[dice.randrange(3) for _ in range(dice.randrange(9))] for _ in range(12)]
        prefixes = {tuple(row[:n]) for row in rows for n in range(1, len(row) + 1)}
        assert counting.unique_prefix_tokens(rows) == len(prefixes)


def test_flops_are_two_for_every_use_of_a_parameter() -> None:
    work = Work(tokens=10, positions=3, attention=7)
    assert counting.flops(Size(body=100, head=40), work) == 2 * 100 * 10 + 2 * 40 * 3 + 7
    assert counting.flops(Size(body=100, head=40, adapter=5), work) == 2 * 105 * 10 + 2 * 40 * 3 + 7
    assert counting.attention_flops([2, 4, 6, 8], [2, 4, 6, 8], [2, 4, 6, 8], causal=False) == 2 * 2 * 4 * 36 * 16
    assert counting.attention_flops([2, 4, 6, 8], [2, 4, 6, 8], [2, 4, 6, 8], causal=True) == 2 * 2 * 4 * 21 * 16
    assert counting.attention_flops([1, 1, 2, 8], [1, 1, 9, 8], [1, 1, 9, 4], causal=True) == 2 * 18 * 12


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True])
def test_the_count_is_that_of_torchs_own_counter(tiny: Any, adapted: bool) -> None:
    import torch
    from peft import PeftModel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    found = AutoModelForCausalLM.from_pretrained(tiny.model()).eval()
    if adapted:
        found = PeftModel.from_pretrained(found, str(tiny.adapter())).eval()
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, counting.metered(found) as work:
        found(ids, use_cache=False)
    assert (work.tokens, work.positions, work.passes) == (40, 40, 1)
    # torch's counter does not know the attention kernel of the CPU, and the norms' parameters are next to nothing.
    assert work.attention == 2 * counting.attention_flops([2, 4, 20, 16], [2, 4, 20, 16], [2, 4, 20, 16], causal=True)
    mine = counting.flops(counting.size_of(found), work) - work.attention
    assert mine == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_disagreement_counts_picks_ties_and_texts() -> None:
    asks = [Ask(f"t/{i // 2}", "loglikelihood", ("c", "x"), i % 2) for i in range(6)]
    theirs = [(-1.0, True), (-2.0, False), (-3.0, False), (-3.00005, False), (-5.0, False), (-4.0, False)]
    mine = [(-1.0, True), (-2.5, False), (-3.00005, False), (-3.0, False), (-4.0, False), (-4.5, False)]
    gap = results.disagreement(asks, theirs, mine)
    assert (gap.logprob, gap.picks, gap.ties, gap.texts) == (1.0, 2, 1, 0)
    texts = [Ask(f"t/{i}", "generate_until", ("c", {}), 0) for i in range(3)]
    assert results.disagreement(texts, ["a", "b", "c"], ["a", "x", "c"]).texts == 1
    assert (gap | results.Disagreement(0.5, 1, 0, 2)) == results.Disagreement(1.0, 3, 1, 2)


def test_two_runs_of_lm_eval_are_added_and_their_memory_is_not() -> None:
    size = Size(10, 1)
    one = Result({"base": Arm((3.0, 1.0, 2.0), Work(5, 5), size, ())}, peak_bytes=7, load_seconds=1.0)
    two = Result({"c": Arm((4.0,), Work(6, 6), size, ())}, peak_bytes=9, load_seconds=1.0)
    row = results.row_of("x", [one, two], "base", "c")
    assert (row.seconds, row.candidate_seconds, row.tokens, row.peak_bytes, row.load_seconds) == (6.0, 4.0, 11, 9, 2.0)
    assert results.row_of("x", [one, Result(failure="killed")], "base", "c").note == "killed"


def test_costs_and_shares() -> None:
    assert results.costs({"base": 2.0, "a": 1.0, "b": 3.0}, "base") == [(1, 1.5), (2, 3.0)]
    assert results.share_of_allowed(5.0, 6.25) == 0.8
    assert results.share_of_allowed(5.0, None) is None
    assert results.agreement([[1, 2, 3], [4]], [[1, 9, 3], [4, 5]]) == pytest.approx(3 / 5)


def test_a_scale_is_found_by_bisection_and_left_set() -> None:
    asked: list[float] = []

    def agreement_at(scale: float) -> float:
        asked.append(scale)
        return max(0.0, 1.0 - scale * 100)

    scale, share = model.search(agreement_at, (0.8, 0.9))
    assert 0.8 <= share <= 0.9
    assert asked[-1] == scale


def test_samples_are_chosen_evenly_and_in_turns() -> None:
    asks = [Ask(f"{task}/{n}", "loglikelihood", ("c", str(i)), i) for task in "ab" for n in range(4) for i in range(2)]
    assert workloads.samples_of(workloads.some(asks, 4)) == ["a/0", "a/2", "b/0", "b/2"]
    turns = workloads.in_turns(asks, 3)
    assert workloads.samples_of(turns) == ["a/0", "b/0", "a/1"]
    assert [ask.idx for ask in turns] == [0, 1] * 3


def test_a_table_leaves_out_what_says_nothing() -> None:
    rows = [
        Row("lm-eval, twice", 10.0, 5.0, 5.0, 2_000_000, 3 * 10**12, 2**30, ratio=1.0),
        Row("ours | all", 2.0, 1.0, 1.0, 1_000_000, 10**12, 2**29, ratio=5.0, disagreement=results.Disagreement(1e-6)),
        Row("broken", note="killed, most likely for memory"),
    ]
    text = tables.comparison(rows)
    header, _, first, second, third = text.splitlines()[:5]
    assert "of allowed" not in header
    assert first.startswith("| lm-eval, twice | 10 | 1.00 |")
    assert second.startswith("| ours \\| all | 2 | 5.00 |")
    assert "1.0e-06 | 0 (0)" in second
    assert third.startswith("| broken | failed |")
    assert text.endswith("- broken: killed, most likely for memory")
    assert {line.count("|") for line in (header, first, third)} == {header.count("|")}


def test_the_chart_is_well_formed_and_shows_every_ratio() -> None:
    drawn = tables.chart({"a < b": [Row("x & y", 1.0, ratio=2.5), Row("broken", note="no")]}, "one & only")
    root = ElementTree.fromstring(drawn)  # noqa: S314  # our own text
    texts = [element.text for element in root.iter() if element.text]
    assert {"a < b", "x & y", "2.5×", "one & only"} <= set(texts)


def test_only_leaves_what_was_named() -> None:
    everything = Wanted.of([])
    assert (len(everything.workloads), len(everything.scenarios), len(everything.alternatives)) == (4, 4, 8)
    some = Wanted.of(["mmlu", "plain", "all"])
    assert (some.workloads, some.scenarios, some.alternatives) == (("mmlu",), (), ("plain", "all"))
    assert Wanted.of(["candidates"]).measured == {"mmlu", "gsm8k"}
    with pytest.raises(SystemExit, match="known are mmlu"):
        Wanted.of(["mmul"])


def test_a_job_survives_json(tmp_path: Path) -> None:
    ask = Ask("t/0", "generate_until", ("p", {"until": ["\n"], "max_gen_toks": 4}), 0)
    job = Job("ours", "m", (("base", None), ("c", "folder")), (ask,), options={"draft": False}, batch_size="auto")
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


@pytest.mark.slow
def test_lm_eval_and_ours_are_measured_alike_in_processes_of_their_own(tiny: Any) -> None:
    arms = (("base", None), ("adapter", str(tiny.adapter())))
    asks = [Ask(f"t/{n}", "loglikelihood", (f"Question {n}:", f" {word}"), i)
            for n in range(3) for i, word in enumerate(("red", "green and blue"))]  # fmt: skip
    asks += [Ask(f"g/{n}", "generate_until", (f"Once {n}", {"until": ["\n"], "max_gen_toks": 8}), 0) for n in range(2)]
    job = Job("ours", str(tiny.model()), arms, tuple(asks), threads=1, keep=True)
    ours = jobs.run(job)
    assert not ours.failure
    for arm in arms:
        theirs = jobs.run(Job("lm-eval", str(tiny.model()), (arm,), tuple(asks), batch_size=4, threads=1))
        assert not theirs.failure
        gap = results.disagreement(asks, theirs.arms[arm[0]].answers, ours.arms[arm[0]].answers)
        assert gap.logprob < 1e-4
        assert (gap.picks, gap.texts) == (0, 0)
        assert theirs.arms[arm[0]].size == ours.arms[arm[0]].size
        assert theirs.arms[arm[0]].work.tokens > 0
    warm = jobs.run(Job("ours", str(tiny.model()), arms, tuple(asks), threads=1,
                        warm={"base": ours.arms["base"].outputs}))  # fmt: skip
    assert warm.arms["base"].work.tokens == 0
    assert warm.arms["adapter"].answers == ours.arms["adapter"].answers


def test_a_process_that_fails_says_why() -> None:
    result = jobs.run(Job("lm-eval", "/nonexistent", (("base", None),), (), batch_size=1, threads=1), limit=0.2)
    assert result.failure == "not finished within 0 s"


@pytest.fixture
def data() -> Path:
    folder = Path(os.environ.get("HARNESS_DATA", "/nonexistent"))
    if not (folder / "benchmarks" / "mmlu").is_dir():
        pytest.skip("HARNESS_DATA does not name the folder with the public benchmark files")
    return folder


@pytest.mark.slow
@pytest.mark.data
def test_mmlu_is_asked_five_shot_as_published(data: Path) -> None:
    """Against prompts put together here from the files, and not by lm-eval."""
    asks = workloads.mmlu(data, ["high_school_biology"], 3)
    folder = data / "benchmarks" / "mmlu"
    with (folder / "dev" / "high_school_biology_dev.csv").open(newline="") as file:
        shots = list(csv.DictReader(file))
    with (folder / "test" / "high_school_biology_test.csv").open(newline="") as file:
        questions = list(csv.DictReader(file))[:3]

    def shown(row: dict[str, str]) -> str:
        return row["question"].strip() + "".join(f"\n{'ABCD'[i]}. {row[f'choice{i}']}" for i in range(4)) + "\nAnswer:"

    head = "The following are multiple choice questions (with answers) about high school biology.\n\n"
    head += "".join(f"{shown(row)} {'ABCD'[int(row['answer'])]}\n\n" for row in shots)
    expected = [(head + shown(row), f" {letter}") for row in questions for letter in "ABCD"]
    assert [ask.arguments for ask in asks] == expected
    assert [ask.sample for ask in asks[::4]] == [f"mmlu_high_school_biology/{n}" for n in range(3)]


@pytest.mark.slow
@pytest.mark.data
def test_the_other_workloads_are_what_their_names_say(data: Path) -> None:
    sizes = workloads.Sizes(1, 1, 2, 2, 2, 33)
    made = {w.name: workloads.build(w, data, sizes) for w in workloads.WORKLOADS[1:]}
    assert len(workloads.samples_of(made["truthfulqa"])) == 2
    assert len(made["truthfulqa"]) > 4
    assert {ask.arguments[1]["max_gen_toks"] for name in ("gsm8k", "ifeval") for ask in made[name]} == {33}
    assert made["gsm8k"][0].arguments[0].count("\nAnswer:") == 6
    assert made["ifeval"][0].arguments[1]["until"] == []
